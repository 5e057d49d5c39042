"""What ``benchmarks.fusion`` compares: ways to fuse modalities, each trained with the same encoders and corruption.

An arm is a module with ``loss(inputs, target, index, epoch)`` and ``scores(inputs)``; inputs are by modality. Over
frozen encoders they are what those gave, scores and features side by side (B, C + D), and the arms are heads on them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.fusion_rules import QMF, TMC, heads
from ctkd_lightning import TemperatureFusion
from ctkd_lightning.fusion import FusedNetwork
from ctkd_lightning.fusion.network import FusionOutput

Encoders = Callable[[], dict[str, nn.Module]]
"""Makes new encoders of the study's modalities."""

HIDDEN = 128  # of networks on concatenated features


class Fusing(nn.Module):
    """An arm of this package's fusion, of whatever :meth:`run` gives."""

    fusion: TemperatureFusion

    def run(self, inputs: Mapping[str, Tensor]) -> FusionOutput:
        raise NotImplementedError

    def loss(self, inputs: Mapping[str, Tensor], target: Tensor, index: Tensor, epoch: int) -> Tensor:
        output = self.run(inputs)
        return self.fusion.losses_of(output.experts, output.fused, target)["loss"]

    def scores(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.run(inputs).fused

    def tau(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        output = self.run(inputs)
        tau = output.tau.expand(len(output.fused), -1)
        return dict(zip(self.fusion.names, tau.unbind(dim=1), strict=True))


class Temperatures(Fusing):
    """Encoders and all."""

    def __init__(self, encoders: Mapping[str, nn.Module], num_classes: int, widths: Mapping[str, int], **kind: Any):
        super().__init__()
        self.fusion = TemperatureFusion(num_classes, list(encoders), **_widths(kind, widths))
        self.network = FusedNetwork(encoders, self.fusion)

    def run(self, inputs: Mapping[str, Tensor]) -> FusionOutput:
        return self.network.run(inputs)


class StoredTemperatures(Fusing):
    """Over what frozen encoders gave."""

    def __init__(self, num_classes: int, widths: Mapping[str, int], **kind: Any):
        super().__init__()
        self.num_classes = num_classes
        self.fusion = TemperatureFusion(num_classes, list(widths), **_widths(kind, widths))

    def run(self, inputs: Mapping[str, Tensor]) -> FusionOutput:
        scores = {name: x[:, : self.num_classes] for name, x in inputs.items()}
        features = {name: x[:, self.num_classes :] for name, x in inputs.items()}
        reads = bool(getattr(self.fusion.temperature, "context", None))
        experts, tau = self.fusion.experts(
            scores, features=features if self.fusion.joint else None, context=features if reads else None
        )
        return FusionOutput(self.fusion.fuse(experts, tau), experts, tau)


class Plain(nn.Module):
    """A fusion without temperatures; each encoder has its own loss beside the fused one."""

    def __init__(self, encoders: Mapping[str, nn.Module], rule: str):
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.rule = rule

    def _all(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([encoder(inputs[name]) for name, encoder in self.encoders.items()])

    def _fused(self, scores: Tensor) -> Tensor:
        if self.rule == "product":
            return scores.sum(dim=0).log_softmax(dim=-1)
        return scores.log_softmax(dim=-1).logsumexp(dim=0).log_softmax(dim=-1)

    def loss(self, inputs: Mapping[str, Tensor], target: Tensor, index: Tensor, epoch: int) -> Tensor:
        scores = self._all(inputs)
        own = torch.stack([F.cross_entropy(z, target) for z in scores])
        return F.nll_loss(self._fused(scores), target) + own.sum()

    def scores(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self._fused(self._all(inputs))


class Alone(nn.Module):
    """One modality."""

    def __init__(self, encoder: nn.Module, name: str):
        super().__init__()
        self.encoder, self.name = encoder, name

    def loss(self, inputs: Mapping[str, Tensor], target: Tensor, index: Tensor, epoch: int) -> Tensor:
        return F.cross_entropy(self.scores(inputs), target)

    def scores(self, inputs: Mapping[str, Tensor]) -> Tensor:
        found: Tensor = self.encoder(inputs[self.name])
        return found


class Concatenation(nn.Module):
    """One classifier of all inputs, or of all features, side by side.

    Args:
        width: of all together.
        num_classes: C.
        start: where in the inputs to begin.
        encoders: whose features to take; none: the inputs.
    """

    def __init__(self, width: int, num_classes: int, start: int = 0, encoders: Mapping[str, nn.Module] | None = None):
        super().__init__()
        self.start = start
        self.encoders = nn.ModuleDict(encoders or {})
        self.head = nn.Sequential(nn.Linear(width, HIDDEN), nn.ReLU(), nn.Dropout(0.2), nn.Linear(HIDDEN, num_classes))

    def loss(self, inputs: Mapping[str, Tensor], target: Tensor, index: Tensor, epoch: int) -> Tensor:
        return F.cross_entropy(self.scores(inputs), target)

    def scores(self, inputs: Mapping[str, Tensor]) -> Tensor:
        parts = [
            self.encoders[name].features(x) if self.encoders else x.flatten(1)[:, self.start :]
            for name, x in inputs.items()
        ]
        found: Tensor = self.head(torch.cat(parts, dim=1))
        return found


class _Rule(nn.Module):
    """A published rule, its arguments brought into an arm's order."""

    def __init__(self, rule: TMC | QMF, start: int = 0):
        super().__init__()
        self.rule, self.start = rule, start

    def _read(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: x[:, self.start :] if self.start else x for name, x in inputs.items()}

    def loss(self, inputs: Mapping[str, Tensor], target: Tensor, index: Tensor, epoch: int) -> Tensor:
        if isinstance(self.rule, TMC):
            return self.rule.loss(self._read(inputs), target, epoch)
        return self.rule.loss(self._read(inputs), target, index)

    def scores(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.rule.scores(self._read(inputs))


class _Frozen(nn.Module):
    """The stored scores themselves: nothing to train."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.num_classes = num_classes

    def forward(self, x: Tensor) -> Tensor:
        return x[:, : self.num_classes]


def end_to_end(
    encoders: Encoders, num_classes: int, features: Mapping[str, int], inputs: Mapping[str, int], samples: int
) -> dict[str, Callable[[], nn.Module]]:
    """The arms whose encoders are trained with them.

    Args:
        encoders: makes new ones.
        num_classes: C.
        features: widths of the encoders' features.
        inputs: widths of the flattened inputs.
        samples: of the training set.
    """
    names = list(inputs)

    def concatenation() -> nn.Module:
        made = encoders()
        if any(True for encoder in made.values() for _ in encoder.body.parameters()):  # not of linear classifiers
            return Concatenation(sum(features.values()), num_classes, encoders=made)
        return Concatenation(sum(inputs.values()), num_classes)

    return {
        **{f"{name} alone": lambda name=name: Alone(encoders()[name], name) for name in names},
        "concatenation": concatenation,
        "average": lambda: Plain(encoders(), "average"),
        "product": lambda: Plain(encoders(), "product"),
        "TMC": lambda: _Rule(TMC(encoders())),
        "QMF": lambda: _Rule(QMF(encoders(), samples)),
        "mixture τ": lambda: Temperatures(encoders(), num_classes, features, rule="mixture"),
        "global τ": lambda: Temperatures(encoders(), num_classes, features, kind="global"),
        "τ": lambda: Temperatures(encoders(), num_classes, features),
        "τ, joint": lambda: Temperatures(encoders(), num_classes, features, joint=True),
        "τ, joint, features": lambda: Temperatures(encoders(), num_classes, features, joint=True, context=True),
    }


def over_frozen(num_classes: int, widths: Mapping[str, int], samples: int) -> dict[str, Callable[[], nn.Module]]:
    """The arms over stored scores and features.

    Args:
        num_classes: C.
        widths: of the features.
        samples: of the training set.
    """
    frozen = {name: _Frozen(num_classes) for name in widths}
    return {
        **{f"{name} alone": lambda name=name: Alone(_Frozen(num_classes), name) for name in widths},
        "concatenation": lambda: Concatenation(sum(widths.values()), num_classes, num_classes),
        "average": lambda: Plain(frozen, "average"),
        "product": lambda: Plain(frozen, "product"),
        "TMC": lambda: _Rule(TMC(heads(widths, num_classes, hidden=32)), num_classes),
        "QMF": lambda: _Rule(QMF(heads(widths, num_classes, hidden=32), samples), num_classes),
        "mixture τ": lambda: StoredTemperatures(num_classes, widths, rule="mixture"),
        "global τ": lambda: StoredTemperatures(num_classes, widths, kind="global"),
        "τ": lambda: StoredTemperatures(num_classes, widths),
        "τ, joint": lambda: StoredTemperatures(num_classes, widths, joint=True),
        "τ, joint, features": lambda: StoredTemperatures(num_classes, widths, joint=True, context=True),
    }


OURS = ("mixture τ", "global τ", "τ", "τ, joint", "τ, joint, features")
BEST = "τ, joint, features"
"""The command's default."""


def _widths(kind: dict[str, Any], widths: Mapping[str, int]) -> dict[str, Any]:
    return {key: (widths if value else None) if key in ("joint", "context") else value for key, value in kind.items()}
