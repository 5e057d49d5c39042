"""The distillation loss of a student's calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ctkd_lightning.callbacks.logits import MissingTarget, find_target, pick_from_batch, pick_logits
from ctkd_lightning.callbacks.plugin.calls import Call
from ctkd_lightning.errors import UserError
from ctkd_lightning.frozen import FrozenNetwork
from ctkd_lightning.methods import KD, Method, NetworkOutput, Step, kd_loss
from ctkd_lightning.temperature import Softening, Temperature


@dataclass(frozen=True)
class Pickers:
    """Where logits, target and mask are; as in :class:`~ctkd_lightning.CurriculumTemperatureCallback`."""

    student_logits: Callable[[Any], Tensor] | None = None
    teacher_logits: Callable[[Any], Tensor] | None = None
    target: Callable[[Any], Any] | None = None
    mask: Callable[[Any], Any] | None = None
    class_dim: int = -1


class Distiller(nn.Module):
    """The teacher, the temperature and the method: from the student's calls to the weighted distillation loss.

    As a child of a LightningModule it moves and is synchronised with it, and takes no part in its state dict, in
    either direction.

    Args:
        teacher: takes what the student takes.
        temperature: of the distillation.
        method: a term that reads logits alone.
        pickers: where logits, target and mask are.
    """

    def __init__(self, teacher: FrozenNetwork, temperature: Temperature, method: Method, pickers: Pickers) -> None:
        super().__init__()
        self.teacher, self.temperature, self.method = teacher, temperature, method
        self.pickers = pickers
        self._running = _RunningLoss()

    def forward(self, calls: list[Call], batch: Any) -> Tensor:
        """The weighted loss, a scalar: the mean over the calls that have gradients."""
        logits = [pick_logits(call.output, self.pickers.student_logits, "student") for call in calls]
        trained = [(call, student) for call, student in zip(calls, logits, strict=True) if student.requires_grad]
        if not trained:
            raise UserError(
                "the student's logits have no gradient: take detach() and no_grad() off its call in training_step, or "
                "name with student= the network that is trained"
            )
        targets, masks = self._entries("target", batch, len(trained)), self._entries("mask", batch, len(trained))
        losses = []
        for (call, student), target, mask in zip(trained, targets, masks, strict=True):
            teacher = self._run_teacher(call, student)
            found = find_target(batch, student, self.pickers.class_dim) if target is None else target
            losses.append(self._loss(student, teacher, found, mask))
        loss = losses[0] if len(losses) == 1 else torch.stack(losses).mean()
        self._running.add(loss)
        return self.method.weight * loss

    def _entries(self, what: str, batch: Any, calls: int) -> list[Tensor] | list[None]:
        picker = getattr(self.pickers, what)
        return [None] * calls if picker is None else pick_from_batch(batch, picker, what, calls)

    def _run_teacher(self, call: Call, student: Tensor) -> Tensor:
        arguments = call.arguments
        output = self.teacher(*arguments.args, **arguments.kwargs)
        teacher = pick_logits(output, self.pickers.teacher_logits, "teacher")
        _check_shapes(student, teacher, self.pickers.class_dim)
        self._running.watch(teacher)
        return teacher

    def _loss(self, student: Tensor, teacher: Tensor, target: Tensor | MissingTarget, mask: Tensor | None) -> Tensor:
        student, teacher = (x.movedim(self.pickers.class_dim, -1) for x in (student, teacher))
        if type(self.method) is KD:  # takes the mask itself, which saves waiting for the device
            tau = self.temperature(student, teacher)
            return kd_loss(student, teacher, tau.squeeze(-1) if tau.ndim > 2 else tau, mask=mask)
        kept = slice(None) if mask is None else mask.flatten().bool()
        student, teacher = (x.flatten(0, -2)[kept] for x in (student, teacher))
        if isinstance(target, Tensor):
            target = target.flatten()[kept]
        tau = self.temperature(student, teacher)
        step = Step(target if isinstance(target, Tensor) else None)
        return self.method(NetworkOutput(student), NetworkOutput(teacher), step, Softening.at(tau, student))

    def collect(self) -> Tensor | None:
        """The mean of the unweighted loss since the last call, None where there was no step; waits for the device.

        Raises:
            UserError: the teacher gave logits that are not finite.
        """
        mean, self._running = self._running.mean(), _RunningLoss()
        return mean

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Nothing: the checkpoint is to be that of the plain module."""
        return args[0] if args else kwargs.get("destination", {})

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: Any, strict: bool, *lists: Any
    ) -> None:
        # A strict load asks the children for their entries: give them what they have.
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, *lists)
        state_dict.update({prefix + name: value for name, value in super().state_dict().items()})

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        # Copies are made for weight averages: the teacher and the temperature are no part of them.
        return nn.Module()


class _RunningLoss:
    """Sum losses on their device, and see whether the teacher was ever not finite, without waiting for it."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._poison: Tensor | None = None
        self._steps = 0

    def watch(self, teacher: Tensor) -> None:
        """Add up 0 × the logits: that becomes NaN, and stays so, where any of them is NaN or infinite."""
        if self._poison is None:
            self._poison = 0.0 * teacher.sum(dtype=torch.float32)
            self._check()  # waits once, so that weights that are broken are told before they do harm
        else:
            self._poison.add_(teacher.sum(dtype=torch.float32), alpha=0.0)

    def add(self, loss: Tensor) -> None:
        """Count a step."""
        self._sum = loss.detach().clone() if self._sum is None else self._sum.add_(loss.detach())
        self._steps += 1

    def mean(self) -> Tensor | None:
        """The mean over the steps."""
        self._check()
        return None if self._sum is None else self._sum / self._steps

    def _check(self) -> None:
        if self._poison is not None and not torch.isfinite(self._poison):
            raise UserError(
                "the teacher gave logits that are NaN or infinite: check its weights, the normalisation of its input "
                "and, under float16, its range (precision='bf16-mixed' has that of float32)"
            )


def _check_shapes(student: Tensor, teacher: Tensor, class_dim: int) -> None:
    if student.shape == teacher.shape:
        return
    shapes = f"student logits have shape {tuple(student.shape)}, the teacher's {tuple(teacher.shape)}"
    if student.ndim == teacher.ndim and student.shape[class_dim] != teacher.shape[class_dim]:
        raise UserError(
            f"the student scores {student.shape[class_dim]} classes and the teacher {teacher.shape[class_dim]} "
            f"({shapes}): take a teacher of the same classes, pick them with teacher_logits=lambda output: …, or say "
            "where the classes are with class_dim="
        )
    raise UserError(
        f"{shapes}: both must score the same positions; bring them together with student_logits= or teacher_logits="
    )
