"""How well maps of classes overlap."""

from __future__ import annotations

from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassJaccardIndex


class MeanIoU(Metric):
    r"""Mean intersection over union in percent: torchmetrics' ``MulticlassJaccardIndex`` of all positions together.

    .. math:: \frac{100}{C} \sum_c \frac{|P_c \cap T_c|}{|P_c \cup T_c|}

    over the classes that anything has or was given. The number of classes is that of the first logits.

    Example:
        >>> import torch
        >>> metric = MeanIoU()
        >>> metric.update(torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1, 1]))
        >>> metric.compute()
        tensor(50.)
    """

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.index: Metric | None = None

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Count a batch: logits (N, C), target (N,)."""
        if self.index is None:
            self.index = MulticlassJaccardIndex(logits.shape[-1]).to(logits.device)
        self.index.update(logits, target)

    def compute(self) -> Tensor:
        """Percent, 0 to 100."""
        assert self.index is not None  # torchmetrics warns of a computation without an update
        value: Tensor = 100.0 * self.index.compute()
        return value

    def reset(self) -> None:
        """Begin anew."""
        super().reset()
        if self.index is not None:
            self.index.reset()
