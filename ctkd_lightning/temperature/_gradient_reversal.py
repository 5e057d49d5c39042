"""The layer that lets a temperature be trained against the student."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from ctkd_lightning.errors import UserError


class _GradientReversal(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, lambda_: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        (lambda_,) = ctx.saved_tensors
        return -lambda_.to(grad_output.dtype) * grad_output, None


# torch asks for it at each call, which took longer than the call: what is kept here need not be made again
_GradientReversal.forward.__signature__ = inspect.signature(_GradientReversal.forward)  # type: ignore[attr-defined]


def gradient_reversal(x: Tensor, lambda_: float | Tensor) -> Tensor:
    r"""Identity forward, gradient times :math:`-\lambda` backward.

    Ganin and Lempitsky, *Unsupervised Domain Adaptation by Backpropagation*, ICML 2015,
    https://arxiv.org/abs/1409.7495. What lies before the layer is trained to raise the loss that what lies after it is
    trained to lower; λ = 0 stops the gradient.

    Args:
        x: any shape.
        lambda_: λ ≥ 0, a float or a scalar tensor (whose value is not checked: that would wait for the device).

    Raises:
        UserError: a negative float; the sign is turned here, once.

    Example:
        >>> x = torch.tensor(3.0, requires_grad=True)
        >>> gradient_reversal(x, 0.5).square().backward()
        >>> x.grad
        tensor(-3.)
    """
    if not isinstance(lambda_, Tensor):
        if not lambda_ >= 0:
            raise UserError(f"lambda_ must not be negative, found {lambda_}: the reversal turns the sign itself")
        lambda_ = torch.full((), float(lambda_), dtype=x.dtype, device=x.device)
    return _GradientReversal.apply(x, lambda_)
