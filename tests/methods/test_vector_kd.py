import math

import pytest
import torch
from torch import nn

from ctkd_lightning.errors import UserError
from ctkd_lightning.methods import NetworkOutput, VectorKD, vector_kd_loss
from tests.methods.setting import Setting

SETTINGS = {"vector_kd": Setting(VectorKD, vector_kd_loss, student=(7,), teacher=(7,))}


@pytest.mark.parametrize("size", [1, 5])
def test_loops(size):
    student, teacher = torch.randn(4, size).double(), torch.randn(4, size).double()
    l2 = sum((float(a) - float(b)) ** 2 for a, b in zip(student.flatten(), teacher.flatten(), strict=True)) / (4 * size)
    assert float(vector_kd_loss(student, teacher)) == pytest.approx(l2)
    cosine = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        dot = sum(a * b for a, b in zip(s, t, strict=True))
        cosine += 1 - dot / math.sqrt(sum(a * a for a in s) * sum(b * b for b in t))
    assert float(vector_kd_loss(student, teacher, "cosine")) == pytest.approx(cosine / 4)


def test_lengths_do_not_matter_to_the_cosine():
    vectors = torch.randn(4, 5)
    torch.testing.assert_close(vector_kd_loss(3 * vectors, vectors, "cosine"), torch.tensor(0.0), rtol=0, atol=1e-6)


def test_the_student_is_brought_to_the_teachers_width():
    student, teacher = torch.randn(4, 3), torch.randn(4, 6)
    method = VectorKD()
    outputs = [NetworkOutput(x, {"pooled": x}) for x in (student, teacher)]
    method.build(*outputs)
    weight = next(method.parameters())
    assert weight.shape == (6, 3)
    torch.testing.assert_close(method.loss(*outputs), nn.functional.mse_loss(student @ weight.T, teacher))


def test_wrong_input():
    with pytest.raises(UserError, match="expected the same shape"):
        vector_kd_loss(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(UserError, match="distance is 'l3'"):
        VectorKD("l3")
