"""One network of several: an encoder for each modality, and their fusion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ctkd_lightning._modes import evaluating
from ctkd_lightning.errors import UserError, suggest
from ctkd_lightning.features.layers import default_layers
from ctkd_lightning.features.tap import FeatureTap
from ctkd_lightning.fusion._broken import BrokenNumbers, finite_rows
from ctkd_lightning.fusion._experts import Experts, mask_by_name
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
        self._broken = BrokenNumbers()
        if frozen:
            self.encoders.eval()

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
        given = {name: need_input(inputs, name) for name in self.fusion.modalities}
        scores, features, finite = {}, {}, {}
        for name, x in given.items():
            x, finite[name] = without_broken(x)
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
                output = self._taps[name](x)
            scores[name] = output.logits
            if _POOLED in output.features:
                features[name] = output.features[_POOLED].flatten(1)
        fusion = self.fusion
        joint = {name: features[name] for name in fusion.joint.widths} if fusion.joint else None
        context = {name: features[name] for name in getattr(fusion.temperature, "context", ())} or None
        experts, tau = fusion.experts(scores, self._there(finite, mask), features=joint, context=context)
        return FusionOutput(fusion.fuse(experts, tau), experts, tau)

    def _there(self, finite: Mapping[str, Tensor], mask: Tensor | Mapping[str, Tensor] | None) -> Mapping[str, Tensor]:
        """Which samples have which modality: by their inputs, and by the caller's mask."""
        meant = {} if mask is None else mask_by_name(mask, self.fusion.modalities)
        there, lost = dict(finite), {name: ~own for name, own in finite.items()}
        for name, given in meant.items():
            own = finite[name]
            if given.shape[:1] != own.shape:
                raise UserError(
                    f"mask of {name!r} has shape {tuple(given.shape)}, found {len(own)} samples: pass ({len(own)},)"
                )
            given = (given != 0).to(own.device)
            there[name] = given & own.reshape(-1, *(1,) * (given.ndim - 1))
            lost[name] = ~own & (given if given.ndim == 1 else given.flatten(1).any(dim=1))
        self._broken.look("inputs", list(lost), torch.stack(list(lost.values()), dim=1))
        return there


def need_input(inputs: Mapping[str, Tensor], name: str) -> Tensor:
    """A modality of a batch.

    Raises:
        UserError: it is not there, or no tensor.
    """
    if name not in inputs:
        raise UserError(f"the batch has no modality {name!r}: {suggest(name, map(str, inputs))}")
    if not isinstance(inputs[name], Tensor):
        raise UserError(
            f"modality {name!r} of the batch must be a tensor, found a {type(inputs[name]).__name__}: where a batch "
            "misses it, pass zeros, and say so with mask="
        )
    return inputs[name]


def without_broken(x: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs (B, …), zeros for the samples that hold NaN or infinite numbers, and (B,), whether a sample holds none."""
    finite = finite_rows(x)
    return x.masked_fill(~finite.reshape(-1, *(1,) * (x.ndim - 1)), 0.0), finite


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
        with evaluating(encoder), torch.no_grad(), _tap(name, encoder, True) as tap:
            widths[name] = tap(inputs[name]).features[_POOLED].flatten(1).shape[1]
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
