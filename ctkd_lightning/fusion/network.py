"""One network of several: an encoder for each modality, and their fusion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ctkd_lightning.errors import UserError, suggest
from ctkd_lightning.features.layers import default_layers
from ctkd_lightning.features.tap import FeatureTap
from ctkd_lightning.fusion._broken import BrokenNumbers
from ctkd_lightning.fusion._experts import Experts
from ctkd_lightning.fusion.fusion import TemperatureFusion

_POOLED = "pooled"


class FusionOutput(NamedTuple):
    """What a fused network gave.

    Attributes:
        fused: (N, C), log-probabilities.
        experts: the experts' scores, one by one.
        tau: (M,) or (N, M), theirs.
    """

    fused: Tensor
    experts: Experts
    tau: Tensor


class FusedNetwork(nn.Module):
    """Encoders by modality, and the fusion of their scores: from a mapping of inputs to log-probabilities.

    The joint head and τ, where they see features, read what each encoder's last linear layer reads. A sample whose
    input of a modality holds NaN or infinite numbers counts as missing it.

    Args:
        encoders: from each of the fusion's modalities to its network, which gives scores.
        fusion: of these modalities.
        frozen: whether the encoders stay as they are, in eval mode and without gradients: the fusion alone is trained.

    Raises:
        UserError: encoders that are not those of the fusion's modalities, or have no linear layer whose input could be
            the features.
    """

    def __init__(self, encoders: Mapping[str, nn.Module], fusion: TemperatureFusion, *, frozen: bool = False) -> None:
        super().__init__()
        _check_encoders(encoders, fusion)
        self.encoders = nn.ModuleDict({name: encoders[name] for name in fusion.modalities})
        self.fusion = fusion
        self.frozen = frozen
        if frozen:
            self.encoders.requires_grad_(False)
        read = set(getattr(fusion.temperature, "context", ())) | set(fusion.joint.widths if fusion.joint else ())
        self._taps = {name: _tap(name, encoders[name], name in read) for name in fusion.modalities}
        self._broken = BrokenNumbers("inputs")
        self.train(self.training)

    def train(self, mode: bool = True) -> FusedNetwork:
        """Set the mode; frozen encoders stay in eval mode."""
        super().train(mode)
        if self.frozen:
            self.encoders.eval()
        return self

    def forward(self, inputs: Mapping[str, Tensor], mask: Tensor | Mapping[str, Tensor] | None = None) -> Tensor:
        """Log-probabilities in the shape of the encoders' scores: see :class:`~ctkd_lightning.TemperatureFusion`.

        Args:
            inputs: by modality; other entries are not looked at.
            mask: which samples have which modality: (B, M), or by name (B,).
        """
        output = self.run(inputs, mask)
        return output.experts.layout.scores(output.fused)

    def run(self, inputs: Mapping[str, Tensor], mask: Tensor | Mapping[str, Tensor] | None = None) -> FusionOutput:
        """What each expert gave, its τ, and the fused log-probabilities.

        Raises:
            UserError: a modality is not among the inputs.
        """
        given = {name: self._input(inputs, name) for name in self.fusion.modalities}
        self._broken.look(given)
        scores, features, there = {}, {}, {}
        for name, x in given.items():
            if x.is_floating_point():
                there[name] = x.flatten(1).isfinite().all(dim=1)
                x = x.masked_fill(~there[name].reshape(-1, *(1,) * (x.ndim - 1)), 0.0)
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
                output = self._taps[name](x)
            scores[name] = output.logits
            if _POOLED in output.features:
                features[name] = output.features[_POOLED].flatten(1)
        fusion = self.fusion
        joint = {name: features[name] for name in fusion.joint.widths} if fusion.joint else None
        context = {name: features[name] for name in getattr(fusion.temperature, "context", ())} or None
        experts, tau = fusion.experts(scores, _both(there, mask, fusion.modalities), features=joint, context=context)
        return FusionOutput(fusion.fuse(experts, tau), experts, tau)

    @staticmethod
    def _input(inputs: Mapping[str, Tensor], name: str) -> Tensor:
        if name not in inputs:
            raise UserError(f"the batch has no modality {name!r}: {suggest(name, map(str, inputs))}")
        return inputs[name]


def feature_widths(encoders: Mapping[str, nn.Module], inputs: Mapping[str, Tensor]) -> dict[str, int]:
    """The widths of the encoders' features, by name: what ``TemperatureFusion(joint=…)`` asks for.

    Args:
        encoders: by modality.
        inputs: an example of each.

    Raises:
        UserError: an encoder without a linear layer.
    """
    widths = {}
    for name, encoder in encoders.items():
        training = encoder.training
        encoder.eval()
        with torch.no_grad():
            widths[name] = _tap(name, encoder, True)(inputs[name]).features[_POOLED].flatten(1).shape[1]
        encoder.train(training)
    return widths


def _tap(name: str, encoder: nn.Module, reads_features: bool) -> FeatureTap:
    layers = default_layers(encoder) if reads_features else {}
    if reads_features and _POOLED not in layers:
        raise UserError(
            f"the encoder of {name!r} has no linear layer at its end whose input could be its features: leave it out "
            "of joint= and context="
        )
    return FeatureTap(encoder, {_POOLED: layers[_POOLED]} if reads_features else {}, role=name)


def _check_encoders(encoders: Mapping[str, nn.Module], fusion: TemperatureFusion) -> None:
    for name in encoders:
        if name not in fusion.modalities:
            raise UserError(f"the fusion has no modality {name!r}: {suggest(str(name), fusion.modalities)}")
    for name in fusion.modalities:
        if not isinstance(encoders.get(name), nn.Module):
            raise UserError(f"modality {name!r} has no encoder: pass one in encoders={{{name!r}: network, …}}")


def _both(
    known: Mapping[str, Tensor], mask: Tensor | Mapping[str, Tensor] | None, names: tuple[str, ...]
) -> Mapping[str, Tensor] | None:
    """Which samples have which modality: by their inputs and by the caller's mask."""
    if mask is None:
        return known or None
    if not isinstance(mask, Mapping):
        if mask.shape[-1:] != (len(names),):
            raise UserError(
                f"mask has shape {tuple(mask.shape)}: pass (B, {len(names)}), or a mapping from names to (B,)"
            )
        mask = dict(zip(names, mask.unbind(dim=-1), strict=True))
    # the fusion checks names and shapes
    return {**known, **{n: (m != 0) & known[n] if n in known else m for n, m in mask.items()}}
