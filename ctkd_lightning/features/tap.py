"""Any layer's output, by its dotted name."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from ctkd_lightning.errors import UserError, suggest
from ctkd_lightning.features._head import find_classifier
from ctkd_lightning.features.layers import default_layers, layer_before_activation, unwrap
from ctkd_lightning.features.outputs import (
    NetworkOutput,
    Pick,
    brought_features,
    is_preact,
    is_stage,
    pick_logits,
    stage_number,
)

_INPUT = ":input"
_Kept = tuple[Any, Any, int | None]  # what is handed out, what the layer gave, and its version then


class Heard(NamedTuple):
    """One run of a network, as a :class:`FeatureTap` heard it.

    Attributes:
        before: what the tap was listening to already, where runs are within each other.
        training: the network's mode.
        kept: by layer.
    """

    before: Heard | None
    training: bool
    kept: dict[str, _Kept]


class FeatureTap:
    """Run a network and read, beside its logits, the outputs of named layers.

    Forward hooks keep what the layers give, only while the tap runs the network or listens to somebody else who does:
    elsewhere, and in copies of the network, they do nothing. A layer that runs several times counts by its last run.
    What a later layer overwrites, as in-place activations do, is copied: on the first run in each mode all outputs are,
    from then on those that were written to. Tap a network before it is compiled for the first
    time; hooks that come later are not seen.

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
        self._inner, self._store = inner, _Store()
        modules = dict(inner.named_modules())
        unknown = {role: name for role, name in self.layers.items() if name.removesuffix(_INPUT) not in modules}
        for role, name in unknown.items():
            raise UserError(
                f"no layer {name!r}, asked for as {role!r}: {near_layers(name.removesuffix(_INPUT), inner)}"
            )
        self._hooks = {name: _Hook(self._store, name) for name in dict.fromkeys(self.layers.values())}
        self._handles = [
            _attach(modules[name.removesuffix(_INPUT)], hook, of_input=name.endswith(_INPUT))
            for name, hook in self._hooks.items()
        ]
        head = modules.get(find_classifier(inner))
        self.classifier = head if isinstance(head, nn.Linear) else None

    def __call__(self, *args: Any, **kwargs: Any) -> NetworkOutput:
        """The network's logits, features and classifier; with the features that its output brings itself."""
        if not self.layers:
            output = self.network(*args, **kwargs)
            logits = pick_logits(output, self.pick, self.role)
            return NetworkOutput(logits, brought_features(output), self.classifier)
        heard = self.listen()
        try:
            output = self.network(*args, **kwargs)
        finally:
            self.stop(heard)
        logits = pick_logits(output, self.pick, self.role)
        if self._learn(heard):  # a layer that let the output alone before: now it is copied
            return self(*args, **kwargs)
        return NetworkOutput(logits, {**brought_features(output), **self._features(heard)}, self.classifier)

    def listen(self) -> Heard:
        """Keep what the layers give from now on, whoever runs the network, until :meth:`stop`."""
        heard = Heard(self._store.heard, self._inner.training, {})
        self._store.heard = heard
        return heard

    def stop(self, heard: Heard) -> None:
        """Listen no more."""
        self._store.heard = heard.before

    def features(self, heard: Heard) -> dict[str, Tensor]:
        """The features of a run that the tap has listened to, by role.

        Raises:
            UserError: a layer that did not run, that did not give one tensor, or whose output somebody has overwritten
                since, for the first time.
        """
        if overwritten := self._learn(heard):
            raise UserError(
                f"what layer {overwritten[0]!r} gave is overwritten in this step and not in those before: name another "
                "layer, or take the in-place operation out"
            )
        return self._features(heard)

    def _learn(self, heard: Heard) -> list[str]:
        """See which outputs were written to; those that were not copied."""
        overwritten = []
        for name, (value, given, version) in heard.kept.items():
            if version is None:
                continue
            written = given._version != version
            if value is given and written:
                overwritten.append(name)
            if written or value is not given:
                copies = self._hooks[name].copies
                copies[heard.training] = written or copies.get(heard.training, False)
        return overwritten

    def _features(self, heard: Heard) -> dict[str, Tensor]:
        return {role: self._feature(role, name, heard.kept) for role, name in self.layers.items()}

    def _feature(self, role: str, name: str, kept: Mapping[str, _Kept]) -> Tensor:
        if name not in kept:
            raise UserError(
                f"layer {name!r}, asked for as {role!r}, did not run: name one that every forward pass uses"
            )
        value = kept[name][0]
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
    of them; ``"preacts"`` for ``stage1_preact``, ``stage2_preact``, …, one for each stage. Where nobody names such a
    layer it is what the stage's last activation reads, if that is a layer of its own, and otherwise, with a warning,
    the stage.

    Args:
        network: any module.
        needs: roles, as in :attr:`Method.needs`.
        layers: from role to dotted name; these come before the network's own and the derived ones. Whoever names a
            stage names another place than the network's ``stage1_preact`` was meant for, which then does not count.
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
    named, inner = dict(layers or {}), unwrap(network)
    own = {r: name for r, name in default_layers(network).items() if not (is_preact(r) and _stage_of(r) in named)}
    known = {**own, **named}
    groups = {"stages": sorted(filter(is_stage, known), key=stage_number)}
    if groups["stages"]:
        known.setdefault("last", known[groups["stages"][-1]])
    needs = list(dict.fromkeys(needs))
    if "preacts" in needs:
        known |= _preacts(inner, known, argument)
    groups["preacts"] = sorted(filter(is_preact, known), key=stage_number)
    selected = {}
    for role in needs:
        roles = groups.get(role, [role])
        if not roles or any(r not in known for r in roles):
            found = ", ".join(known) or "none"
            example = "stage1" if role in groups else role
            children = ", ".join(name for name, _ in inner.named_children())
            raise UserError(
                f"{type(inner).__name__} names no layer for {role!r} (known: {found}): name one, as in "
                f"{argument}={{{example}: NAME}}, from {children} or what is inside"
            )
        selected.update({r: known[r] for r in roles})
    return selected


