import numpy as np
import pytest
import torch

from ctkd_lightning.errors import UserError
from ctkd_lightning.methods import FSP, fsp_loss
from tests.methods.setting import SMALL, Setting, on_levels

SETTINGS = {"fsp": Setting(FSP, on_levels(fsp_loss), SMALL, SMALL)}


def test_flows_of_numpy():
    sizes = ((2, 8), (3, 8), (4, 4))
    student, teacher = ([torch.randn(5, d, n, n) for d, n in sizes] for _ in range(2))

    def flows(first, second, third):
        pooled = second.reshape(5, 3, 4, 2, 4, 2).mean((3, 5))
        return np.einsum("bcij,bdij->bcd", first, second) / 64, np.einsum("bcij,bdij->bcd", pooled, third) / 16

    pairs = zip(flows(*(x.numpy() for x in student)), flows(*(x.numpy() for x in teacher)), strict=True)
    assert fsp_loss(student, teacher).item() == pytest.approx(sum(((s - t) ** 2).mean() for s, t in pairs), rel=1e-5)


def test_wrong_input():
    maps = [torch.zeros(2, 3, 4, 4)] * 2
    with pytest.raises(UserError, match="found 1 student maps and 2 teacher maps: pass two or more of each"):
        fsp_loss(maps[:1], maps)
    with pytest.raises(UserError, match=r"found flow matrices \(3, 3\) of the student and \(3, 5\) of the teacher"):
        fsp_loss(maps, [maps[0], torch.zeros(2, 5, 4, 4)])
    with pytest.raises(UserError, match=r"teacher features \(4, 3, 4, 4\): expected \(B, …\) of the same batch"):
        fsp_loss(maps, [torch.zeros(4, 3, 4, 4)] * 2)
