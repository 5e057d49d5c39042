"""Where a classifier has its last layer."""

from __future__ import annotations

from torch import nn


def find_classifier(model: nn.Module) -> str:
    """The dotted name of the layer that gives the logits.

    That is the model's own ``classifier_layer``, else its last linear layer, else (where there is none, as in
    SqueezeNet) its last convolution; the empty string where it has neither.

    Example:
        >>> find_classifier(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 10), nn.Dropout()))
        '2'
    """
    own = getattr(model, "classifier_layer", None)
    if isinstance(own, str):
        return own
    for kind in (nn.Linear, nn.Conv2d):
        names = [name for name, layer in model.named_modules() if isinstance(layer, kind)]
        if names:
            return names[-1]
    return ""
