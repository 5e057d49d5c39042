"""What a detector scores, within a forward pass of somebody else."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn

from ctkd_lightning.detection.detector import Detector, Heard
from ctkd_lightning.detection.output import DetectorOutput
from ctkd_lightning.errors import UserError


class DetectorTap:
    """Keep what a detector scores in its own forward pass, as long as it is told to listen.

    Hooks on its children do it; elsewhere, and in copies of the network, they do nothing.

    Args:
        detector: whose passes to hear.
        roles: features that are read.
    """

    def __init__(self, detector: Detector, roles: Collection[str] = ()) -> None:
        self.detector, self.roles = detector, roles
        self._store = _Store()
        self._handles = []
        for name, (module, what) in detector.watched().items():
            hook = _Hook(self._store, name)
            attach: Any = module.register_forward_pre_hook if what == "input" else module.register_forward_hook
            self._handles.append(attach(hook))

    def listen(self) -> Heard:
        """Keep what the detector does from now on, until :meth:`stop`."""
        heard: Heard = {}
        self._store.heard = heard
        return heard

    def stop(self) -> None:
        """Listen no more."""
        self._store.heard = None

    def output(self, heard: Heard) -> DetectorOutput:
        """What a forward pass gave that the tap has listened to.

        Raises:
            UserError: the pass went elsewhere than through the detector's children.
        """
        missing = [name for name in self.detector.watched() if name not in heard]
        if missing:
            raise UserError(
                f"the student, a {self.detector.family}, was called and its {', '.join(missing)} did not run: name the "
                "detector itself with student=, and leave it uncompiled"
            )
        return self.detector.output(heard, self.roles)

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()


class _Store:
    """What the hooks of one tap write to, while it listens."""

    def __init__(self) -> None:
        self.heard: Heard | None = None


class _Hook:
    """Keep a child's positional inputs, or its output. A copy of the network gets an inert copy."""

    def __init__(self, store: _Store, name: str) -> None:
        self.store, self.name = store, name

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], *output: Any) -> None:
        if self.store.heard is not None:
            self.store.heard[self.name] = output[0] if output else inputs
