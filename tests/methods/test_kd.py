import pytest
import torch

from ctkd_lightning.errors import UserError
from ctkd_lightning.methods import KD, _chunked_kd, kd_loss
from tests.methods import golden
from tests.methods.setting import Setting

SETTINGS = {"kd": Setting(KD, kd_loss)}

TEMPERATURES = ["1", "2", "4", "15.621171572600097"]


@pytest.mark.parametrize("tau", TEMPERATURES)
def test_golden(tau):
    temperature = torch.tensor(float(tau), dtype=torch.float64, requires_grad=True)
    golden.check(f"kd@{tau}", lambda s: kd_loss(s, golden.TEACHER_LOGITS, temperature), golden.STUDENT_LOGITS)
    assert temperature.grad.item() == pytest.approx(golden.CASES[f"kd@{tau}"]["grad_tau"], rel=1e-6)


@pytest.mark.parametrize("shape", [(8,), (8, 1)])
def test_golden_per_sample(shape):
    case = golden.CASES["kd@instance"]
    temperature = torch.tensor(case["tau"], dtype=torch.float64).reshape(shape).requires_grad_()
    golden.check("kd@instance", lambda s: kd_loss(s, golden.TEACHER_LOGITS, temperature), golden.STUDENT_LOGITS)
    # the reference adds 1e-7 to the teacher's probabilities
    expected = torch.tensor(case["grad_tau"], dtype=torch.float64)
    torch.testing.assert_close(temperature.grad.flatten(), expected, rtol=2e-5, atol=0)


def test_mask_and_class_dimension_keep_the_kept_positions():
    student, teacher = torch.randn(2, 5, 3, 4), torch.randn(2, 5, 3, 4)
    mask = torch.rand(2, 3, 4) > 0.5
    rows = [x.movedim(1, -1)[mask] for x in (student, teacher)]
    expected = torch.nn.functional.kl_div(
        (rows[0] / 3).log_softmax(1), (rows[1] / 3).log_softmax(1), log_target=True, reduction="batchmean"
    )
    torch.testing.assert_close(kd_loss(student, teacher, 3.0, mask=mask, class_dim=1), 9 * expected)
    assert kd_loss(student, teacher, 3.0, mask=torch.zeros_like(mask), class_dim=1) == 0


@pytest.mark.parametrize("in_pieces", [False, True])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_the_mask_leaves_out_may_be_anything(monkeypatch, in_pieces, value):
    if in_pieces:
        monkeypatch.setitem(_chunked_kd.CHUNK, "cpu", 4)
    mask = torch.tensor([[True, False, True], [False, True, True]])
    clean = [torch.randn(2, 3, 5, dtype=torch.float64) for _ in range(2)]

    def gradients(rows, temperature, **options):
        inputs = [*(x.requires_grad_() for x in rows), torch.tensor(temperature).double().requires_grad_()]
        return torch.autograd.grad(kd_loss(*inputs, **options), inputs)

    spoilt = [x.masked_fill(~mask[..., None], value) for x in clean]
    student, teacher, temperature = gradients(spoilt, 3.0, mask=mask)
    expected = gradients([x[mask] for x in clean], 3.0)
    for found, kept in zip((student, teacher), expected[:2], strict=True):
        torch.testing.assert_close(found[mask], kept)
        assert not found[~mask].any()
    torch.testing.assert_close(temperature, expected[2])


def test_no_rows_are_no_loss():
    student = torch.zeros(0, 3, requires_grad=True)
    loss = kd_loss(student, torch.zeros(0, 3), 4.0)
    assert loss == 0
    assert torch.autograd.grad(loss, student)[0].shape == (0, 3)


def test_wrong_input():
    logits = torch.zeros(2, 3)
    with pytest.raises(UserError, match=r"student logits have shape \(2, 3\) and teacher logits \(2, 4\)"):
        kd_loss(logits, torch.zeros(2, 4), 1.0)
    with pytest.raises(UserError, match="temperature must be a finite number above 0, found 0"):
        kd_loss(logits, logits, 0.0)
    with pytest.raises(UserError, match=r"temperature has shape \(3,\)"):
        kd_loss(logits, logits, torch.ones(3))
    with pytest.raises(UserError, match=r"mask has shape \(3,\), the logits' positions are \(2,\)"):
        kd_loss(logits, logits, 1.0, mask=torch.ones(3))
    with pytest.raises(UserError, match=r"class_dim is 2, found .* \(2, 3\): pass a dimension from -2 to 1"):
        kd_loss(logits, logits, 1.0, class_dim=2)
