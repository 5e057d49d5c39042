import pytest
import torch
from sklearn.metrics.pairwise import polynomial_kernel

from ctkd_lightning.methods import NST, nst_loss
from tests.methods import golden
from tests.methods.setting import LARGE, SMALL, Setting

SETTINGS = {"nst": Setting(NST, nst_loss, SMALL, LARGE)}


def test_golden():
    golden.check("nst", lambda s: nst_loss(s, golden.TEACHER_MAP), golden.STUDENT_MAP)


@pytest.mark.parametrize("size", [2, 8])  # fewer positions than channels, and more
def test_discrepancy_of_sklearns_kernels(size):
    student, teacher = torch.randn(3, 6, size, size), torch.randn(3, 9, size, size)
    rows = [torch.nn.functional.normalize(x.flatten(2), dim=2).numpy() for x in (student, teacher)]

    def kernel(a, b):
        return polynomial_kernel(a, b, degree=2, gamma=1, coef0=0).mean()

    expected = [kernel(s, s) + kernel(t, t) - 2 * kernel(s, t) for s, t in zip(*rows, strict=True)]
    assert nst_loss(student, teacher).item() == pytest.approx(sum(expected) / 3, rel=1e-5)
