"""Watch the calls of one network within foreign code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ctkd_lightning.callbacks.overrides import Overrides


class Call(NamedTuple):
    """One call of a network.

    Attributes:
        args: positional arguments.
        kwargs: keyword arguments.
        output: what it returned.
        versions: how often each positional tensor had been written to before the call, None where unknown.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any
    versions: tuple[int | None, ...]

    @property
    def overwrote_input(self) -> bool:
        """Whether the network wrote into one of its positional arguments."""
        return any(
            then is not None and then != now for then, now in zip(self.versions, _versions(self.args), strict=True)
        )


class CallRecorder:
    """Keep the calls of a network that build a graph, while it is told to.

    The network's ``forward`` is replaced, not hooked: this also sees code that calls ``forward`` itself, and a
    LightningModule under DDP just once. Only for the time of the recording, so that validation, and copies made
    in between, have nothing of it.

    Args:
        network: whose calls to watch.

    Attributes:
        calls: so far.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.calls: list[Call] = []
        forward, calls = network.forward, self.calls  # no attributes of self: the compiler traces this function

        def recorded_forward(*args: Any, **kwargs: Any) -> Any:
            versions = _versions(args)
            output = forward(*args, **kwargs)
            if torch.is_grad_enabled():
                calls.append(Call(args, kwargs, output, versions))
            return output

        self._recorded_forward = recorded_forward  # one function for all steps: another would be compiled anew

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Forget what was kept, and keep the calls made inside."""
        self.calls.clear()
        override = Overrides()
        override.set(self.network, "forward", self._recorded_forward)
        try:
            yield
        finally:
            override.undo()

    def take(self) -> list[Call]:
        """Hand out the calls and forget them."""
        calls = self.calls.copy()
        self.calls.clear()
        return calls


def _versions(args: tuple[Any, ...]) -> tuple[int | None, ...]:
    return tuple(_version(value) for value in args)


def _version(value: Any) -> int | None:
    if torch.compiler.is_compiling() or not isinstance(value, Tensor) or value.is_inference():
        return None
    return value._version
