"""What every distillation method is: one named term of the loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn


@dataclass
class NetworkOutput:
    """What one network gave for a batch.

    Attributes:
        logits: (B, C).
        features: feature tensors by the name under which a method asked for them.
    """

    logits: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)


class Method(nn.Module):
    """One term of the distillation loss.

    A subclass says in ``needs`` which feature roles it reads (``"pooled"``, ``"last"``, ``"stage1"``, … — the keys of
    a model's ``feature_layers``), and in ``uses_temperature`` whether the temperature acts on it. Trainable parts
    whose shapes depend on the networks are built in :meth:`build`.

    Args:
        weight: factor of this term in the total loss.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    uses_temperature: ClassVar[bool] = False

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def build(self, student: NetworkOutput, teacher: NetworkOutput) -> None:
        """Create the parts whose shapes the networks decide, from the outputs on one example batch."""

    def forward(
        self,
        student: NetworkOutput,
        teacher: NetworkOutput,
        target: Tensor,
        temperature: Tensor,
        index: Tensor | None = None,
    ) -> Tensor:
        """The unweighted loss of this term, a scalar."""
        raise NotImplementedError
