"""Attach a teacher to a LightningModule that knows nothing of distillation."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor, nn

from ctkd_lightning.callbacks.plugin.accumulation import AccumulationWatch
from ctkd_lightning.callbacks.plugin.batches import FetchedBatches, GivenBatch, remember_batches
from ctkd_lightning.callbacks.plugin.calls import Call, CallRecorder
from ctkd_lightning.callbacks.plugin.distiller import Distiller
from ctkd_lightning.callbacks.plugin.graph import calls_behind
from ctkd_lightning.callbacks.plugin.overrides import Overrides, WrappedMethod
from ctkd_lightning.callbacks.plugin.steps import DistilledSteps
from ctkd_lightning.detection import DetectorTap
from ctkd_lightning.errors import UserError
from ctkd_lightning.features.tap import near_layers

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule


class Attachment:
    """Add the distillation loss to a LightningModule's training step, and take everything back in the end.

    Where Lightning optimizes, the loss that the step returns has the distillation of the calls that it depends on, or,
    where it depends on none, of all that have gradients. Where the module optimizes by hand, each loss that it hands to
    ``manual_backward`` has that of the calls that it depends on, as far as no loss before had it; a loss that depends
    on none goes through as it is.

    Args:
        module: the user's.
        distiller: from the student's calls to the loss.
        student: dotted name of the network to watch; None for the module's own forward.
        ce_weight: factor of the loss that the training step has.
        accumulate_grad_batches: by which a module that optimizes by hand divides its loss; the distillation is too.
        layers: from the student to what to read of it, from role to dotted name: what :attr:`Call.features` has.
        before_backward: called before a loss that the module backpropagates by hand gets its distillation.
        detector: from a student that is a detector to what listens to it.
    """

    def __init__(
        self,
        module: LightningModule,
        distiller: Distiller,
        student: str | None,
        ce_weight: float,
        accumulate_grad_batches: int = 1,
        layers: Callable[[nn.Module], Mapping[str, str]] | None = None,
        before_backward: Callable[[], None] | None = None,
        detector: Callable[[nn.Module], DetectorTap] | None = None,
    ) -> None:
        self.module, self.distiller = module, distiller
        self.student, self.ce_weight = student, ce_weight
        self.accumulate_grad_batches = accumulate_grad_batches
        self.layers = layers
        self.before_backward = before_backward
        self.detector = detector
        self._recorder: CallRecorder | None = None
        self._accumulation: AccumulationWatch | None = None
        self._batch: GivenBatch | FetchedBatches = GivenBatch(None)
        self._steps = DistilledSteps()
        self._backwards = 0  # of this step, by hand
        self._distilled = False  # this step
        self._why_not = self._never_called
        self._told_replaced = self._told_frozen = False
        self._overrides = Overrides()
        self._wrap("training_step", self._training_step)
        self._wrap("manual_backward", self._manual_backward)

    @property
    def recorder(self) -> CallRecorder:
        """What watches the network that has the student's name now: a module may make it late, or replace it.

        Raises:
            UserError: there is no student of this name.
        """
        network = find_network(self.module, self.student)
        if self._recorder is None or self._recorder.network is not network:
            self._forget_network()
            layers = None if self.layers is None else self.layers(network)
            self._recorder = CallRecorder(network, layers, None if self.detector is None else self.detector(network))
        return self._recorder

    def release(self) -> None:
        """Leave the module as it was."""
        self._overrides.undo()
        self._forget_network()
        self._batch = GivenBatch(None)

    def check_distilled(self) -> None:
        """Look, at an epoch's end, whether any step was distilled; not all of them must call the student.

        Raises:
            UserError: none was since the start of the training.
        """
        self._steps.end_epoch(self._why_not)

    def _forget_network(self) -> None:
        if self._recorder is not None:
            self._recorder.release()
        if self._accumulation is not None:
            self._accumulation.close()
        self._recorder = self._accumulation = None

    def _wrap(self, name: str, wrapper: Callable[..., Any]) -> None:
        method = getattr(self.module, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            return wrapper(method, *args, **kwargs)

        self._overrides.set(self.module, name, WrappedMethod(method, wrapped))

    def _training_step(self, step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        keep = self.distiller.asks_of_batch
        args = tuple(remember_batches(value, keep) for value in args)
        kwargs = {name: remember_batches(value, keep) for name, value in kwargs.items()}
        first = args[0] if args else next(iter(kwargs.values()), None)
        self._batch = first if isinstance(first, FetchedBatches) else GivenBatch(first, keep)
        self._backwards, self._distilled = 0, False
        recorder = self.recorder
        with recorder.recording():
            output = step(*args, **kwargs)
        if self.module.automatic_optimization:
            output = self._add_to_output(output, recorder)
        else:
            self._end_by_hand(recorder)
        recorder.calls.clear()
        self._batch = GivenBatch(None)
        return output

    def _add_to_output(self, output: Any, recorder: CallRecorder) -> Any:
        loss = output.get("loss") if isinstance(output, Mapping) else output
        if not isinstance(loss, Tensor):  # the step is skipped, or Lightning explains what is wrong with it
            return output
        if self.accumulate_grad_batches != 1:
            raise UserError(
                f"accumulate_grad_batches={self.accumulate_grad_batches} is for modules that optimize by hand, and "
                f"{type(self.module).__name__} does not: leave it to the Trainer's argument of this name"
            )
        calls = [call for call in recorder.calls if call.has_gradient]
        if len(calls) > 1:  # others, such as those that made an adversarial input, may have lost their graph already
            calls = calls_behind(loss, calls) or calls
        added = self._add(loss, calls) if calls else loss
        self._count(recorder)
        if loss is output or not calls:
            return added if loss is output else output
        output = copy.copy(output)
        output["loss"] = added
        return output

    def _manual_backward(self, backward: Callable[..., None], loss: Tensor, *args: Any, **kwargs: Any) -> None:
        self._backwards += 1
        calls = [] if self._recorder is None else self._recorder.calls
        behind = calls_behind(loss, calls) if calls and isinstance(loss, Tensor) else []
        if behind:
            if self.before_backward is not None:
                self.before_backward()
            loss = self._add(loss, behind)
            calls[:] = [call for call in calls if not any(call is done for done in behind)]
            self._watch_accumulation()
        left = len(calls)
        backward(loss, *args, **kwargs)
        del calls[left:]  # a student under activation checkpointing runs again in its backward pass

    def _end_by_hand(self, recorder: CallRecorder) -> None:
        if not self._backwards and any(call.has_gradient for call in recorder.calls):
            raise UserError(
                f"{type(self.module).__name__} optimizes by hand and called no self.manual_backward(loss) after its "
                "student: call it in place of loss.backward(), so that the distillation loss can join"
            )
        self._count(recorder)

    def _add(self, loss: Tensor, calls: list[Call]) -> Tensor:
        self._distilled = True
        distillation = self.distiller(calls, self._batch.batch, self._batch.untouched)
        if self.accumulate_grad_batches != 1:
            distillation = distillation / self.accumulate_grad_batches
        return self.ce_weight * loss + distillation

    def _watch_accumulation(self) -> None:
        if self.accumulate_grad_batches != 1 or self._recorder is None:
            return
        if self._accumulation is None:
            optimizers = self.module.optimizers(use_pl_optimizer=False)
            listed = optimizers if isinstance(optimizers, list) else [optimizers]
            self._accumulation = AccumulationWatch(self._recorder.network.parameters(), listed)
        self._accumulation.count_backward()

    def _count(self, recorder: CallRecorder) -> None:
        if not self._distilled:
            if recorder.calls:
                dependent = any(call.has_gradient for call in recorder.calls)
                if not dependent and _is_frozen(recorder.network):
                    self._tell_frozen()
                    return
                self._why_not = self._not_behind_a_loss if dependent else self._without_gradient
            else:
                self._why_not = self._never_called
                self._see_replaced(recorder)
        self._steps.count(self._distilled, self._why_not)

    def _tell_frozen(self) -> None:
        """A step that does not train the student need not be distilled, and there may be as many as the user likes."""
        if not self._told_frozen:
            self._told_frozen = True
            rank_zero_warn(
                f"all parameters of the student, {self.student or type(self.module).__name__!r}, are frozen: nothing "
                "is distilled until some of them are trained"
            )

    def _see_replaced(self, recorder: CallRecorder) -> None:
        if not self._told_replaced and find_network(self.module, self.student) is not recorder.network:
            self._told_replaced = True
            rank_zero_warn(
                f"training_step of {type(self.module).__name__} replaced the student {self.student!r} before it called "
                "it: the new one is distilled from the next step on"
            )

    def _never_called(self) -> str:
        name = type(self.module).__name__
        watched = f"{name}.forward" if self.student is None else f"the student {self.student!r}"
        children = ", ".join(child for child, _ in self.module.named_children()) or "none"
        return (
            f"training_step of {name} did not call {watched}, so there is nothing to distil: name the network that it "
            f"calls, as in CurriculumTemperatureCallback(teacher=…, student='NAME'); there are {children}"
        )

    def _without_gradient(self) -> str:
        return (
            "the student's logits have no gradient: take detach() and no_grad() off its call in training_step, or "
            "name with student= the network that is trained"
        )

    def _not_behind_a_loss(self) -> str:
        return (
            f"no loss that {type(self.module).__name__} gave to self.manual_backward depends on its student's output: "
            "give it the loss of the student, or name with student= the network that is trained"
        )


def _is_frozen(network: nn.Module) -> bool:
    trained = [parameter.requires_grad for parameter in network.parameters()]
    return bool(trained) and not any(trained)


def find_network(module: nn.Module, name: str | None) -> nn.Module:
    """A module's part by its dotted name, through compiled networks too; the module itself for None.

    Raises:
        UserError: there is none; names near ones.
    """
    if name is None:
        return module
    try:
        return module.get_submodule(name)
    except AttributeError:
        raise UserError(
            f"{type(module).__name__} has no network {name!r}, given as student: {near_layers(name, module)}"
        ) from None
