"""How the common tests check one method: a row in the method's own test file, gathered in settings.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ctkd_lightning.methods import Method

NUM_SAMPLES = 40
SMALL, LARGE = (3, 4, 4), (5, 6, 6)  # maps


@dataclass(frozen=True)
class Setting:
    """How to check one method.

    Attributes:
        make: the method, with small sizes.
        loss: its function, on a student's and a teacher's tensor (and, if the temperature acts on it, a temperature).
        student: shape of the student's tensor, after the batch.
        teacher: shape of the teacher's.
        frozen: where the function detaches a part of what it computes: the same loss of the same arguments and, as
            ``at=``, of the arguments once more, from which it computes that part. Its derivative with ``at`` held
            still is what the function's gradient must be.
    """

    make: Callable[[], Method]
    loss: Callable[..., Tensor]
    student: tuple[int, ...] = (7,)
    teacher: tuple[int, ...] = (7,)
    frozen: Callable[..., Tensor] | None = None

    @property
    def same_widths(self) -> bool:
        """Whether it wants networks with the same numbers of channels."""
        return self.make().facts.same_widths


def on_levels(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Of a function of lists of maps, one of a map: of it and of a part."""

    def on_two_maps(student: Tensor, teacher: Tensor) -> Tensor:
        return loss([student, student[:, :2, ::2, ::2]], [teacher, teacher[:, :2, ::2, ::2]])

    return on_two_maps


def classes(like: Tensor) -> Tensor:
    """A class for each sample of a tensor."""
    return torch.arange(len(like)) % 2


def check_gradient(setting: Setting, inputs: tuple[Tensor, ...]) -> None:
    """Compare the function's gradients with finite differences; ``inputs`` are as its arguments, float64."""
    if setting.frozen is None:
        torch.autograd.gradcheck(setting.loss, inputs)
        return
    frozen, at = setting.frozen, tuple(x.detach().clone() for x in inputs)
    sources = [x for x in inputs if x.requires_grad]
    found = torch.autograd.grad(setting.loss(*inputs), sources, allow_unused=True, materialize_grads=True)
    expected = torch.autograd.grad(frozen(*inputs, at=at), sources, allow_unused=True, materialize_grads=True)
    torch.testing.assert_close(setting.loss(*inputs), frozen(*inputs, at=at))
    torch.testing.assert_close(found, expected)
    torch.autograd.gradcheck(lambda *args: frozen(*args, at=at), inputs)
