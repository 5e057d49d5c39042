import torch

from ctkd_lightning.methods import CC, cc_loss
from tests.methods import golden
from tests.methods.setting import Setting

SETTINGS = {"cc": Setting(lambda: CC(dim=4), cc_loss)}


def test_golden():
    golden.check("cc", lambda s: cc_loss(s, golden.TEACHER_VECTOR[:, :64]), golden.STUDENT_VECTOR)


def test_a_single_sample_has_no_neighbour():
    assert cc_loss(torch.zeros(1, 3), torch.ones(1, 3)) == 0
