"""The engine on the student's calls of a foreign training step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ctkd_lightning._scores.batches import find_index
from ctkd_lightning.callbacks.plugin.calls import Call
from ctkd_lightning.callbacks.plugin.next_token_targets import NextTokenTargets
from ctkd_lightning.callbacks.plugin.target import TargetFinder
from ctkd_lightning.detection import DetectorPair
from ctkd_lightning.distillation import Distillation
from ctkd_lightning.errors import UserError
from ctkd_lightning.features._asking import StudentCall
from ctkd_lightning.features.outputs import NetworkOutput, Step, brought_features, pick_logits

Picker = Callable[[Any], Any]


@dataclass(frozen=True)
class Pickers:
    """Where target, mask and index are; as in :class:`~ctkd_lightning.CurriculumTemperatureCallback`."""

    target: Picker | None = None
    mask: Picker | None = None
    index: Picker | None = None


class Distiller:
    """From the student's calls to the weighted distillation loss.

    Args:
        engine: without a student of its own.
        pickers: what the user says of the batch.
        built: called when the methods have made their own parts, at the first call; ``None`` if they have them.
        detectors: what the networks are, if they are detectors: these say what is known of their scores, not the batch.
    """

    def __init__(
        self,
        engine: Distillation,
        pickers: Pickers,
        built: Callable[[], None] | None,
        detectors: DetectorPair | None = None,
    ) -> None:
        self.engine, self.pickers, self.detectors = engine, pickers, detectors
        self._tell_built = built
        self._reads_index = pickers.index is None and bool(engine.needs)
        self._targets = TargetFinder(engine.scores, engine.ignore_index, pickers.mask is not None)
        self._next_tokens = NextTokenTargets(engine.ignore_index)

    @property
    def asks_of_batch(self) -> bool:
        """Whether the teacher is asked what ``teacher_input`` finds in the batch."""
        return self.engine.picks_teacher_input

    def __call__(self, calls: list[Call], batch: Any, untouched: Any = None) -> Tensor:
        """The weighted loss, a scalar: of each term the mean over the calls that have gradients.

        Args:
            calls: of the step.
            batch: as the step left it.
            untouched: the same as it came, for the teacher; the batch by default.

        Raises:
            UserError: none has; and what the engine refuses.
        """
        engine = self.engine
        outputs = [self._output(call) for call in calls]
        trained = [pair for pair in zip(calls, outputs, strict=True) if pair[1].logits.requires_grad]
        if not trained:
            raise UserError(
                "the student's logits have no gradient: take detach() and no_grad() off its call in training_step, or "
                "name with student= the network that is trained"
            )
        detectors = self.detectors
        steps = [Step()] * len(trained) if detectors is not None else self._steps(batch, trained)
        terms, came = [], batch if untouched is None else untouched
        for (call, student), step in zip(trained, steps, strict=True):
            teacher = engine.ask(self._asked(call), came)
            if detectors is not None:
                step = detectors.step(call.output, teacher)
            if self._tell_built is not None:
                engine.build_methods(student, teacher, step, batch)
                self._tell_built()
                self._tell_built = None
            terms.append(engine.terms_of(student, teacher, step, batch))
        means = terms[0]
        if len(terms) > 1:
            means = {name: torch.stack([each[name] for each in terms]).mean() for name in means}
        engine.record.add(means, engine.samples(trained[-1][1]))
        return engine.weigh(means)

    def _asked(self, call: Call) -> StudentCall:
        """What the teacher is asked about."""
        if self.detectors is not None and self.detectors.ask is None:  # its places and images, in whatever came of them
            return StudentCall((), {}, call.output)
        kept = call.arguments
        return StudentCall(kept.args, kept.kwargs, call.output)

    def _output(self, call: Call) -> NetworkOutput:
        logits = pick_logits(call.output, self.engine.student_logits, "student")
        own = brought_features(call.output)
        if call.tap is None:
            return NetworkOutput(logits, own)
        return NetworkOutput(logits, {**own, **call.features}, call.tap.classifier)

    def _steps(self, batch: Any, trained: list[tuple[Call, NetworkOutput]]) -> list[Step]:
        """What the batch says of each call's scores."""
        scores, calls = [student.logits for _, student in trained], len(trained)
        targets = self._picked("target", batch, calls)
        if self.pickers.target is None:
            targets = [self._targets.find(batch, each) for each in scores]
            if not self.engine.scores.single:
                targets = [self._next_tokens(t, call) for t, (call, _) in zip(targets, trained, strict=True)]
            if calls > 1 and all(target is None for target in targets):
                self._targets.check_parts(batch, scores, self.engine.needs_target)
        masks, indices = self._picked("mask", batch, calls), self._picked("index", batch, calls)
        if self._reads_index:
            found = find_index(batch)
            indices = [found if found is not None and len(found) == len(each) else None for each in scores]
        return [Step(*each) for each in zip(targets, indices, masks, strict=True)]

    def _picked(self, what: str, batch: Any, calls: int) -> list[Tensor | None]:
        picker = getattr(self.pickers, what)
        return [None] * calls if picker is None else [*pick_from_batch(batch, picker, what, calls)]


def pick_from_batch(batch: Any, picker: Picker, what: str, calls: int) -> list[Tensor]:
    """What a callable finds in the batch, one tensor for each of the student's calls in the step.

    Args:
        batch: the first argument of ``training_step``.
        picker: from the batch to a tensor, or to a list of them where the step calls the student several times.
        what: its argument's name, for the message.
        calls: how often the student was called.

    Raises:
        UserError: no tensor, or not one for each call.
    """
    found = picker(batch)
    entries = list(found) if isinstance(found, list | tuple) else [found]
    if len(entries) != calls or not all(isinstance(entry, Tensor) for entry in entries):
        raise UserError(
            f"{what} picked {len(entries)} × {type(entries[0]).__name__ if entries else 'nothing'} from the batch, and "
            f"the step called the student {calls} time(s): return a tensor, or a list with one for each call"
        )
    return entries
