"""What a temperature says of a batch: how each side is softened, and the factor that the loss gets for it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ctkd_lightning.errors import UserError, check_number
from ctkd_lightning.features.outputs import at_least_float32


@dataclass(frozen=True)
class Softening:
    r"""How the logits of both networks are softened: :math:`\mathrm{softmax}((x - m) / \tau)` on each side.

    Attributes:
        student: τ of the student, float32 or wider; broadcasts with its logits (..., C): a scalar, one a sample
            (B, 1, …, 1), one a position (..., 1) or one a class.
        teacher: τ of the teacher, likewise.
        scale: the factor of the loss at each position, which broadcasts with these (...): τ² where one τ serves both
            sides, which keeps the student's gradient at its size; each rule has its own.
        student_shift: m of the student, which broadcasts with the logits; none by default.
        teacher_shift: m of the teacher.
        tau: the one τ behind all three, where there is one: a scalar or one a position (..., 1).
        fixed: whether that τ is a constant, which nothing learns.

    Example:
        >>> logits = torch.zeros(2, 10)
        >>> Softening.at(torch.tensor([2.0, 4.0]), logits).scale
        tensor([ 4., 16.])
    """

    student: Tensor
    teacher: Tensor
    scale: Tensor
    student_shift: Tensor | None = None
    teacher_shift: Tensor | None = None
    tau: Tensor | None = None
    fixed: bool = False

    @classmethod
    def at(cls, temperature: float | Tensor | Softening, logits: Tensor) -> Softening:
        """One τ for both sides, with the factor τ²; a softening comes back as it is.

        Args:
            temperature: τ > 0: a float, a scalar tensor, one per sample (B,) or (B, 1), or one per position (...) or
                (..., 1). A tensor's values are not looked at: that would wait for the device at each step.
            logits: (..., C).

        Raises:
            UserError: a float that is not positive and finite, or a tensor that fits neither samples nor positions.
        """
        if isinstance(temperature, Softening):
            return temperature
        if isinstance(temperature, Tensor) and temperature.ndim == 0:  # the usual one, made cheap
            tau = at_least_float32(temperature)
            return cls(tau, tau, tau.square(), tau=tau)
        tau = per_position(check_temperature(temperature, logits), logits)
        return cls(tau, tau, tau.square() if tau.ndim == 0 else tau.squeeze(-1).square(), tau=tau)

    def times(self, factor: float) -> Softening:
        """Both τ times a number, and the factor of the loss times its square."""
        tau = None if self.tau is None else factor * self.tau
        if tau is not None:
            return replace(self, student=tau, teacher=tau, scale=factor**2 * self.scale, tau=tau)
        return replace(self, student=factor * self.student, teacher=factor * self.teacher, scale=factor**2 * self.scale)

    def rows(self, count: int) -> dict[str, Tensor]:
        """The attributes by name with an entry for each row of logits (B, C), whatever they had.

        Args:
            count: B.
        """
        found = {"scale": self.scale.expand(count)}
        for name in ("student", "teacher", "student_shift", "teacher_shift", "tau"):
            value = getattr(self, name)
            if value is not None:
                found[name] = value.expand(count, value.shape[-1] if value.ndim else 1)
        return found

    def soften_student(self, logits: Tensor) -> Tensor:
        """The student's logits over its τ, float32 or wider."""
        return _scaled(logits, self.student_shift, self.student)

    def soften_teacher(self, logits: Tensor) -> Tensor:
        """The teacher's logits over its τ, float32 or wider."""
        return _scaled(logits, self.teacher_shift, self.teacher)


def _scaled(logits: Tensor, shift: Tensor | None, tau: Tensor) -> Tensor:
    logits = bounded_below(logits)
    return (logits if shift is None else logits - shift) / tau


LEAST = -1e15
"""What logits are bounded by: over any temperature and its square still in the range of float32."""


def bounded_below(logits: Tensor) -> Tensor:
    """Logits of -1e15 at least, float32 or wider: as surely impossible as minus infinity at any temperature.

    Networks mask classes with minus infinity or the least number of their type. Over a small temperature, or in the
    gradient of τ, such numbers leave the range, and the loss is NaN where student and teacher mask the same class.
    """
    return at_least_float32(logits).clamp(min=LEAST)


def masked_classes(logits: Tensor) -> Tensor:
    """Which of the logits (..., C) a network has set to say that the class cannot be: those of -9000 or less.

    Usual fillings are -1e4 (of which bfloat16 makes -9984), -1e9, the least number of a type and minus infinity.
    """
    return logits <= -9000


def check_temperature(temperature: float | Tensor, logits: Tensor) -> Tensor:
    """Return the temperature as a tensor on the logits' device, in float32 or wider.

    A tensor's values are not looked at: that would wait for the device at each step.

    Args:
        temperature: a float, a scalar tensor, or one per sample or position.
        logits: (..., C).

    Raises:
        UserError: a float that is not positive and finite, or a tensor that fits neither the samples nor the positions.
    """
    if not isinstance(temperature, Tensor):
        check_number("temperature", temperature, above=0)
        dtype = torch.promote_types(logits.dtype, torch.float32)
        return logits.new_full((), float(temperature), dtype=dtype)  # filled on the device: no copy from the host
    positions = logits.shape[:-1]
    shape = temperature.shape
    if not (
        temperature.numel() == 1
        or shape == positions[: temperature.ndim]
        or shape == (*positions[: temperature.ndim - 1], 1)
    ):
        per_sample = [f"one per sample ({positions[0]},) or ({positions[0]}, 1)"] if positions else []
        each = [f"one per position {tuple(positions)}"] if len(positions) > 1 else []
        expected = " or ".join(["a scalar", *per_sample, *each])
        raise UserError(f"temperature has shape {tuple(shape)}: expected {expected}")
    return at_least_float32(temperature)


def per_position(temperature: Tensor, logits: Tensor) -> Tensor:
    """Shape a temperature so that it broadcasts over the logits from the left: (B,) or (B, 1) to (B, 1, …, 1).

    Left to itself, broadcasting would align (B,) with the classes.
    """
    if temperature.numel() == 1:
        return temperature.reshape(())
    if temperature.shape[-1] == 1 and temperature.shape != logits.shape[: temperature.ndim]:
        temperature = temperature.squeeze(-1)
    return temperature.reshape(temperature.shape + (1,) * (logits.ndim - temperature.ndim))
