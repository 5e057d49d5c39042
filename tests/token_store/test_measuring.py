import pytest
import torch
import torch.nn.functional as F

from ctkd_lightning.methods import _chunked_kd
from ctkd_lightning.token_store._basis import basis_of_rows
from ctkd_lightning.token_store._measuring import Student, relative_errors, stand_in

N, V, H = 12, 20, 5


def three(seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden, weight, teacher, off = (
        torch.randn(shape, generator=generator) for shape in ((N, H), (V, H), (N, V), (N, V))
    )
    return hidden, weight, teacher, teacher + 0.1 * off


def of_kd(hidden, weight, teacher, tau):
    """KD of each token, and its gradients by autograd."""
    hidden, weight = hidden.double().requires_grad_(), weight.double().requires_grad_()
    log_q = F.log_softmax(hidden @ weight.T / tau, dim=1)
    each = F.kl_div(log_q, F.log_softmax(teacher.double() / tau, dim=1), log_target=True, reduction="none").sum(dim=1)
    return each.detach(), *torch.autograd.grad(each.sum(), (hidden, weight))


@pytest.mark.parametrize("tau", [1.0, 7.0])
def test_errors_are_those_of_autograd(tau, monkeypatch):
    monkeypatch.setitem(_chunked_kd.CHUNK, "cpu", 5 * V)  # pieces of five tokens
    hidden, weight, teacher, kept = three()
    found = relative_errors(teacher, kept, Student(hidden @ weight.T, hidden, weight), [tau])[f"{tau:g}"]
    (k, *gradients), (k_off, *off) = of_kd(hidden, weight, teacher, tau), of_kd(hidden, weight, kept, tau)
    expected = [float((k_off - k).abs().sum() / k.sum())]
    expected += [float((b - a).norm() / a.norm()) for a, b in zip(gradients, off, strict=True)]
    assert list(found.values()) == pytest.approx(expected, rel=1e-4)


def test_what_is_kept_whole_has_no_error():
    hidden, weight, teacher, _ = three()
    student = Student(hidden @ weight.T, hidden, weight)
    of_constants = relative_errors(teacher, teacher + torch.arange(N)[:, None], student)
    assert max(error for errors in of_constants.values() for error in errors.values()) < 1e-4


def test_the_stand_in_s_error_is_half_as_large_as_the_logits_vary():
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(500, 8, generator=generator) @ torch.randn(8, 30, generator=generator)
    student = stand_in(teacher, basis_of_rows(teacher))
    difference = student.logits - teacher
    varying = teacher - teacher.mean(dim=0)
    varying = varying - varying.mean(dim=1, keepdim=True)
    assert float(difference.norm() / varying.norm()) == pytest.approx(0.5, rel=0.05)
    # a function of what the teacher says: the same rows have the same error
    again = stand_in(teacher.flip(0), basis_of_rows(teacher)).logits.flip(0)
    torch.testing.assert_close(again, student.logits, atol=1e-3, rtol=1e-3)


def test_logits_that_hardly_vary_are_measured_all_the_same():
    """A divergence of 1e-10 is no rounding: the errors of a flat teacher at high τ are those at τ = 1."""
    generator = torch.Generator().manual_seed(0)
    hidden, head = torch.randn(64, 8, generator=generator), torch.randn(300, 8, generator=generator)
    teacher = 5e-3 * hidden @ head.T
    student = Student(teacher + 2e-3 * hidden.roll(1, 0) @ head.T, hidden, head)
    kept = teacher + 1e-5 * hidden.roll(2, 0) @ head.T
    found = relative_errors(teacher, kept, student, [1.0, 16.0])
    assert 0 < found["1"]["kl"] < 0.05
    for part, error in found["1"].items():
        assert found["16"][part] == pytest.approx(error, rel=0.02)
