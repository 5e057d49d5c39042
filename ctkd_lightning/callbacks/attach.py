"""Attach a teacher to a LightningModule that knows nothing of distillation."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ctkd_lightning.callbacks.distiller import Distiller
from ctkd_lightning.callbacks.overrides import Overrides, WrappedMethod
from ctkd_lightning.callbacks.record_calls import CallRecorder
from ctkd_lightning.errors import UserError

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule

_CHILD = "_ctkd_distiller"
_DDP_IGNORES = "_ddp_params_and_buffers_to_ignore"  # DistributedDataParallel's own name


class Attachment:
    """Add the distillation loss to a LightningModule's training step, and take everything back in the end.

    The distiller is the module's child only until the optimizers are made: long enough to be moved, converted and
    synchronised by the strategy. What ``configure_optimizers``, a checkpoint, a weight average or a summary see is the
    module as it was written.

    Args:
        module: the user's.
        distiller: from the student's calls to the loss.
        student: dotted name of the network to watch; None for the module's own forward.
        ce_weight: factor of the loss that the training step has.
    """

    def __init__(self, module: LightningModule, distiller: Distiller, student: str | None, ce_weight: float) -> None:
        self.module, self.distiller = module, distiller
        self.student, self.ce_weight = student, ce_weight
        self._recorder: CallRecorder | None = None
        self._batch: Any = None
        self._by_hand = self._distilled = 0  # steps optimized by hand, losses that were distilled
        self._overrides = Overrides()
        self._wrap("configure_optimizers", self._configure_optimizers)
        self._wrap("training_step", self._training_step)
        self._wrap("manual_backward", self._manual_backward)
        module._modules[_CHILD] = distiller.train()
        # DDP would look for the buffers again at each step. They need no synchronisation: each process computes λ. The
        # parameters have an optimizer of their own, which synchronises them.
        own = [f"{_CHILD}.{name}" for name, _ in (*distiller.named_buffers(), *distiller.named_parameters())]
        self._overrides.set(module, _DDP_IGNORES, [*getattr(module, _DDP_IGNORES, ()), *own])

    @property
    def recorder(self) -> CallRecorder:
        """What watches the student; made when it is first asked for, since a module may make its layers late.

        Raises:
            UserError: there is no student of this name.
        """
        if self._recorder is None:
            self._recorder = CallRecorder(find_network(self.module, self.student))
        return self._recorder

    def release(self) -> None:
        """Leave the module as it was."""
        self._hide()
        self._overrides.undo()
        self._recorder = self._batch = None

    def check_distilled(self) -> None:
        """Look whether steps that optimize by hand had a distillation loss; not all of them must call the student.

        Raises:
            UserError: none had it.
        """
        if self._by_hand and not self._distilled:
            raise UserError(self._never_called())

    def _hide(self) -> None:
        self.module._modules.pop(_CHILD, None)

    def _wrap(self, name: str, wrapper: Callable[..., Any]) -> None:
        method = getattr(self.module, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            return wrapper(method, *args, **kwargs)

        self._overrides.set(self.module, name, WrappedMethod(method, wrapped))

    def _configure_optimizers(self, configure: Callable[[], Any]) -> Any:
        self._hide()
        return configure()

    def _training_step(self, step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._batch = args[0] if args else next(iter(kwargs.values()), None)
        self._by_hand += not self.module.automatic_optimization
        with self.recorder.recording():
            output = step(*args, **kwargs)
        if self.module.automatic_optimization:
            output = self._add_to_output(output)
        elif self.recorder.calls:
            raise UserError(
                f"{type(self.module).__name__} optimizes by hand and called no self.manual_backward(loss) after its "
                "student: call it in place of loss.backward(), so that the distillation loss can join"
            )
        self._batch = None
        return output

    def _manual_backward(self, backward: Callable[..., None], loss: Tensor, *args: Any, **kwargs: Any) -> None:
        # In a step with several losses each has the distillation of the student's calls since the one before.
        backward(self._add(loss) if self.recorder.calls else loss, *args, **kwargs)

    def _add_to_output(self, output: Any) -> Any:
        loss = output.get("loss") if isinstance(output, Mapping) else output
        if not isinstance(loss, Tensor):  # the step is skipped, or Lightning explains what is wrong with it
            return output
        if not self.recorder.calls:
            raise UserError(self._never_called())
        if loss is output:
            return self._add(loss)
        output = copy.copy(output)
        output["loss"] = self._add(loss)
        return output

    def _add(self, loss: Tensor) -> Tensor:
        self._distilled += 1
        return self.ce_weight * loss + self.distiller(self.recorder.take(), self._batch)

    def _never_called(self) -> str:
        name = type(self.module).__name__
        watched = f"{name}.forward" if self.student is None else f"the student {self.student!r}"
        children = ", ".join(child for child, _ in self.module.named_children()) or "none"
        return (
            f"training_step of {name} did not call {watched}, so there is nothing to distil: name the network that it "
            f"calls, as in CurriculumTemperatureCallback(teacher=…, student='NAME'); there are {children}"
        )


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
        names = [n.replace("_orig_mod.", "") for n, _ in module.named_modules() if n]
        near = difflib.get_close_matches(name, names, n=5, cutoff=0.5)
        children = ", ".join(child for child, _ in module.named_children()) or "none"
        raise UserError(
            f"{type(module).__name__} has no network {name!r}, given as student: "
            f"{'did you mean ' + ' or '.join(near) + '? ' if near else ''}At its top are {children}"
        ) from None
