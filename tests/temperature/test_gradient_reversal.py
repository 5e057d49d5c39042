import pytest
import torch

from ctkd_lightning import gradient_reversal
from ctkd_lightning.errors import UserError


@pytest.mark.parametrize("lambda_", [0.0, 0.3, 1.0, torch.tensor(0.3)])
def test_forward_is_identity_and_backward_is_minus_lambda(lambda_):
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(4, 3, dtype=torch.float64)
    y = gradient_reversal(x, lambda_)
    assert torch.equal(y, x)
    y.backward(upstream)
    torch.testing.assert_close(x.grad, -float(lambda_) * upstream)


def test_second_derivative():
    # d²/dx² of x³ through the reversal: each backward pass turns the sign once more
    x = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(gradient_reversal(x, 0.5) ** 3, x, create_graph=True)
    (second,) = torch.autograd.grad(first, x)
    assert first.item() == pytest.approx(-0.5 * 12.0)
    assert second.item() == pytest.approx(0.25 * 12.0)


def test_works_under_vmap_and_half_precision():
    x = torch.randn(5, dtype=torch.bfloat16, requires_grad=True)
    torch.func.vmap(lambda v: gradient_reversal(v, torch.tensor(0.5)))(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, -0.5))


def test_negative_lambda_is_refused():
    with pytest.raises(UserError, match="lambda_ must not be negative, found -1"):
        gradient_reversal(torch.zeros(1), -1.0)
