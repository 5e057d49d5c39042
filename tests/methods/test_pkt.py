import pytest
import torch

from ctkd_lightning.errors import UserError
from ctkd_lightning.methods import PKT, pkt_loss
from tests.methods import golden
from tests.methods.setting import Setting

SETTINGS = {"pkt": Setting(PKT, pkt_loss, (7,), (5,))}


def test_golden():
    golden.check("pkt", lambda s: pkt_loss(s, golden.TEACHER_VECTOR), golden.STUDENT_VECTOR)


def test_opposite_vectors():
    # their cosine is often rounded below -1: probabilities would be negative, their logarithm NaN
    for direction in torch.randn(50, 1, 7):
        student = torch.cat([direction, -direction]).requires_grad_()
        loss = pkt_loss(student, torch.randn(2, 3), eps=1e-12)
        loss.backward()
        assert loss.isfinite()
        assert student.grad.isfinite().all()


def test_wrong_input():
    with pytest.raises(UserError, match=r"shape \(2, 3, 4, 4\) and teacher features \(2, 3\): expected vectors"):
        pkt_loss(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3))
    with pytest.raises(UserError, match="of the same batch"):
        pkt_loss(torch.zeros(2, 3), torch.zeros(3, 3))
