"""Watch the calls of one network within foreign code."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ctkd_lightning.callbacks.plugin.overrides import Overrides, WrappedMethod
from ctkd_lightning.detection import DetectorTap
from ctkd_lightning.features._arguments import ArgumentGuard, KeptArguments, tensors_in
from ctkd_lightning.features.tap import FeatureTap, Heard


class Call(NamedTuple):
    """One call of a network.

    Attributes:
        args: positional arguments, in which the network may have written.
        kwargs: keyword arguments, likewise.
        output: what it returned; of a detector what it scored, a :class:`~ctkd_lightning.detection.DetectorOutput`.
        kept: the arguments as they were.
        tap: of the layers that are read.
        heard: what it heard in this call.
        parameters: names of the network's positional parameters.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any
    kept: KeptArguments
    tap: FeatureTap | None = None
    heard: Heard | None = None
    parameters: tuple[str, ...] = ()

    @property
    def named(self) -> Mapping[str, Any]:
        """The arguments by name, however they were passed; of a mapping, such as a batch, its entries too."""
        placed = dict(zip(self.parameters, self.args, strict=False))
        held = [entries for entries in self.args if isinstance(entries, Mapping)]
        return {**{name: value for entries in held for name, value in entries.items()}, **placed, **self.kwargs}

    @property
    def arguments(self) -> KeptArguments:
        """The arguments as they were at the call: ``.args`` and ``.kwargs``, for the teacher.

        Raises:
            UserError: a tensor that the student, or the step after it, writes into for the first time.
        """
        self.kept.check()
        return self.kept

    @property
    def features(self) -> Mapping[str, Tensor]:
        """What the layers gave in this call, by role.

        Raises:
            UserError: as in :meth:`~ctkd_lightning.features.tap.FeatureTap.features`.
        """
        return {} if self.tap is None or self.heard is None else self.tap.features(self.heard)

    @property
    def has_gradient(self) -> bool:
        """Whether its output can be trained; unknown kinds of output pass for one that can."""
        if isinstance(self.output, Tensor):
            return self.output.requires_grad
        tensors = list(tensors_in(self.output))
        return not tensors or any(tensor.requires_grad for tensor in tensors)


class CallRecorder:
    """Keep the calls of a network that build a graph, while it is told to.

    The network's ``forward`` is replaced, not hooked: this also sees code that calls ``forward`` itself, and a
    LightningModule under DDP just once. Only for the time of the recording, so that validation, and copies made
    in between, have nothing of it.

    Args:
        network: whose calls to watch.
        layers: from role to dotted name, as for :class:`~ctkd_lightning.features.tap.FeatureTap`: what to read of them.
        detector: what listens to a detector, whose training pass returns losses alone.

    Attributes:
        calls: so far.

    Raises:
        UserError: a layer that the network has not.
    """

    def __init__(
        self, network: nn.Module, layers: Mapping[str, str] | None = None, detector: DetectorTap | None = None
    ) -> None:
        self.network = network
        self.calls: list[Call] = []
        self._active: list[None] = []  # has an entry while recording
        self.tap = FeatureTap(network, layers) if layers else None
        self.detector = detector
        self._guard = ArgumentGuard(
            "the student's input {where} is overwritten, by it or by training_step, in this step and not in those "
            "before, and the teacher is to see it: clone it first"
        )
        self._replace(network.forward)

    def _replace(self, forward: Any) -> None:
        # no attributes of self: the compiler traces this
        active, calls, tap, guard, detector = self._active, self.calls, self.tap, self._guard, self.detector
        parameters = _positional(forward)

        def recorded_forward(*args: Any, **kwargs: Any) -> Any:
            if not active or not torch.is_grad_enabled() or _within_transform():
                return forward(*args, **kwargs)
            kept = guard.keep(args, kwargs)
            if tap is None and detector is None:
                output = forward(*args, **kwargs)
                calls.append(Call(args, kwargs, output, kept, parameters=parameters))
                return output
            heard = None if tap is None else tap.listen()
            scored = None if detector is None else detector.listen()
            try:
                output = forward(*args, **kwargs)
            finally:
                if tap is not None and heard is not None:
                    tap.stop(heard)
                if detector is not None:
                    detector.stop()
            found = output if detector is None or scored is None else detector.output(scored)
            calls.append(Call(args, kwargs, found, kept, tap, heard, parameters))
            return output

        self._forward = forward
        self._recorded = WrappedMethod(forward, recorded_forward)  # one for all steps: another would be compiled anew

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Forget what was kept, and keep the calls made inside."""
        self.calls.clear()
        if self.network.forward != self._forward:  # somebody has put another in its place since
            self._replace(self.network.forward)
        override = Overrides()
        override.set(self.network, "forward", self._recorded)
        self._active.append(None)  # shallow copies made inside keep the replacement
        try:
            yield
        finally:
            self._active.clear()
            override.undo()

    def release(self) -> None:
        """Leave the network as it was."""
        self.calls.clear()
        if self.tap is not None:
            self.tap.remove()
        if self.detector is not None:
            self.detector.remove()


def _positional(forward: Any) -> tuple[str, ...]:
    try:
        parameters = inspect.signature(forward).parameters.values()
    except (TypeError, ValueError):  # built in
        return ()
    return tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))


def _within_transform() -> bool:
    """Whether the call is within ``torch.func``'s grad, vmap or jvp, whose tensors end with it."""
    return not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is not None
