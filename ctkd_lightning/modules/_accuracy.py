"""Accuracies in percent."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class TopKAccuracy(Metric):
    """Percentage of samples whose class is among the k highest logits.

    torchmetrics' own accuracy needs the number of classes beforehand and refuses k above it; this one takes both from
    the logits (with fewer than k classes every sample counts as right). A sample whose logits are not all finite counts
    as wrong: a network that diverged would score by how ties are broken.

    Args:
        k: how many guesses a sample has.

    Example:
        >>> accuracy = TopKAccuracy(k=1)
        >>> accuracy(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
        tensor(50.)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    correct: Tensor
    total: Tensor

    def __init__(self, k: int = 1) -> None:
        super().__init__()
        self.k = k
        self.add_state("correct", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Count a batch: logits (B, C), target (B,)."""
        guesses = logits.topk(min(self.k, logits.shape[-1]), dim=-1).indices
        found = (guesses == target.unsqueeze(-1)).any(dim=-1)
        self.correct += (found & logits.isfinite().all(dim=-1)).sum()
        self.total += target.numel()

    def compute(self) -> Tensor:
        """Percent, 0 to 100."""
        return 100.0 * self.correct / self.total


class Percent(Metric):
    """Another metric's value times 100.

    Args:
        metric: with values from 0 to 1.
    """

    full_state_update = False

    def __init__(self, metric: Metric) -> None:
        super().__init__()
        self.metric = metric

    def update(self, *args: Tensor) -> None:
        """Count a batch, as the metric does."""
        self.metric.update(*args)

    def compute(self) -> Tensor:
        """Percent, 0 to 100."""
        value: Tensor = 100.0 * self.metric.compute()
        return value

    def reset(self) -> None:
        """Begin anew."""
        super().reset()
        self.metric.reset()
