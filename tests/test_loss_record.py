import pytest
import torch

from ctkd_lightning._loss_record import LossRecord


@pytest.mark.parametrize("count", [int, torch.tensor], ids=["a number", "on the device"])
def test_each_sample_counts_once(count):
    record = LossRecord()
    assert record.mean("loss") is None
    loss = torch.tensor(1.0)
    record.add({"loss": loss, "ce": torch.tensor(5.0)}, count(8))
    record.add({"loss": torch.tensor(3.0)}, count(2))  # a step without labels
    assert {name: mean.item() for name, mean in record.means().items()} == pytest.approx({"loss": 1.4, "ce": 5.0})
    assert record.mean("loss").item() == pytest.approx(1.4)
    assert loss == 1
    record.reset()
    assert record.means() == {}


def test_of_no_samples_the_mean_is_zero():
    record = LossRecord()
    record.add({"loss": torch.tensor(0.0)}, 0)
    assert record.mean("loss") == 0
