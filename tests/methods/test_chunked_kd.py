import pytest
import torch
import torch.nn.functional as F

from ctkd_lightning.errors import UserError
from ctkd_lightning.methods import _chunked_kd, kd_loss
from ctkd_lightning.methods._chunked_kd import chunked_divergence
from tests.methods import golden


@pytest.fixture
def small_pieces(monkeypatch):
    """Pieces of four logits, so that any input is worth chunking."""
    monkeypatch.setitem(_chunked_kd.CHUNK, "cpu", 4)


@pytest.mark.parametrize("tau", ["1", "2", "4", "15.621171572600097"])
def test_golden(small_pieces, tau):
    temperature = torch.tensor(float(tau), dtype=torch.float64, requires_grad=True)
    golden.check(f"kd@{tau}", lambda s: kd_loss(s, golden.TEACHER_LOGITS, temperature), golden.STUDENT_LOGITS)
    assert temperature.grad.item() == pytest.approx(golden.CASES[f"kd@{tau}"]["grad_tau"], rel=1e-6)


def test_all_three_gradients_are_the_finite_differences():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(5, 7, generator=generator, dtype=torch.float64) * 3 for _ in range(2))
    tau = 1 + torch.rand(5, 1, generator=generator, dtype=torch.float64)
    inputs = [x.requires_grad_() for x in (student, teacher, tau)]
    assert torch.autograd.gradcheck(chunked_divergence, inputs)


@pytest.mark.parametrize("needed", [(True, False, False), (False, True, False), (False, False, True)])
def test_only_what_is_asked_for_gets_a_gradient(small_pieces, needed):
    inputs = [torch.randn(3, 5), torch.randn(3, 5), torch.full((3, 1), 2.0)]
    for tensor, flag in zip(inputs, needed, strict=True):
        tensor.requires_grad_(flag)
    chunked_divergence(*inputs).sum().backward()
    assert tuple(x.grad is not None for x in inputs) == needed


@pytest.mark.parametrize("shape", [(), (4,), (4, 1), (4, 3)])
def test_positions_mask_and_temperatures(small_pieces, shape):
    """Against torch's own divergence, position by position."""
    student, teacher = torch.randn(4, 3, 6, dtype=torch.float64), torch.randn(4, 3, 6, dtype=torch.float64)
    tau = 1 + torch.rand(shape, dtype=torch.float64)
    mask = torch.tensor([[True, False, True]] * 4)
    whole = tau.reshape(shape + (1,) * (2 - len(shape))).expand(4, 3) if shape else tau.expand(4, 3)
    each = [
        whole[i, j] ** 2
        * F.kl_div(
            (student[i, j] / whole[i, j]).log_softmax(0),
            (teacher[i, j] / whole[i, j]).log_softmax(0),
            log_target=True,
            reduction="sum",
        )
        for i in range(4)
        for j in range(3)
        if mask[i, j]
    ]
    torch.testing.assert_close(kd_loss(student, teacher, tau, mask=mask), torch.stack(each).mean())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_computes_in_float32(small_pieces, dtype):
    student, teacher = (torch.randn(6, 50) * 5).to(dtype).requires_grad_(), (torch.randn(6, 50) * 5).to(dtype)
    loss = kd_loss(student, teacher, 3.3)
    (loss * 2**12).backward()
    exact = student.detach().double().requires_grad_()
    expected = 3.3**2 * F.kl_div(
        (exact / 3.3).log_softmax(1), (teacher.double() / 3.3).log_softmax(1), log_target=True, reduction="batchmean"
    )
    (expected * 2**12).backward()
    assert student.grad.dtype == dtype
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(
        student.grad.double(), exact.grad, rtol=2 ** -(7 if dtype == torch.bfloat16 else 10), atol=1e-2
    )


def test_autocast_changes_nothing(small_pieces):
    values = torch.randn(2, 6, 50, dtype=torch.float64) * 5
    exact, (student, teacher) = values.clone().requires_grad_(), values.float()
    tau = torch.tensor(3.3, dtype=torch.float64, requires_grad=True)
    log_q, log_p = ((x / tau).log_softmax(1) for x in exact)
    expected = tau**2 * F.kl_div(log_q, log_p, log_target=True, reduction="batchmean")
    expected.backward()
    student, teacher, temperature = (x.requires_grad_() for x in (student, teacher, torch.tensor(3.3)))
    with torch.autocast("cpu", torch.bfloat16):
        loss = kd_loss(student, teacher, temperature)
        loss.backward()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(torch.stack([student.grad, teacher.grad]).double(), exact.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(temperature.grad.double(), tau.grad, rtol=1e-4, atol=0)


def test_large_logits_go_in_pieces_by_themselves_and_small_or_strided_ones_do_not():
    large = torch.empty(64, 2**15)
    assert _chunked_kd.worth_chunking(large, large)
    assert not _chunked_kd.worth_chunking(large[:, :-1], large[:, :-1])
    assert not _chunked_kd.worth_chunking(torch.empty(64, 100), torch.empty(64, 100))


def test_backward_twice(small_pieces):
    student, teacher = torch.randn(4, 5, requires_grad=True), torch.randn(4, 5)
    loss = kd_loss(student, teacher, 2.0)
    first, second = (torch.autograd.grad(loss, student, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_a_second_derivative_is_refused(small_pieces):
    student = torch.randn(4, 5, requires_grad=True)
    loss = kd_loss(student, torch.randn(4, 5), 2.0).square()
    with pytest.raises(UserError, match=r"no second derivative, and create_graph=True asks for one: leave it out, or"):
        torch.autograd.grad(loss, student, create_graph=True)
