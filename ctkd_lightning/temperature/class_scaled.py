"""LumiNet's scale and shift of each class over the batch, as a temperature."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from ctkd_lightning._across_processes import processes
from ctkd_lightning._facts import TemperatureFacts
from ctkd_lightning.features.outputs import Step, at_least_float32
from ctkd_lightning.temperature._over_batch import counted, mean_over_batch
from ctkd_lightning.temperature._rule import RuleTemperature
from ctkd_lightning.temperature._softening import Softening, masked_classes

_EPSILON = 1e-5  # the authors'


class ClassScaledTemperature(RuleTemperature):
    r"""Each class in its own standard deviations over the batch, around its own mean.

    .. math:: \frac{s_{ic} - \mu_c(s)}{\tau \sqrt{\sigma_c^2(s) + 10^{-5}}}

    with mean and (biased) variance of the class's logits over the batch's positions, and likewise of the teacher's.
    The student's gradient passes through both. Hossain et al., *LumiNet: Perception-Driven Knowledge Distillation via
    Statistical Logit Calibration*, https://arxiv.org/abs/2310.03669, built from the formula.

    The loss has no factor τ²; the authors multiply it by α², 33² to 75² by the pair of networks, which is KD's weight
    here: ``KD(weight=33**2)``.

    It reads the whole batch: the other samples, their order not. Under DDP these are the samples of all processes, so
    that what is trained is what one process would train; in evaluation those of this process. Accumulated steps are
    batches of their own. Samples that a mask leaves out, and masked classes, do not count; of a single sample all
    logits are the mean, so that nothing is left to learn from. Independent scores (``task="binary"``,
    ``"multilabel"``) have no classes, and are refused.

    Args:
        base: what gives τ; ``FixedTemperature(4.0)``, the authors' first, by default.

    Example:
        >>> logits = torch.tensor([[1.0, 6.0], [3.0, 0.0]])
        >>> softening = ClassScaledTemperature().soften(logits, logits)
        >>> softening.student, softening.student_shift
        (tensor([ 4.0000, 12.0000]), tensor([2., 3.]))
    """

    facts = TemperatureFacts(
        paper="Hossain 2023 (LumiNet)",
        url="https://arxiv.org/abs/2310.03669",
        what="in standard deviations of each class over the batch",
        student="τ σ_c(s)",
        teacher="τ σ_c(t)",
        scale="1",
        name="class_scaled",
        needs="the whole batch; scores of classes",
        breaks="a batch of one sample: the term is zero, and a warning says so",
    )

    default_tau = 4.0
    needs_classes = True
    whole_batch = True

    def soften(self, student_logits: Tensor, teacher_logits: Tensor, step: Step | None = None) -> Softening:
        """A τ and a shift for each class."""
        base = self.base.soften(student_logits, teacher_logits, step)
        if self.training and student_logits[..., 0].numel() * processes() < 2:
            warnings.warn(
                "ClassScaledTemperature: one sample has no deviation, and its term is zero in this step; take larger "
                "batches, or drop the last one of an epoch",
                stacklevel=2,
            )
        both = torch.cat([at_least_float32(student_logits), at_least_float32(teacher_logits)], dim=-1)
        counts = counted(step, student_logits).unsqueeze(-1) & ~masked_classes(both)
        both = both.masked_fill(~counts, 0.0)
        mean = mean_over_batch(both, counts, together=self.training)
        variance = mean_over_batch((both - mean).square(), counts, together=self.training)
        mean_s, mean_t = mean.chunk(2)
        sigma_s, sigma_t = (variance + _EPSILON).sqrt().chunk(2)
        one = torch.ones_like(base.scale)
        return Softening(base.student * sigma_s, base.teacher * sigma_t, one, mean_s, mean_t)
