"""What a temperature sees of each expert: how sure its scores are, and how far they agree with the others'."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ctkd_lightning.temperature._rule import spread

_FLOOR = -30.0  # of log-probabilities: below it a class is as good as impossible


def own_statistics(log_p: Tensor) -> Tensor:
    r"""Log-sum-exp, entropy, margin, spread and greatest probability of scores, squeezed to a few units.

    Args:
        log_p: (N, M, C), the scores' log-softmax, which has their differences and not where they lie.

    Returns:
        (N, M, 5): :math:`\mathrm{asinh}` of the log-sum-exp over the mean, the entropy over log C,
        :math:`\log(1 + \mathrm{margin})` between the two likeliest classes, :math:`\log(1 + \sigma)` over the classes,
        and the likeliest one's probability.
    """
    mean, _, deviation = spread(log_p)
    energy = -mean.squeeze(-1)  # log-sum-exp less the mean, since that of log-probabilities is 0
    log_p = log_p.clamp(min=_FLOOR)
    entropy = -(log_p.exp() * log_p).sum(dim=-1) / math.log(log_p.shape[-1])
    first, second = log_p.topk(2, dim=-1).values.unbind(dim=-1)
    return torch.stack(
        [energy.asinh(), entropy, (first - second).log1p(), deviation.squeeze(-1).log1p(), first.exp()], dim=-1
    )


def agreement_statistics(log_p: Tensor, present: Tensor) -> Tensor:
    r"""How far each expert agrees with the mean :math:`\bar p` of the others that are there.

    Args:
        log_p: (N, M, C), log-probabilities, finite.
        present: (N, M), bool.

    Returns:
        (N, M, 4): :math:`\sum_c p_c \bar p_c`; :math:`\log(1 + H(\bar p, p))`, the cross-entropy of the expert against
        them; their own entropy over log C, since unsure others say little; and the share of others that are there.
        Zeros where there are none.
    """
    log_p = log_p.clamp(min=_FLOOR)
    p = log_p.exp() * present.unsqueeze(-1)
    count = present.sum(dim=1, keepdim=True) - present.long()  # of the others
    others = (p.sum(dim=1, keepdim=True) - p) / count.clamp(min=1).unsqueeze(-1)
    overlap = (log_p.exp() * others).sum(dim=-1)
    cross_entropy = -(others * log_p).sum(dim=-1)
    entropy = -(others * others.clamp(min=1e-12).log()).sum(dim=-1) / math.log(log_p.shape[-1])
    share = count / max(log_p.shape[1] - 1, 1)
    found = torch.stack([overlap, cross_entropy.clamp(min=0).log1p(), entropy, share], dim=-1)
    return found * (count > 0).unsqueeze(-1)
