import pytest
import torch
from scipy.stats import zscore

from ctkd_lightning.methods import LSKD, lskd_loss
from ctkd_lightning.temperature import FixedTemperature, LSKDTemperature
from tests.methods import golden
from tests.methods.setting import Setting

SETTINGS = {"lskd": Setting(LSKD, lskd_loss)}


def test_golden():
    temperature = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    golden.check("lskd@2", lambda s: lskd_loss(s, golden.TEACHER_LOGITS, temperature), golden.STUDENT_LOGITS)
    assert temperature.grad.item() == pytest.approx(golden.CASES["lskd@2"]["grad_tau"], rel=1e-6)


def test_standardises_as_scipy_does():
    logits = torch.randn(2, 3, 10, dtype=torch.float64) * 5 + 2
    expected = torch.from_numpy(zscore(logits.numpy(), axis=-1, ddof=1))
    torch.testing.assert_close(
        LSKDTemperature(FixedTemperature(1.0)).soften(logits, logits).soften_student(logits), expected
    )


def test_floor_of_the_deviation():
    logits = torch.tensor([3e-4, 0.0, 1e-4], dtype=torch.float64)
    centred = logits - logits.mean()
    expected = 2**0.5 * centred / (centred.square().sum() + 1e-4**2).sqrt()
    torch.testing.assert_close(
        LSKDTemperature(FixedTemperature(1.0)).soften(logits, logits).soften_student(logits), expected
    )
