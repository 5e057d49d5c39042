"""Any layer's output, by its dotted name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, cast

import torch
from torch import Tensor, nn

from ctkd_lightning.errors import UserError
from ctkd_lightning.feature_layers import default_layers, unwrap
from ctkd_lightning.models.head import find_classifier
from ctkd_lightning.outputs import NetworkOutput, Pick, is_stage, pick_logits

_INPUT = ":input"


class FeatureTap:
    """Run a network and read, beside its logits, the outputs of named layers.

    Forward hooks keep what the layers give, only while the tap itself runs the network: elsewhere, and in copies of the
    network, they do nothing. A layer that runs several times counts by its last run. The output of a layer that a later
    one overwrites, as in-place activations do, is copied: the tap finds out on its first run, and then runs the network
    a second time. Tap a network before it is compiled for the first time; hooks that come later are not seen.

    Args:
        network: any module that returns logits; it may be wrapped (compiled, DDP, frozen).
        layers: from role to dotted name. ``"layer3"`` is the layer's output, ``"fc:input"`` what the layer reads.
        pick: from the network's output to its scores, where that is neither a tensor nor has ``.logits``.
        role: ``"student"`` or ``"teacher"``, for messages.

    Attributes:
        classifier: the network's last linear layer, where it has one.

    Raises:
        UserError: a layer that the network has not; in use, one that did not run or did not give one tensor.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
        >>> with FeatureTap(network, {"last": "0", "pooled": "3:input"}) as tap:
        ...     output = tap(torch.zeros(2, 3, 6, 6))
        >>> output.logits.shape, output.features["last"].shape, output.features["pooled"].shape
        (torch.Size([2, 10]), torch.Size([2, 8, 4, 4]), torch.Size([2, 8]))
    """

    def __init__(
        self, network: nn.Module, layers: Mapping[str, str], *, pick: Pick | None = None, role: str = "student"
    ) -> None:
        self.network = network
        self.pick, self.role = pick, role
        self.layers = dict(layers)
        inner = unwrap(network)
        # timm's Swin and its like, whose maps have their channels last
        self._channels_last = getattr(inner, "output_fmt", None) == "NHWC"
        self._store = _Store()
        modules = dict(inner.named_modules())
        unknown = {role: name for role, name in self.layers.items() if name.removesuffix(_INPUT) not in modules}
        for role, name in unknown.items():
            raise UserError(f"no layer {name!r}, asked for as {role!r}: {_near(name.removesuffix(_INPUT), inner)}")
        self._hooks = {role: _Hook(self._store, role) for role in self.layers}
        self._handles = [
            _attach(modules[name.removesuffix(_INPUT)], self._hooks[role], of_input=name.endswith(_INPUT))
            for role, name in self.layers.items()
        ]
        head = modules.get(find_classifier(inner))
        self.classifier = head if isinstance(head, nn.Linear) else None

    def __call__(self, *args: Any, **kwargs: Any) -> NetworkOutput:
        """The network's logits, features and classifier."""
        self._store.active = True
        try:
            output = self.network(*args, **kwargs)
            kept = self._store.kept
        finally:
            self._store.active, self._store.kept = False, {}
        logits = pick_logits(output, self.pick, self.role)
        overwritten = [hook for role, hook in self._hooks.items() if _is_overwritten(*kept.get(role, (None, None)))]
        if overwritten:
            for hook in overwritten:
                hook.copies = True
            return self(*args, **kwargs)
        features = {role: self._feature(role, name, kept) for role, name in self.layers.items()}
        return NetworkOutput(logits, features, self.classifier)

    def _feature(self, role: str, name: str, kept: Mapping[str, tuple[Any, int | None]]) -> Tensor:
        if role not in kept:
            raise UserError(
                f"layer {name!r}, asked for as {role!r}, did not run: name one that every forward pass uses"
            )
        value, _ = kept[role]
        if not isinstance(value, Tensor):
            raise UserError(
                f"layer {name!r}, asked for as {role!r}, gave a {type(value).__name__}: name one of tensors"
            )
        return value.permute(0, 3, 1, 2) if self._channels_last and value.ndim == 4 else value

    def compile(self) -> None:
        """Run the network through ``torch.compile`` from now on; run it once before, if it has layers to read."""
        # else code compiled for a network without hooks also serves the next one of its class, and keeps nothing
        torch._dynamo.config.skip_nnmodule_hook_guards = False
        self.network = cast(nn.Module, torch.compile(self.network))

    def remove(self) -> None:
        """Take the hooks off the network."""
        for handle in self._handles:
            handle.remove()

    def __enter__(self) -> FeatureTap:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


