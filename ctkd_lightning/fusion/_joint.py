"""A head over the features of all modalities: one more expert."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ctkd_lightning.errors import UserError, check_number


class JointHead(nn.Module):
    """Scores of all modalities' features together; a missing one's are zeros, and the head is told which are there.

    Args:
        widths: from a modality's name to the width of its feature vectors.
        num_classes: C.
        hidden: width of the hidden layer.
        dropout: between the two layers.

    Raises:
        UserError: a width that is no positive number.
    """

    def __init__(self, widths: Mapping[str, int], num_classes: int, hidden: int = 128, dropout: float = 0.2) -> None:
        super().__init__()
        for name, width in widths.items():
            check_number(f"joint's width of {name!r}", width, least=1, whole=True)
        self.widths = dict(widths)
        self.layers = nn.Sequential(
            nn.Linear(sum(self.widths.values()) + len(self.widths), hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, num_classes),
        )

    def forward(self, features: Sequence[Tensor], there: Tensor) -> Tensor:
        """Scores (N, C).

        Args:
            features: (N, width) of each modality, in the order of the widths; zeros where it is missing.
            there: (N, number of these), bool.
        """
        read = torch.cat([*features, there.to(features[0].dtype)], dim=-1)
        scores: Tensor = self.layers(read.to(next(self.parameters()).dtype))
        return scores


def need_features(features: Mapping[str, Tensor] | None, widths: Mapping[str, int], rows: int) -> Mapping[str, Tensor]:
    """The features that a head was made for.

    Raises:
        UserError: one is missing, or has another shape.
    """
    features = features or {}
    for name, width in widths.items():
        if name not in features:
            raise UserError(
                f"the joint head reads features of {', '.join(widths)}, found {', '.join(features) or 'none'}: pass "
                f"features={{{name!r}: …, …}} beside the scores"
            )
        if features[name].shape != (rows, width):
            raise UserError(
                f"the joint head was made for features ({rows}, {width}) of {name!r}, found "
                f"{tuple(features[name].shape)}: pass vectors, or give their width in joint={{{name!r}: …}}"
            )
    return features
