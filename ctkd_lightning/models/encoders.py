"""Small networks from one modality to the scores of classes: of vectors and of series."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ctkd_lightning.errors import UserError, check_number


class VectorEncoder(nn.Module):
    """Vectors (or anything, flattened) to scores, through hidden layers or none.

    Args:
        shape: of one sample.
        num_classes: C.
        hidden: widths of the hidden layers, each a linear layer, batch normalisation and ReLU; none: a linear
            classifier.
        dropout: before the last layer.

    Example:
        >>> VectorEncoder((8,), 10, hidden=[32])(torch.zeros(2, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self, shape: Sequence[int], num_classes: int, hidden: Sequence[int] = (), dropout: float = 0.0
    ) -> None:
        super().__init__()
        check_number("an encoder's dropout", dropout, least=0, below=1)
        layers: list[nn.Module] = [nn.Flatten()]
        width = math.prod(shape)
        for size in hidden:
            check_number("an encoder's hidden width", size, least=1, whole=True)
            layers += [nn.Linear(width, size), nn.BatchNorm1d(size), nn.ReLU()]
            width = size
        self.body = nn.Sequential(*layers, *([nn.Dropout(dropout)] if dropout else []))
        self.head = nn.Linear(width, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """What the last layer reads, (B, D), of (B, *shape)."""
        found: Tensor = self.body(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Scores (B, C) of (B, *shape)."""
        scores: Tensor = self.head(self.features(x))
        return scores


class SeriesEncoder(nn.Module):
    """Series (B, channels, T) to scores: three strided convolutions and the mean over time.

    Args:
        shape: (channels, T) of one sample; T may differ in use.
        num_classes: C.
        width: channels of the first two convolutions; the third has twice as many.

    Raises:
        UserError: samples of another number of dimensions.

    Example:
        >>> SeriesEncoder((3, 100), 7)(torch.zeros(2, 3, 100)).shape
        torch.Size([2, 7])
    """

    def __init__(self, shape: Sequence[int], num_classes: int, width: int = 32) -> None:
        super().__init__()
        if len(shape) != 2:
            raise UserError(
                f"a SeriesEncoder takes samples (channels, T), found the shape {tuple(shape)}: take encoders=vector or "
                "linear"
            )
        check_number("an encoder's width", width, least=1, whole=True)
        sizes = [(shape[0], width, 7), (width, width, 5), (width, 2 * width, 5)]
        self.body = nn.Sequential(
            *(
                layer
                for inputs, outputs, kernel in sizes
                for layer in (
                    nn.Conv1d(inputs, outputs, kernel, stride=2, padding=kernel // 2, bias=False),
                    nn.BatchNorm1d(outputs),
                    nn.ReLU(),
                )
            )
        )
        self.head = nn.Linear(2 * width, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """What the last layer reads, (B, D), of (B, channels, T)."""
        return torch.mean(self.body(x), dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        """Scores (B, C) of (B, channels, T)."""
        scores: Tensor = self.head(self.features(x))
        return scores
