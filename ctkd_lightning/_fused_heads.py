"""Two networks that are run without their last layers: KD and cross-entropy without the logits of either."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctkd_lightning._across_processes import processes, shares, weighed
from ctkd_lightning._masks import entries
from ctkd_lightning._modes import evaluating
from ctkd_lightning.features._asking import StudentCall
from ctkd_lightning.features._linear_head import LinearHead, is_linear_head
from ctkd_lightning.features.outputs import NetworkOutput, Step
from ctkd_lightning.methods import KD, linear_kd_loss, linear_losses
from ctkd_lightning.temperature import (
    FixedTemperature,
    GlobalTemperature,
    RecordedTemperature,
    ScheduledTemperature,
    Temperature,
)

if TYPE_CHECKING:
    from ctkd_lightning.distillation import Distillation

_LOOKED_AT = 2**22
"""Logits of the first batch that are made to be checked."""

_READ_NO_LOGITS = (FixedTemperature, GlobalTemperature, RecordedTemperature, ScheduledTemperature)


class FusedHeads:
    """The losses of an engine whose only term is KD, from what the networks' last linear layers read.

    See :func:`~ctkd_lightning.methods.linear_losses`. :meth:`why_not` says whether the engine's are such.

    Args:
        engine: with a student and a teacher, or a store of texts in its place.
    """

    def __init__(self, engine: Distillation) -> None:
        self._engine = engine
        self.student, self.teacher = LinearHead(cast(nn.Module, engine.student)), LinearHead(engine.teacher.network)

    def why_not(self, inputs: Tensor) -> str | None:
        """What stands in the way; ``None`` where nothing does.

        Args:
            inputs: some that the student takes; both networks are run once, in eval mode.
        """
        engine = self._engine
        if [type(method) for method in engine.terms.values()] != [KD]:
            return f"the method is {'+'.join(engine.terms)}, and KD alone is made of hidden states"
        if any(method.full_weight == 0 for method in engine.terms.values()):
            return "KD has no weight"
        temperature = engine.temperature
        if type(temperature) not in _READ_NO_LOGITS:
            return f"{type(temperature).__name__} reads logits"
        if engine.learns_from_held_out:
            return "objective='held_out' reads logits"
        if engine.scores.task != "multiclass" or set(engine.scores.kinds.values()) != {"logits"}:
            return "the scores are no logits of classes"
        if engine.teacher_fusion is not None or (engine.asks_otherwise and not engine.has_store):
            return "the teacher is several networks, or asked in a way of its own"
        if engine.cached_teacher is not None and not engine.has_store:
            return "the teacher's outputs are cached"
        runs = {"student": (self.student, engine.run_student)}
        if not engine.has_store:
            runs["teacher"] = (self.teacher, engine.run_teacher)
        for role, (head, tap) in runs.items():
            assert tap is not None
            with evaluating(tap.network):
                if not is_linear_head(head, lambda tap=tap: tap(inputs).logits):  # type: ignore[misc]
                    return f"the {role}'s logits are not those of its last linear layer"
        return None

    def losses(self, inputs: Tensor, batch: Any, step: Step) -> dict[str, Tensor]:
        """The losses of a step, by name, as those of :meth:`ctkd_lightning.Distillation.losses`.

        Args:
            inputs: what the student takes.
            batch: in which a store's texts are looked up.
            step: as there; its target class indices, or none.
        """
        engine, call = self._engine, StudentCall((inputs,), {})
        teacher = self._teacher(call, batch)
        with self.student.left_out():
            hidden = engine.run(inputs).logits
        head = cast(nn.Linear, self.student.layer)
        positions = hidden.shape[:-1]
        mask, classes = engine.mask_of(step, positions), engine.scores.classes(step.target, positions)
        if engine.has_not_looked:
            self._look(hidden, teacher, step, mask)
        (name, method), *_ = engine.terms.items()
        temperature = cast(Temperature, engine.temperature)
        of_both: dict[str, Any] = {"student_bias": head.bias, "mask": mask, **teacher}
        softening = temperature.soften(hidden, hidden)  # which it does not read
        if classes is None:
            kd = linear_kd_loss(hidden, head.weight, softening, **of_both)
            found = {"loss": method.weight * kd, name: kd.detach()}
        else:
            of_both |= {"kd_weight": float(method.weight), "ce_weight": engine.ce_weight}
            losses = linear_losses(hidden, head.weight, softening, classes, **of_both)
            found = {"loss": losses["loss"], "ce": losses["ce"], name: losses["kd"]}
        if engine.methods.training and processes() > 1:
            (share,) = shares(entries(mask, positions, hidden.device))
            return {key: weighed(loss, share) for key, loss in found.items()}
        return found

    def _teacher(self, call: StudentCall, batch: Any) -> dict[str, Any]:
        """What :func:`linear_losses` is given of the teacher."""
        if (stored := self._engine.stored(call, batch)) is not None:
            return {"teacher_store": stored}
        with self.teacher.left_out():
            hidden = self._engine.ask(call, batch).logits
        layer = cast(nn.Linear, self.teacher.layer)
        return {"teacher_hidden": hidden, "teacher_weight": layer.weight, "teacher_bias": layer.bias}

    @torch.no_grad()
    def _look(self, hidden: Tensor, teacher: dict[str, Any], step: Step, mask: Tensor | None) -> None:
        """Check the first batch, by as many of its samples as may have all their logits."""
        head = cast(nn.Linear, self.student.layer)
        count = max(1, _LOOKED_AT * len(hidden) // max(1, hidden.shape[:-1].numel() * head.out_features))
        if (stored := teacher.get("teacher_store")) is not None:
            guide = stored.first(count).logits()
        else:
            guide = F.linear(teacher["teacher_hidden"][:count], teacher["teacher_weight"], teacher["teacher_bias"])
        target, kept = (None if x is None else x[:count] for x in (step.target, mask))
        own = F.linear(hidden[:count], head.weight, head.bias)
        self._engine.look(NetworkOutput(own), NetworkOutput(guide), Step(target, None, kept))
