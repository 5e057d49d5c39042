"""Several teachers of one student are several modalities: their scores are fused with a temperature each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast, get_args

from torch import Tensor, nn

from ctkd_lightning._scores.checks import check_finite, check_kind
from ctkd_lightning._scores.scores import Scores
from ctkd_lightning._scores.task_loss import task_loss
from ctkd_lightning.errors import UserError, suggest
from ctkd_lightning.features.outputs import Step
from ctkd_lightning.fusion.fusion import FusionKind, TemperatureFusion
from ctkd_lightning.temperature._base import LearnedTemperature

TeacherFusion = FusionKind | TemperatureFusion
"""How the scores of several teachers are fused."""

FUSION = "teacher_fusion"
"""The name of the loss with which their temperatures are learned."""


def fusion_of(teacher: nn.Module, how: TeacherFusion | None, scores: Scores) -> TemperatureFusion | None:
    r"""The fusion of several teachers' scores; ``None`` for one teacher.

    A product of experts whose 1/τ sum to 1, a weighted geometric mean:

    .. math:: \log p = \log\mathrm{softmax} \sum_m \frac{1}{\tau_m} \log\mathrm{softmax}(z_m), \qquad
        \sum_m \frac{1}{\tau_m} = 1

    All τ are the number of teachers, for good (``"fixed"``) or at the start. What the temperatures can learn is whom to
    believe, and not how surely: the teachers may have been trained on the very samples that these learn from, and are
    right there, so that they would become as sure as can be, and nothing but the label were left to distil. How far
    the teachers are softened is for the temperature of the distillation.

    Args:
        teacher: as :func:`~ctkd_lightning.features.teachers.named_teachers` gives it.
        how: ``"instance"`` by default.
        scores: what the engine was told of both networks' scores.

    Raises:
        UserError: one teacher and a way to fuse it; a fusion that is none, or of others than these teachers.
    """
    if not isinstance(teacher, nn.ModuleDict):
        if how is not None:
            raise UserError(
                'teacher_fusion says how several teachers are fused, and there is one: pass teacher={"a": …, "b": …}, '
                "or leave teacher_fusion out"
            )
        return None
    names = list(teacher.keys())
    if isinstance(how, TemperatureFusion):
        return _checked(how, names, scores)
    kinds = get_args(FusionKind)
    if how is not None and how not in kinds:
        raise UserError(f"teacher_fusion is {how!r}: {suggest(str(how), kinds)}")
    return TemperatureFusion(
        None,
        names,
        how or "instance",
        normalize=True,
        task=scores.task,
        scores=scores.kinds["teacher"],
        class_dim=scores.class_dim,
    )


def learns(fusion: TemperatureFusion | None) -> bool:
    """Whether there is a fusion whose temperatures are learned."""
    return fusion is not None and isinstance(fusion.temperature, LearnedTemperature)


def fuse(fusion: TemperatureFusion, scores: Tensor) -> Tensor:
    """What several teachers say together: log-probabilities (or logits, of single scores), with gradients for τ alone.

    Args:
        fusion: of the teachers.
        scores: (B, M, …), of frozen networks.
    """
    fused, _ = fusion(_each(fusion, scores))
    return cast(Tensor, fused)


def fusion_loss(scores: Scores, fused: Tensor, given: Step, canonical: Step) -> Tensor:
    """The loss that learned temperatures lower: the cross-entropy of the fused teachers with the target.

    Args:
        scores: what they mean.
        fused: (..., C).
        given: what the batch says.
        canonical: the same as class indices and with the mask of ignored targets.

    Raises:
        UserError: there is no target.
    """
    if given.target is None:
        raise UserError(
            "the temperatures of several teachers are learned from targets, and this step has none: pass them (the "
            "ignore_index for samples without a label), or take teacher_fusion='fixed'"
        )
    return task_loss(scores, fused, given.target, canonical.target, canonical.mask)


def refuse_features(methods: Sequence[str], layers: Mapping[str, str] | None) -> None:
    """Several teachers have no features in common.

    Args:
        methods: names of those that read some.
        layers: ``teacher_layers``.

    Raises:
        UserError: there are any.
    """
    if methods or layers:
        who = f"method {methods[0]} reads" if methods else "teacher_layers name"
        raise UserError(
            f"{who} features of the teacher, and several teachers have scores alone: take methods of logits, such as "
            "KD and DKD, or one teacher"
        )


def check_each(fusion: TemperatureFusion, scores: Tensor, mask: Tensor | None, class_dim: int | None) -> None:
    """Look at each teacher as the engine does at one.

    Raises:
        UserError: scores that are not finite, or not what they were announced as, naming the teacher.
    """
    for name, values in _each(fusion, scores).items():
        announced = Scores(fusion.scores.task, {"teacher": fusion.scores.kinds[name]}, class_dim)
        logits = announced.logits(values, "teacher", class_dim)
        try:
            check_finite(logits, logits, mask)
            check_kind(announced, "teacher", values, mask, class_dim)
        except UserError as error:
            raise UserError(f"of the teachers {name!r}: {error}") from error


def _each(fusion: TemperatureFusion, scores: Tensor) -> dict[str, Tensor]:
    return dict(zip(fusion.modalities, scores.unbind(dim=1), strict=True))


def _checked(fusion: TemperatureFusion, names: list[str], scores: Scores) -> TemperatureFusion:
    if list(fusion.modalities) != names:
        raise UserError(
            f"teacher_fusion is of {', '.join(fusion.modalities)}, and the teachers are {', '.join(names)}: give both "
            "the same names in the same order"
        )
    if fusion.joint is not None or getattr(fusion.temperature, "context", None):
        raise UserError("teacher_fusion reads features (joint=, context=), and of teachers there are scores alone")
    if fusion.scores.task != scores.task:
        raise UserError(f"teacher_fusion is of task {fusion.scores.task!r}, and the distillation of {scores.task!r}")
    if scores.kinds["teacher"] != "logits" and set(fusion.scores.kinds.values()) != {scores.kinds["teacher"]}:
        raise UserError(
            "what the teachers' scores are the TemperatureFusion knows: pass it scores=, leave the teacher's out here"
        )
    return fusion
