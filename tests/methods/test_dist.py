import pytest
import torch
from scipy.stats import pearsonr

from ctkd_lightning import FixedTemperature, GlobalTemperature
from ctkd_lightning.errors import UserError
from ctkd_lightning.methods import DIST, NetworkOutput, Step, dist_loss
from tests.methods import golden
from tests.methods.setting import Setting

SETTINGS = {"dist": Setting(DIST, dist_loss)}


@pytest.mark.parametrize("tau", [torch.tensor(1.0), torch.linspace(1, 8, 8)])
def test_correlations_of_scipy(tau):
    student, teacher = golden.STUDENT_LOGITS, golden.TEACHER_LOGITS
    q, p = ((x / tau.reshape(-1, 1)).softmax(1) for x in (student, teacher))
    # scipy has no floor below which a prediction counts as constant: at τ = 1 some classes are that improbable
    samples = sum(1 - pearsonr(q[i], p[i]).statistic for i in range(8)) / 8
    classes = sum(1 - pearsonr(q[:, c], p[:, c]).statistic for c in range(10)) / 10
    assert dist_loss(student, teacher, tau, beta=1.0, gamma=0.0).item() == pytest.approx(samples, rel=3e-5)
    assert dist_loss(student, teacher, tau, beta=2.0, gamma=3.0).item() == pytest.approx(
        2 * samples + 3 * classes, rel=3e-5
    )


def test_constants_are_uncorrelated():
    logits = torch.randn(4, 3)
    assert dist_loss(torch.zeros(4, 3), logits, 1.0).item() == pytest.approx(2.0)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4)])
def test_takes_a_batch_of_predictions_alone(shape):
    with pytest.raises(UserError, match=r"student logits have shape .* expected \(B, C\)"):
        dist_loss(torch.zeros(shape), torch.zeros(shape), 1.0)


def term(method, temperature):
    student, teacher = golden.STUDENT_LOGITS, golden.TEACHER_LOGITS
    softening = temperature.double().soften(student, teacher)
    return method(NetworkOutput(student), NetworkOutput(teacher), Step(), softening)


def test_the_factor_of_the_authors_code_where_the_temperature_is_fixed():
    student, teacher = golden.STUDENT_LOGITS, golden.TEACHER_LOGITS
    torch.testing.assert_close(term(DIST(), FixedTemperature(4.0)), 16 * dist_loss(student, teacher, 4.0))
    torch.testing.assert_close(term(DIST(tau_squared=False), FixedTemperature(4.0)), dist_loss(student, teacher, 4.0))


def test_a_learned_temperature_has_no_factor_in_training_or_out_of_it():
    temperature = GlobalTemperature(initial_value=0.0)  # 11
    expected = dist_loss(golden.STUDENT_LOGITS, golden.TEACHER_LOGITS, 11.0)
    torch.testing.assert_close(term(DIST(), temperature), expected)
    with torch.no_grad():
        torch.testing.assert_close(term(DIST(), temperature), expected)


def test_the_factor_is_there_or_not():
    with pytest.raises(UserError, match="DIST's tau_squared must be true or false, found 1"):
        DIST(tau_squared=1)
