"""CTKD's temperature per sample."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ctkd_lightning._facts import TemperatureFacts
from ctkd_lightning.errors import UserError, check_number
from ctkd_lightning.temperature._base import LearnedTemperature, Objective
from ctkd_lightning.temperature._softening import masked_classes


class InstanceTemperature(LearnedTemperature):
    r"""A learned temperature for each sample (CTKD's instance-wise version).

    .. math:: p_i = W_2 \, \mathrm{relu}(W_1 [s_i; t_i] + b_1) + b_2

    over the concatenated student and teacher logits, then :math:`\tau_i` as in :class:`LearnedTemperature`. The paper
    gives no code and no width; here the hidden layer has ``hidden`` units, and the last layer starts at W₂ = 0 and
    b₂ = ``initial_value``, so that training starts from the global version's temperature. The logits enter detached:
    they inform the temperature, and the student is not trained to please it.

    Args:
        num_classes: C.
        hidden: width of the hidden layer.
        tau_init: lower end of τ.
        tau_range: width of the range above it.
        initial_value: p of every sample at the start.
        objective: as for :class:`LearnedTemperature`.

    Raises:
        UserError: sizes or range that are no positive numbers, or a start that is no number; in use, logits with
            another number of classes.

    Example:
        >>> InstanceTemperature(num_classes=10)(torch.randn(3, 10), torch.randn(3, 10)).shape
        torch.Size([3, 1])
    """

    facts = TemperatureFacts(
        paper="Li, AAAI 2023 (CTKD)",
        url="https://arxiv.org/abs/2211.16231",
        what="learned, one a sample, of both networks' logits",
        needs="a curriculum; the number of classes",
        breaks="as global",
    )

    def __init__(
        self,
        num_classes: int,
        hidden: int = 128,
        tau_init: float = 1.0,
        tau_range: float = 20.0,
        initial_value: float = 1.0,
        objective: Objective = "adversarial",
    ) -> None:
        super().__init__(tau_init, tau_range, objective)
        check_number("InstanceTemperature's num_classes", num_classes, least=1, whole=True)
        check_number("InstanceTemperature's hidden", hidden, least=1, whole=True)
        check_number("temperature's initial_value", initial_value)
        self.num_classes, hidden = int(num_classes), int(hidden)
        self.hidden = nn.Linear(2 * self.num_classes, hidden)
        self.out = nn.Linear(hidden, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.constant_(self.out.bias, initial_value)

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """τ per sample, (B, 1), of logits (B, C)."""
        if student_logits.shape[-1] != self.num_classes or teacher_logits.shape != student_logits.shape:
            # a score of its own has the classes there and not there, however many there are
            two = ", as each score of task='binary' or 'multilabel' has" if student_logits.shape[-1] == 2 else ""
            raise UserError(
                f"InstanceTemperature was made for {self.num_classes} classes; found student logits "
                f"{tuple(student_logits.shape)} and teacher logits {tuple(teacher_logits.shape)}: pass "
                f"num_classes={student_logits.shape[-1]}{two}"
            )
        logits = torch.cat([student_logits, teacher_logits], dim=-1).detach()
        # masked classes say nothing of the sample
        logits = logits.masked_fill(masked_classes(logits), 0.0).to(self.out.weight.dtype)
        with torch.autocast(logits.device.type, enabled=False):
            return self.bounded(self.out(torch.relu(self.hidden(logits))))
