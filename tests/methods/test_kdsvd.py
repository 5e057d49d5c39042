import itertools

import numpy as np
import pytest
import torch

from ctkd_lightning.errors import UserError
from ctkd_lightning.methods import FSP, KDSVD, NetworkOutput, kdsvd_loss
from ctkd_lightning.methods.kdsvd import _SymmetricEigen
from tests.methods.setting import SMALL, Setting, on_levels

SETTINGS = {"kdsvd": Setting(KDSVD, on_levels(kdsvd_loss), SMALL, SMALL)}


def plain_loss(student, teacher, rank):
    """One sample after the other, with numpy's decomposition of the maps themselves."""
    losses = []
    for i in range(len(student[0])):
        directions = [plain_directions(s[i], t[i], rank) for s, t in zip(student, teacher, strict=True)]
        kernels = [
            [np.exp(-((after[:, :, None] - before[:, None, :]) ** 2) / 8) for before, after in itertools.pairwise(side)]
            for side in zip(*directions, strict=True)
        ]
        losses.append(sum(((s - t) ** 2).sum() for s, t in zip(*kernels, strict=True)))
    return np.mean(losses)


def plain_directions(student, teacher, rank):
    candidates = np.linalg.svd(student.flatten(1).T.numpy(), full_matrices=False)[2][: rank + 3]
    _, values, directions = np.linalg.svd(teacher.flatten(1).T.numpy())
    chosen = []
    for k in range(rank):
        directions[k] *= 1 if directions[k].sum() >= 0 else -1
        cosines = candidates @ directions[k]
        nearest = np.abs(cosines).argmax()
        chosen.append(candidates[nearest] * np.sign(cosines[nearest]))
    share = values[:rank, None] / np.linalg.norm(values[:rank])
    return np.stack(chosen) * share, directions[:rank] * share


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("size", [2, 8])  # fewer positions than channels, and more
def test_decomposition_of_numpy(size, rank):
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 6, size, size), (3, 5, size, size), (3, 5, size, size)]
    student, teacher = ([torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes] for _ in range(2))
    expected = plain_loss(student, teacher, rank)
    assert kdsvd_loss(student, teacher, rank).item() == pytest.approx(expected, rel=1e-9)


def test_equal_singular_values_have_finite_gradients():
    student = torch.eye(4).view(1, 4, 2, 2).repeat(2, 1, 1, 1).requires_grad_()
    other = torch.rand(2, 3, 2, 2)
    kdsvd_loss([student, other], [torch.rand(2, 4, 2, 2), other]).backward()
    assert student.grad.isfinite().all()


def test_eigenvectors_have_torchs_gradient():
    matrix = torch.randn(3, 5, 5, dtype=torch.float64)
    matrix = (matrix + matrix.transpose(1, 2)).requires_grad_()
    weight = torch.randn(3, 5, 5, dtype=torch.float64)

    def gradient(vectors):
        return torch.autograd.grad((vectors.square() * weight).sum(), matrix)[0]

    torch.testing.assert_close(gradient(_SymmetricEigen.apply(matrix)[1]), gradient(torch.linalg.eigh(matrix)[1]))


@pytest.mark.parametrize("method", [KDSVD, FSP])
def test_other_widths_are_refused_before_the_training(method):
    def output(width):
        return NetworkOutput(torch.zeros(2, 3), {f"stage{i}": torch.rand(2, width * i, 4, 4) for i in (1, 2)})

    with pytest.raises(UserError, match="compares networks of the same widths; found"):
        method().build(output(3), output(5))
    method().build(output(3), output(3))


def test_wrong_input():
    maps = [torch.rand(2, 3, 4, 4)]
    with pytest.raises(UserError, match="found 1 student maps and 1 teacher maps: pass two or more"):
        kdsvd_loss(maps, maps)
