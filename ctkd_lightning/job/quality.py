"""How often a classifier is right, how well it knows that, and how closely it follows its teacher."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot
from torchmetrics.functional import kl_divergence
from torchmetrics.functional.classification import binary_calibration_error

from ctkd_lightning.modules._accuracy import TopKAccuracy

BINS = 15
"""Of the calibration error, equally wide."""


@dataclass
class Quality:
    """Of a classifier on N samples; ``None`` where its logits are not all finite.

    Attributes:
        top1: accuracy, percent.
        top5: likewise, of its five likeliest classes.
        nll: negative log-likelihood of the true class, mean over the samples, nats.
        ece: expected calibration error, Σ_b n_b/N · |accuracy_b − confidence_b| over 15 equal bins of the confidence,
            0 to 1 (Guo et al., ICML 2017, https://arxiv.org/abs/1706.04599).
        brier: Σ_c (p_c − y_c)², mean over the samples, 0 to 2 (Brier 1950).
    """

    top1: float
    top5: float
    nll: float | None
    ece: float | None
    brier: float | None


@dataclass
class Agreement:
    """Of a classifier with its teacher.

    Attributes:
        top1: the share of samples for which both guess the same class, percent.
        kl: KL(teacher ‖ classifier) at τ = 1, mean over the samples, nats; ``None`` where logits are not finite.
    """

    top1: float
    kl: float | None


def quality(logits: Tensor, target: Tensor) -> Quality:
    """Measure a classifier.

    Args:
        logits: (N, C).
        target: (N,), int64.
    """
    top1, top5 = (float(TopKAccuracy(k)(logits, target)) for k in (1, 5))
    if not logits.isfinite().all():
        return Quality(top1, top5, None, None, None)
    logits, classes = logits.double(), logits.shape[1]
    probabilities = logits.softmax(dim=1)
    return Quality(
        top1,
        top5,
        nll=float(cross_entropy(logits, target)),
        ece=calibration_error(*confidence(logits, target)),
        brier=float((probabilities - one_hot(target, classes)).square().sum(dim=1).mean()),
    )


def confidence(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """How sure each guess is, (N,), 0 to 1, float64, and whether it is right (N,), of finite logits (N, C)."""
    probability, guess = logits.double().softmax(dim=1).max(dim=1)
    return probability, guess == target


def calibration_error(confidence: Tensor, right: Tensor) -> float:
    """The expected calibration error of :func:`confidence`, 0 to 1, as :class:`Quality` says."""
    return float(binary_calibration_error(confidence, right.long(), n_bins=BINS))


def percent(share: float | None) -> float | None:
    """A share from 0 to 1 as a reader sees it."""
    return None if share is None else 100 * share


def agreement(logits: Tensor, teacher_logits: Tensor) -> Agreement:
    """Compare a classifier with its teacher: logits (N, C) of the same samples."""
    top1 = 100.0 * float((logits.argmax(dim=1) == teacher_logits.argmax(dim=1)).double().mean())
    if not torch.stack([logits, teacher_logits]).isfinite().all():
        return Agreement(top1, None)
    teacher, student = (x.double().log_softmax(dim=1) for x in (teacher_logits, logits))
    return Agreement(top1, float(kl_divergence(teacher, student, log_prob=True)))