def select_layers(
    network: nn.Module, needs: Iterable[str], layers: Mapping[str, str] | None = None, *, argument: str = "layers"
) -> dict[str, str]:
    """The layers to tap for the roles that methods need.

    ``"stages"`` stands for all of ``stage1``, ``stage2``, …; ``"last"``, where nothing else is named, for the last
    of them.

    Args:
        network: any module.
        needs: roles, as in :attr:`Method.needs`.
        layers: from role to dotted name; these come before the network's own and the derived ones.
        argument: what the caller calls ``layers``, for the error.

    Returns:
        From role to dotted name, for :class:`FeatureTap`.

    Raises:
        UserError: a role for which neither ``layers`` nor the network has a layer.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
        >>> select_layers(network, ("pooled", "last"), {"last": "0"})
        {'pooled': '3:input', 'last': '0'}
    """
    known = {**default_layers(network), **(layers or {})}
    stages = sorted(filter(is_stage, known), key=lambda role: int(role.removeprefix("stage")))
    if stages:
        known.setdefault("last", known[stages[-1]])
    selected = {}
    for role in dict.fromkeys(needs):
        roles = stages if role == "stages" else [role]
        if not roles or any(r not in known for r in roles):
            found = ", ".join(known) or "none"
            example = "stage1" if role == "stages" else role
            inner = unwrap(network)
            children = ", ".join(name for name, _ in inner.named_children())
            raise UserError(
                f"{type(inner).__name__} names no layer for {role!r} (known: {found}): name one, as in "
                f"{argument}={{{example}: NAME}}, from {children} or what is inside"
            )
        selected.update({r: known[r] for r in roles})
    return selected


class _Store:
    """What the hooks of one tap have kept, while it runs the network."""

    def __init__(self) -> None:
        self.active = False
        self.kept: dict[str, tuple[Any, int | None]] = {}


class _Hook:
    """Keep a layer's output, or its input. An object of its own, so that copies of a network get an inert copy."""

    def __init__(self, store: _Store, role: str) -> None:
        self.store = store
        self.role = role
        self.copies = False

    def __call__(self, layer: nn.Module, inputs: tuple[Any, ...], *output: Any) -> None:
        if self.store.active:
            value = output[0] if output else inputs[0]
            if isinstance(value, Tensor) and (self.copies or (not output and getattr(layer, "inplace", False))):
                value = value.clone()  # a layer is about to overwrite it
            self.store.kept[self.role] = (value, _version(value))


def _version(value: Any) -> int | None:
    """How often a tensor was written to, where that is counted."""
    if torch.compiler.is_compiling() or not isinstance(value, Tensor) or value.is_inference():
        return None
    return value._version


def _is_overwritten(value: Any, version: int | None) -> bool:
    return version is not None and value._version != version


def _attach(layer: nn.Module, hook: _Hook, *, of_input: bool) -> torch.utils.hooks.RemovableHandle:
    return layer.register_forward_pre_hook(hook) if of_input else layer.register_forward_hook(hook)


def _near(name: str, network: nn.Module) -> str:
    names = [n for n, _ in network.named_modules() if n]
    near = difflib.get_close_matches(name, names, n=5, cutoff=0.5)
    children = ", ".join(child for child, _ in network.named_children())
    return f"{'near names: ' + ', '.join(near) + '; ' if near else ''}at the top: {children or 'none'}"
