import pytest
import torch
from scipy.stats import pearsonr

from ctkd_lightning.errors import UserError
from ctkd_lightning.methods import dist_loss
from tests.methods import golden


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
