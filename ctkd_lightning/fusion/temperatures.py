"""The temperatures of several experts whose scores are fused."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ctkd_lightning.errors import UserError, check_number
from ctkd_lightning.fusion._statistics import agreement_statistics, own_statistics
from ctkd_lightning.temperature._base import LearnedTemperature, Temperature

AGREEMENT = 4  # numbers that agreement_statistics gives
OWN = 5  # that own_statistics gives
_GAIN = 5.0  # of a global raw value over its parameter


class _OfExperts(Temperature):
    """One τ for each of several experts.

    Attributes:
        names: of the experts.
        scale: (M,) factors of their τ, from :func:`~ctkd_lightning.fusion.fit_temperatures`.
        normalized: whether the τ are multiplied by the sum of their inverses.
    """

    scale: Tensor
    normalized = False

    def _name(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.register_buffer("scale", torch.ones(len(self.names)))

    def _scaled(self, tau: Tensor, present: Tensor) -> Tensor:
        """τ times its factor; ∞ where there is no expert."""
        tau = tau * self.scale
        for_all = tau.ndim == 1
        if self.normalized:
            inverse = 1 / tau if for_all else (1 / tau).masked_fill(~present, 0.0)
            total = inverse.sum(dim=-1, keepdim=True)
            tau = tau * torch.where(total > 0, total, 1.0)  # 0 where there is no expert at all
        return tau if for_all else tau.masked_fill(~present, torch.inf)


class FixedExpertTemperatures(_OfExperts):
    """A constant τ for each expert.

    Args:
        names: of the experts.
        tau: one for all.
    """

    tau: Tensor

    def __init__(self, names: Sequence[str], tau: float = 1.0) -> None:
        super().__init__()
        check_number("fusion's tau_init", tau, above=0)
        self._name(names)
        self.register_buffer("tau", torch.full((len(self.names),), float(tau)))

    def forward(self, logits: Tensor, present: Tensor, context: Mapping[str, Tensor] | None = None) -> Tensor:
        """τ (M,)."""
        return self._scaled(self.tau, present)


class ExpertTemperatures(_OfExperts, LearnedTemperature):
    r"""τ of each expert, learned with the fused loss, between two ends on a logarithmic scale.

    .. math:: \tau_m = \tau_\mathrm{min}^{1 - s_m} \tau_\mathrm{max}^{s_m}, \quad s_m = \mathrm{sigmoid}(p_m + p_0)

    Unlike CTKD's, these temperatures *lower* the loss: nothing is reversed. λ is the strength of their gradient, and 1
    where no curriculum sets it; with λ = 0 all τ stay as they are, equal at the start. :math:`p_0` is a constant by
    which p = 0 means ``tau_init``: a weight decay pulls τ there.

    Args:
        names: of the experts.
        tau_init: τ of each at the start.
        tau_min: lower end.
        tau_max: upper end.

    Raises:
        UserError: ends that are no positive numbers in order, or a start that does not lie between them.
    """

    def __init__(
        self, names: Sequence[str], tau_init: float = 1.0, tau_min: float = 0.1, tau_max: float = 100.0
    ) -> None:
        check_number("fusion's tau_min", tau_min, above=0)
        check_number("fusion's tau_max", tau_max, above=tau_min)
        check_number("fusion's tau_init", tau_init, above=tau_min, below=tau_max)
        super().__init__(tau_min, tau_max - tau_min)
        self._name(names)
        self.lambda_.fill_(1.0)
        share = math.log(tau_init / tau_min) / math.log(tau_max / tau_min)
        self.offset = math.log(share / (1 - share))

    def bounded(self, raw: Tensor) -> Tensor:
        """τ of the raw value p, whose gradient is λ times the loss's."""
        raw = raw.detach() + self.lambda_ * (raw - raw.detach())
        low, high = (math.log(end) for end in self.bounds)
        return (low + (high - low) * torch.sigmoid(raw + self.offset)).exp()

    def at_end(self, tau: float) -> bool:
        """Whether τ is so near its lower end that it hardly learns; at the upper one an expert does not count."""
        low, high = self.bounds
        return tau < low * (high / low) ** 0.05


