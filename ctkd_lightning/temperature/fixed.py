"""A constant temperature."""

from __future__ import annotations

from ctkd_lightning._facts import TemperatureFacts
from ctkd_lightning.errors import check_number
from ctkd_lightning.temperature._given import GivenTemperature


class FixedTemperature(GivenTemperature):
    """τ as a constant, as in Hinton et al., 2015.

    Args:
        tau: τ > 0; the usual choice on CIFAR-100 is 4.

    Raises:
        UserError: τ that is no positive number.

    Example:
        >>> import torch
        >>> logits = torch.zeros(2, 10)
        >>> FixedTemperature(4.0)(logits, logits)
        tensor(4.)
    """

    facts = TemperatureFacts(
        paper="Hinton 2015",
        url="https://arxiv.org/abs/1503.02531",
        what="a constant",
    )

    def __init__(self, tau: float = 4.0) -> None:
        check_number("temperature's tau", tau, above=0)
        super().__init__(float(tau))

    def extra_repr(self) -> str:
        """The constant."""
        return f"tau={float(self.tau)}"
