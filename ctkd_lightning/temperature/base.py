"""What all temperatures share, and what the learned ones do."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ctkd_lightning.errors import check_number
from ctkd_lightning.temperature.gradient_reversal import gradient_reversal

_HALF = (torch.float16, torch.bfloat16)


class Temperature(nn.Module):
    """A module that gives τ for a batch: ``temperature(student_logits, teacher_logits) -> tau``.

    τ is a scalar tensor, or (B, 1) where it is per sample.
    """

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """τ for this batch."""
        raise NotImplementedError

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Temperature:
        # In half precision an optimizer's small updates are rounded away and τ stands still: stay in float32 and
        # take only the device from a cast to half.
        def keep_wide(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if moved.dtype in _HALF else moved

        return super()._apply(keep_wide, recurse)


class LearnedTemperature(Temperature):
    r"""A temperature trained against the student, bounded between two ends.

    .. math:: \tau = \tau_\mathrm{init} + \tau_\mathrm{range} \cdot \mathrm{sigmoid}(\mathrm{GRL}_\lambda(p))

    Li et al., *Curriculum Temperature for Knowledge Distillation*, AAAI 2023, https://arxiv.org/abs/2211.16231: the
    student lowers the distillation loss, the raw value p raises it, at a strength λ that a curriculum sets.

    Args:
        tau_init: lower end of τ.
        tau_range: width of the range above it.

    Attributes:
        lambda_: λ in [0, 1], a scalar buffer; 0 until a curriculum sets it. A function of the epoch, so it is not
            part of the checkpoint.

    Raises:
        UserError: a lower end or a range that is no positive number.
    """

    lambda_: Tensor

    def __init__(self, tau_init: float = 1.0, tau_range: float = 20.0) -> None:
        super().__init__()
        check_number("temperature's tau_init", tau_init, above=0)
        check_number("temperature's tau_range", tau_range, above=0)
        self.tau_init = float(tau_init)
        self.tau_range = float(tau_range)
        self.register_buffer("lambda_", torch.zeros(()), persistent=False)

    @property
    def bounds(self) -> tuple[float, float]:
        """The two ends between which τ stays."""
        return self.tau_init, self.tau_init + self.tau_range

    def bounded(self, raw: Tensor) -> Tensor:
        """τ of the raw value p, with the gradient reversed on its way to p."""
        return self.tau_init + self.tau_range * torch.sigmoid(gradient_reversal(raw, self.lambda_))

    def extra_repr(self) -> str:
        """The ends of the range."""
        return f"tau_init={self.tau_init}, tau_range={self.tau_range}"
