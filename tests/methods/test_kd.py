import pytest
import torch

from ctkd_lightning.errors import UserError
from ctkd_lightning.methods import kd_loss
from tests.methods import golden

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
    golden.check("kd@instance", lambda s: kd_loss(s, golden.TEACHER_LOGITS, temperature), golden.STUDENT_LOGITS, 2e-6)
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


def test_wrong_input():
    logits = torch.zeros(2, 3)
    with pytest.raises(UserError, match=r"student logits have shape \(2, 3\) and teacher logits \(2, 4\)"):
        kd_loss(logits, torch.zeros(2, 4), 1.0)
    with pytest.raises(UserError, match="temperature must be positive, found 0"):
        kd_loss(logits, logits, 0.0)
    with pytest.raises(UserError, match=r"temperature has shape \(3,\)"):
        kd_loss(logits, logits, torch.ones(3))
    with pytest.raises(UserError, match=r"mask has shape \(3,\), the logits' positions are \(2,\)"):
        kd_loss(logits, logits, 1.0, mask=torch.ones(3))
