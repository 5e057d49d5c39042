"""What networks of other libraries get, so that they can be read like those of the zoo."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from ctkd_lightning.errors import UserError
from ctkd_lightning.models.head import find_classifier


class ClassifierInput(nn.Module):
    """A named place for the vector that the classifier reads, where the network itself has none.

    It adds nothing to the state dict and changes nothing; a hook on it sees the pooled features (B, D).
    """

    def forward(self, x: Tensor) -> Tensor:
        """The input itself."""
        return x

    def watch(self, classifier: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The classifier's forward pre-hook. A bound method, so that copies of the network call their own copy."""
        return (self(inputs[0]), *inputs[1:])


def name_features(
    model: nn.Module, stages: Iterable[str], stem: str | None = None, classifier_layer: str | None = None
) -> None:
    """Give a network ``feature_layers`` and ``classifier_layer``, as :class:`~ctkd_lightning.models.base.ZooModel` has.

    Args:
        model: the network, changed in place.
        stages: dotted names of the layers that become ``stage1``, ``stage2``, …
        stem: the name of the layer that becomes ``stem``.
        classifier_layer: the name of the layer that gives the logits; None looks for it.
    """
    roles = {"stem": stem} if stem else {}
    roles |= {f"stage{number}": name for number, name in enumerate(stages, start=1)}
    classifier_layer = classifier_layer or find_classifier(model)
    classifier = model.get_submodule(classifier_layer)
    if isinstance(classifier, nn.Linear):
        model.pooled = ClassifierInput()
        classifier.register_forward_pre_hook(model.pooled.watch)
        roles["pooled"] = "pooled"
    # nn.Module types what is assigned to it as a tensor or a module
    model.__dict__.update(feature_layers=roles, classifier_layer=classifier_layer)


@contextmanager
def explained_download(name: str) -> Iterator[None]:
    """Turn a failed download into one line.

    Raises:
        UserError: naming the model and what to do without a network.
    """
    try:
        yield
    except OSError as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"the weights of {name} are neither cached nor could they be downloaded ({reason}); connect once, or pass "
            "pretrained=False and load a file of them with load_weights"
        ) from error
