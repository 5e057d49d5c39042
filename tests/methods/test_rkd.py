import itertools

import pytest
import torch
from scipy.spatial.distance import pdist, squareform

from ctkd_lightning.errors import UserError
from ctkd_lightning.methods import RKD, rkd_loss
from tests.methods import golden
from tests.methods.setting import Setting

SETTINGS = {"rkd": Setting(RKD, rkd_loss, (7,), (5,))}


def test_golden():
    golden.check("rkd(w_d=25,w_a=50)", lambda s: rkd_loss(s, golden.TEACHER_VECTOR), golden.STUDENT_VECTOR)


def huber(x):
    return 0.5 * x**2 if abs(x) < 1 else abs(x) - 0.5


def test_distances_of_scipy():
    student, teacher = golden.STUDENT_VECTOR, golden.TEACHER_VECTOR
    distances = [squareform(pdist(x) / pdist(x).mean()) for x in (student, teacher)]
    expected = sum(huber(a - b) for a, b in zip(*(d.ravel() for d in distances), strict=True)) / 64
    assert rkd_loss(student, teacher, 1.0, 0.0).item() == pytest.approx(expected)


@pytest.mark.parametrize("vertices", [3, 8, 100])
def test_angles_one_by_one(vertices):
    features = golden.STUDENT_VECTOR, golden.TEACHER_VECTOR

    def cosine(x, i, j, k):
        a, b = x[j] - x[i], x[k] - x[i]
        return torch.nn.functional.cosine_similarity(a, b, dim=0).item() if i not in (j, k) else 0.0

    count = min(vertices, 8)
    angles = [(i, j, k) for i, j, k in itertools.product(range(count), range(8), range(8))]
    expected = sum(huber(cosine(features[0], *a) - cosine(features[1], *a)) for a in angles) / len(angles)
    assert rkd_loss(*features, 0.0, 1.0, vertices=vertices).item() == pytest.approx(expected)


def test_equal_samples_have_finite_gradients():
    student = torch.randn(4, 3)
    student[1] = student[0]
    student.requires_grad_()
    rkd_loss(student, torch.randn(4, 3)).backward()
    assert student.grad.isfinite().all()


def test_wrong_input():
    with pytest.raises(UserError, match="RKD's vertices must be a whole number from 1, found 0"):
        rkd_loss(torch.zeros(2, 3), torch.zeros(2, 3), vertices=0)