def _preacts(network: nn.Module, known: Mapping[str, str], argument: str) -> dict[str, str]:
    """A layer before the activation for each known stage that has none yet."""
    found, behind = {}, []
    for stage in filter(is_stage, known):
        role = f"{stage}_preact"
        if role not in known:
            layer = layer_before_activation(network, known[stage])
            found[role] = layer or known[stage]
            behind += [] if layer else [role]
    if behind:
        behind = sorted(behind, key=stage_number)
        warnings.warn(
            f"{type(network).__name__} names no layer for the maps before the activation ({', '.join(behind)}): the "
            f"stages' outputs are read instead; name the layers, as in {argument}={{{behind[0]}: NAME}} (the stage's "
            "own, if no activation ends it)",
            stacklevel=3,
        )
    return found


def _stage_of(role: str) -> str:
    return role.removesuffix("_preact")


class _Store:
    """What the hooks of one tap write to, while it listens."""

    def __init__(self) -> None:
        self.heard: Heard | None = None


class _Hook:
    """Keep a layer's output, or its input. An object of its own, so that copies of a network get an inert copy."""

    def __init__(self, store: _Store, name: str) -> None:
        self.store = store
        self.name = name
        self.copies: dict[bool, bool] = {}  # by the network's mode: some layers write in place in one of them

    def __call__(self, layer: nn.Module, inputs: tuple[Any, ...], *output: Any) -> None:
        heard = self.store.heard
        if heard is not None:
            given = output[0] if output else inputs[0]
            value, version = given, _version(given)
            if isinstance(given, Tensor) and self.copies.get(heard.training, True):
                value = given.clone()
            heard.kept[self.name] = (value, given, version)


def _version(value: Any) -> int | None:
    """How often a tensor was written to, where that is counted."""
    if torch.compiler.is_compiling() or not isinstance(value, Tensor) or value.is_inference():
        return None
    return value._version


def _attach(layer: nn.Module, hook: _Hook, *, of_input: bool) -> torch.utils.hooks.RemovableHandle:
    return layer.register_forward_pre_hook(hook) if of_input else layer.register_forward_hook(hook)


def near_layers(name: str, network: nn.Module) -> str:
    """For a message: the layers whose names are near a wrong one, and those at the network's top."""
    layers = [layer.replace("_orig_mod.", "") for layer, _ in network.named_modules() if layer]
    children = ", ".join(child for child, _ in network.named_children()) or "none"
    return suggest(name, layers, f"At its top are {children}")
