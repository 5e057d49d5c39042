import pytest
import torch
from sklearn.metrics import roc_auc_score

from ctkd_lightning.modules._auroc import TemperatureAUROC


def test_equals_scikit_learn_over_several_batches():
    tau, bad = (torch.randn(40).exp() * 30).round(), torch.arange(40) % 3 == 0  # with ties
    metric = TemperatureAUROC()
    for rows in torch.arange(40).split(16):
        metric.update(tau[rows], bad[rows])
    assert metric.compute().item() == pytest.approx(roc_auc_score(bad, tau), abs=1e-6)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bad", [[True, True], [False, False], []])
def test_nothing_to_tell_apart(bad):
    metric = TemperatureAUROC()
    metric.update(torch.ones(len(bad)), torch.tensor(bad, dtype=torch.bool))
    assert metric.compute().isnan()
