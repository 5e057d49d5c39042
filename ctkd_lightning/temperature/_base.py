"""What all temperatures share, and what the learned ones do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from ctkd_lightning._facts import TemperatureFacts
from ctkd_lightning.errors import UserError, check_number, suggest
from ctkd_lightning.features.outputs import Step
from ctkd_lightning.temperature._gradient_reversal import gradient_reversal
from ctkd_lightning.temperature._softening import Softening

Objective = Literal["adversarial", "cooperative", "held_out"]

_HALF = (torch.float16, torch.bfloat16)
_NEAR_END = 0.04  # of the range: where the sigmoid's slope has fallen to a sixth of its peak, and no default begins


class Temperature(nn.Module):
    """A module that gives τ for a batch: ``temperature(student_logits, teacher_logits) -> tau``.

    τ is a scalar tensor, or one per sample (B, 1) or position (..., 1). A rule that softens both sides differently,
    reads the target or has another factor than τ² overrides :meth:`soften` too. Whoever trains with a temperature tells
    it of the progress by :meth:`set_progress`. One that the package exports has ``facts`` for the table in
    ``docs/temperatures.md``.
    """

    facts: ClassVar[TemperatureFacts]
    names: tuple[str, ...] = ()
    """Where one module gives the τ of several, whose they are: the entries of the last dimension, in this order."""
    needs_target: ClassVar[bool] = False
    """Whether :meth:`soften` reads the step's target."""
    needs_classes: bool = False
    """Whether it has a meaning only for one class out of several, not for scores that each stand for themselves."""
    whole_batch: ClassVar[bool] = False
    """Whether a sample's softening depends on the batch's other samples, in training on those of all processes."""

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """τ for this batch, of logits (..., C)."""
        raise NotImplementedError

    def soften(self, student_logits: Tensor, teacher_logits: Tensor, step: Step | None = None) -> Softening:
        """How both sides are softened: τ on either, with the factor τ².

        Args:
            student_logits: (..., C).
            teacher_logits: the same shape.
            step: what the batch says of them.
        """
        return Softening.at(self(student_logits, teacher_logits), student_logits)

    def set_progress(self, epoch: float, fraction: float | None = None) -> None:
        """Hear where the training stands; called at the start of each epoch, or of each step.

        Args:
            epoch: epochs that have passed, from 0, with the fraction of the current one where it moves by steps.
            fraction: share of the whole training that has passed, 0 to 1; ``None`` where its length is not known.
        """

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

    ``objective="cooperative"`` is the control: p lowers the loss too, at the same strength.

    ``objective="held_out"``: the distillation loss gives p no gradient. p is learned so that the student's step on the
    training batch lowers its loss on samples that it does not train on. A step of plain SGD at rate η from the student
    θ changes that loss :math:`L_h` by :math:`-\eta \lVert g \rVert s`, to first order, and p raises

    .. math:: s(\tau) = \left\langle \frac{\partial L}{\partial z}, \frac{\partial z}{\partial \theta} \hat g
        \right\rangle, \qquad \hat g = \frac{g}{\lVert g \rVert}, \quad g = \nabla_\theta L_h

    with the training batch's logits z and the softened terms L: its gradient is :math:`-\lambda \, \partial s /
    \partial p`. g has length 1 here, so that τ learns as fast late in the training, when the held-out loss is small, as
    at its start; η is left to p's own learning rate. That temperatures can be meta-learned is from Liu et al., *Meta
    Knowledge Distillation*, 2022, https://arxiv.org/abs/2202.07940; the rule is ours. It needs the engine,
    :meth:`ctkd_lightning.Distillation.hold_out`: in a loss of one's own such a temperature stays as it is.

    Args:
        tau_init: lower end of τ.
        tau_range: width of the range above it.
        objective: ``"adversarial"``, the paper's, ``"cooperative"`` or ``"held_out"``.

    Attributes:
        lambda_: λ in [0, 1], a scalar buffer; 0 until a curriculum sets it. A function of the epoch, so it is not
            part of the checkpoint.

    Raises:
        UserError: a lower end or a range that is no positive number, or an objective that there is not.
    """

    lambda_: Tensor
    _learning = False

    def __init__(self, tau_init: float = 1.0, tau_range: float = 20.0, objective: Objective = "adversarial") -> None:
        super().__init__()
        check_number("temperature's tau_init", tau_init, above=0)
        check_number("temperature's tau_range", tau_range, above=0)
        if objective not in get_args(Objective):
            raise UserError(f"temperature's objective is {objective!r}; {suggest(str(objective), get_args(Objective))}")
        self.objective = objective
        self.tau_init = float(tau_init)
        self.tau_range = float(tau_range)
        self.register_buffer("lambda_", torch.zeros(()), persistent=False)

    @property
    def bounds(self) -> tuple[float, float]:
        """The two ends between which τ stays."""
        return self.tau_init, self.tau_init + self.tau_range

    def bounded(self, raw: Tensor) -> Tensor:
        """τ of the raw value p, with the gradient reversed on its way to p, or reversed twice, or stopped."""
        if self.objective == "held_out" and not self._learning:
            raw = raw.detach()
        if self.objective == "cooperative":
            raw = gradient_reversal(raw, 1.0)
        return self.tau_init + self.tau_range * torch.sigmoid(gradient_reversal(raw, self.lambda_))

    def at_end(self, tau: float) -> bool:
        """Whether τ is so near an end of its range that it hardly learns."""
        low, high = self.bounds
        return min(tau - low, high - tau) < _NEAR_END * (high - low)

    def extra_repr(self) -> str:
        """The ends of the range, and the objective where it is not the usual one."""
        other = "" if self.objective == "adversarial" else f", objective={self.objective!r}"
        return f"tau_init={self.tau_init}, tau_range={self.tau_range}{other}"


@contextmanager
def learning(temperatures: Iterable[LearnedTemperature]) -> Iterator[None]:
    """Let gradients reach temperatures that learn from held-out samples, as no other loss's do."""
    temperatures = list(temperatures)
    for temperature in temperatures:
        temperature._learning = True
    try:
        yield
    finally:
        for temperature in temperatures:
            temperature._learning = False