class GlobalExpertTemperatures(ExpertTemperatures):
    r"""One learned τ for each expert, whatever the sample: for experts that are bad for all samples.

    The raw value is :math:`p_m = 5 v_m` of the parameter v: optimizers such as Adam move each parameter by about their
    learning rate a step, and at usual rates a lone number would take thousands of steps from τ = 1 to 30.

    Args:
        names: of the experts.
        **bounds: as in :class:`ExpertTemperatures`.
    """

    def __init__(self, names: Sequence[str], **bounds: float) -> None:
        super().__init__(names, **bounds)
        self.value = nn.Parameter(torch.zeros(len(self.names)))

    def forward(self, logits: Tensor, present: Tensor, context: Mapping[str, Tensor] | None = None) -> Tensor:
        """τ (M,)."""
        return self._scaled(self.bounded(_GAIN * self.value), present)


class InstanceExpertTemperatures(ExpertTemperatures):
    r"""τ of each expert for each sample, from a small network of each expert's own.

    .. math:: p_m = W_2 \, \mathrm{relu}(W_1 x_m + b_1) + b_2

    :math:`x_m` are statistics of the expert's scores, of its agreement with the others, and what else it is given, all
    detached: they inform τ, and no encoder is trained to please it. W₂ starts at 0, so that all τ start equal.

    Args:
        names: of the experts.
        agreement: whether τ sees how far the expert agrees with the others.
        context: from an expert's name to the width of the vector that its τ sees too.
        hidden: width of the hidden layers.
        **bounds: as in :class:`ExpertTemperatures`.

    Raises:
        UserError: widths that are no positive numbers, or names of no expert.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        agreement: bool = True,
        context: Mapping[str, int] | None = None,
        hidden: int = 32,
        **bounds: float,
    ) -> None:
        super().__init__(names, **bounds)
        check_number("fusion's hidden", hidden, least=1, whole=True)
        self.agreement = agreement
        self.context = dict(context or {})
        width = OWN + AGREEMENT * agreement
        experts = len(self.names)
        self.weight = nn.Parameter(torch.empty(experts, width, hidden))
        self.bias = nn.Parameter(torch.zeros(experts, hidden))
        self.out = nn.Parameter(torch.zeros(experts, hidden))
        self.value = nn.Parameter(torch.zeros(experts))
        self.of_context = nn.ModuleDict()
        for name, size in self.context.items():
            check_number(f"fusion's context of {name!r}", size, least=1, whole=True)
            self.of_context[name] = nn.Linear(size, hidden, bias=False)
        nn.init.normal_(self.weight, std=width**-0.5)

    def forward(self, logits: Tensor, present: Tensor, context: Mapping[str, Tensor] | None = None) -> Tensor:
        """τ (N, M), ∞ where there is no expert.

        Args:
            logits: (N, M, C), float32, the experts' scores; anything finite where there are none.
            present: (N, M), which of them there are.
            context: by name (N, width), finite.
        """
        log_p = logits.detach().log_softmax(dim=-1)
        seen = [own_statistics(log_p)]
        if self.agreement:
            seen.append(agreement_statistics(log_p, present))
        statistics = torch.cat(seen, dim=-1).to(self.weight.dtype)
        hidden = torch.einsum("nmf,mfh->nmh", statistics, self.weight) + self.bias
        if self.context:
            hidden = hidden + self._context(context or {}, hidden)
        return self._scaled(self.bounded((hidden.relu() * self.out).sum(dim=-1) + self.value), present)

    def _context(self, context: Mapping[str, Tensor], hidden: Tensor) -> Tensor:
        parts = []
        for m, name in enumerate(self.names):
            if name not in self.context:
                parts.append(torch.zeros_like(hidden[:, m]))
                continue
            if name not in context:
                raise UserError(f"τ of {name!r} was made to see a context: pass context={{{name!r}: …}}")
            parts.append(self.of_context[name](context[name].detach().to(hidden.dtype)))
        return torch.stack(parts, dim=1)
