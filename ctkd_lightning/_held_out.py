"""How the student's output on a batch changes along the gradient of its loss on held-out samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map_only

from ctkd_lightning._across_processes import mean_of_all
from ctkd_lightning.errors import UserError
from ctkd_lightning.features._asking import StudentCall
from ctkd_lightning.features.layers import unwrap
from ctkd_lightning.features.outputs import at_least_float32

_STEP = 0.05  # of the cube root of the type's precision: the gradient's direction is curved more than most


class HeldOutDirection:
    r"""The student's derivative along the normed gradient :math:`\hat g` of its held-out loss, by central difference.

    .. math:: \frac{\partial z}{\partial \theta} \hat g \approx
        \frac{z(\theta + \delta \hat g) - z(\theta - \delta \hat g)}{2 \delta}

    δ is a small part of θ's length. Three passes that leave no trace: the student is as it was, its buffers (as of
    batch normalisation) and all random numbers too. It runs in its own mode, and dropout draws what it will draw in the
    student's own pass that follows. The passes are in float32 or wider, whatever the precision of the training, in
    which the difference would be lost, and not compiled. With several processes :math:`\hat g` is of the mean of their
    held-out losses.

    Args:
        student: the network.
    """

    def __init__(self, student: nn.Module) -> None:
        self._student = unwrap(student)

    def ends(self, call: StudentCall, held_out: StudentCall, loss: Callable[[Any], Tensor]) -> tuple[Any, Any, Tensor]:
        r"""The student's outputs at :math:`\theta \pm \delta \hat g`, without gradients, and 2 δ.

        Args:
            call: the arguments on the training batch.
            held_out: on the held-out batch.
            loss: from the output on the held-out batch to its loss.

        Raises:
            UserError: the held-out loss does not depend on the student's parameters.
        """
        trained = {name: p for name, p in self._student.named_parameters() if p.requires_grad}
        with torch.enable_grad():
            start = {name: at_least_float32(p.detach()).requires_grad_() for name, p in trained.items()}
            value = loss(self._run(start, held_out))
            if not value.requires_grad:
                raise UserError(
                    "the loss of the held-out samples depends on no trained parameter of the student: unfreeze some, "
                    "or take another objective than 'held_out'"
                )
            found = torch.autograd.grad(value, list(start.values()), allow_unused=True, materialize_grads=True)
        with torch.no_grad():
            gradients = mean_of_all(found)
            size = _length(start.values()).clamp(min=1) * _STEP * torch.finfo(gradients[0].dtype).eps ** (1 / 3)
            factor = size / _length(gradients).clamp(min=torch.finfo(size.dtype).tiny)
            ends = (
                {name: p + sign * factor * g for (name, p), g in zip(start.items(), gradients, strict=True)}
                for sign in (1, -1)
            )
            above, below = (self._run(parameters, call) for parameters in ends)
        return above, below, 2 * size

    def _run(self, parameters: Mapping[str, Tensor], call: StudentCall) -> Any:
        device = next(self._student.parameters()).device
        state = {name: at_least_float32(x).clone() for name, x in self._student.named_buffers()}
        state |= {n: at_least_float32(p) for n, p in self._student.named_parameters() if n not in parameters}
        args, kwargs = tree_map_only(Tensor, _own, (call.args, call.kwargs))
        with _same_random_numbers(device), torch.autocast(device.type, enabled=False):
            return functional_call(self._student, {**state, **parameters}, args, kwargs)


def with_gradients(parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """A term of the value 0 that has these gradients, and reaches nothing but these parameters."""
    terms = [((p - p.detach()) * g.to(p)).sum() for p, g in zip(parameters, gradients, strict=True)]
    return torch.stack(terms).sum()


def _own(x: Tensor) -> Tensor:
    """Widened, and a copy: the network may write into its input."""
    return at_least_float32(x.detach()).clone()


def _length(tensors: Any) -> Tensor:
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(x.detach()) for x in tensors]))


def _same_random_numbers(device: torch.device) -> AbstractContextManager[None]:
    return torch.random.fork_rng([device] if device.type == "cuda" else [])
