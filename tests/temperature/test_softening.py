import torch
import torch.nn.functional as F

from ctkd_lightning import Softening
from ctkd_lightning.methods import kd_loss
from tests.temperature import golden


def test_distinct_temperatures_by_class():
    s, t = (x[:, :3] for x in golden.LOGITS)
    tau_t, tau_s = torch.tensor([1.0, 2.0, 4.0]).double(), torch.tensor(2.0).double()
    q, p = F.log_softmax(s / 2, -1), F.log_softmax(t / tau_t, -1)
    expected = 5 * F.kl_div(q, p, log_target=True, reduction="batchmean")
    softening = Softening(tau_s, tau_t, torch.tensor(5.0).double())
    torch.testing.assert_close(kd_loss(s, t, softening), expected)


def test_times():
    softening = Softening.at(torch.tensor([2.0, 3.0]), torch.zeros(2, 5)).times(2.0)
    assert softening.student.flatten().tolist() == [4.0, 6.0]
    assert softening.scale.tolist() == [16.0, 36.0]
