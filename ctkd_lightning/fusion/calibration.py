"""One more factor on each τ, fitted on held-out samples: temperature scaling."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor

from ctkd_lightning._modes import evaluating
from ctkd_lightning.errors import UserError
from ctkd_lightning.fusion._experts import Experts
from ctkd_lightning.fusion.fusion import TemperatureFusion

_WIDEST = math.log(1000.0)


@torch.no_grad()
def fit_temperatures(
    fusion: TemperatureFusion,
    logits: Mapping[str, Tensor | None],
    target: Tensor,
    mask: Tensor | Mapping[str, Tensor] | None = None,
    *,
    features: Mapping[str, Tensor] | None = None,
    context: Mapping[str, Tensor] | None = None,
) -> dict[str, float]:
    r"""Temperature scaling of each modality by itself, on samples that nothing was trained with.

    .. math:: k_m = \arg\min_k \, -\sum_i \log \mathrm{softmax}(z_{im} / (k \, \tau_{im}))_{y_i}

    Guo et al., *On Calibration of Modern Neural Networks*, ICML 2017, https://arxiv.org/abs/1706.04599, where τ = 1.
    The fusion's τ are multiplied by k from then on: with ``kind="fixed"`` this is the paper's method for each modality,
    with learned temperatures a correction of their level.

    Args:
        fusion: of these modalities.
        logits: as for the fusion, of held-out samples; likewise ``mask``, ``features``, ``context``.
        target: class indices, one a position.
        mask: which samples have which modality.
        features: for the joint head.
        context: what else τ sees.

    Returns:
        k by name, between 0.001 and 1000; 1 for a modality that no sample has.

    Raises:
        UserError: as the fusion; one whose τ are normalized, of which none has a level of its own.
    """
    forget_fit(fusion)
    with evaluating(fusion):
        experts, tau = fusion.experts(logits, mask, features=features, context=context)
    return fit_to(fusion, experts, tau, target)


def forget_fit(fusion: TemperatureFusion) -> None:
    """Set the factors to 1."""
    cast(Tensor, fusion.temperature.scale).fill_(1.0)


def check_fittable(fusion: TemperatureFusion) -> None:
    """Refuse a fusion whose temperatures have no level of their own.

    Raises:
        UserError: it has normalized ones.
    """
    if fusion.temperature.normalized:
        raise UserError("fit_temperatures sets the level of each τ, and normalize=True takes it away: fuse without")


def fit_to(fusion: TemperatureFusion, experts: Experts, tau: Tensor, target: Tensor) -> dict[str, float]:
    """As :func:`fit_temperatures`, to what :meth:`TemperatureFusion.experts` gave with factors of 1."""
    check_fittable(fusion)
    rows = fusion.classes(target, experts)
    softened_all = experts.logits / tau.unsqueeze(-1)
    scale = cast(Tensor, fusion.temperature.scale)
    for m in range(len(fusion.names)):
        kept = experts.present[:, m]
        if not kept.any():
            continue
        softened, labels = softened_all[kept, m].double(), rows[kept]

        def nll(log_k: float, softened: Tensor = softened, labels: Tensor = labels) -> float:
            return float(F.cross_entropy(softened / math.exp(log_k), labels))

        log_k = float(minimize_scalar(nll, bounds=(-_WIDEST, _WIDEST), method="bounded").x)
        scale[m] = math.exp(log_k)
        all_right = bool((softened.argmax(dim=-1) == labels).all())
        if all_right or log_k > 0.99 * _WIDEST:
            what = "are all right, and the surer the better" if all_right else "say nothing of the target"
            warnings.warn(
                f"fit_temperatures found no level of τ for {fusion.names[m]!r}: its scores of these {len(labels)} "
                f"samples {what}; its factor is {math.exp(log_k):.3g}: give more samples, or leave the fit out",
                stacklevel=2,
            )
    return dict(zip(fusion.names, scale.tolist(), strict=True))
