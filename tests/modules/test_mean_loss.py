"""The mean of evaluation losses: over batches, processes and weights."""

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from ctkd_lightning.modules import DistillationModule
from ctkd_lightning.modules._mean_loss import MeanLoss
from tests.processes import TwoRanks

LOSSES = [[(1.25, 40), (2.0, 25)], [(0.5, 40), (3.0, 2)]]  # of each process, and of how many: 107, which 2 divides not


def mean_of(losses):
    mean = MeanLoss()
    for loss, count in losses:
        mean.update(torch.tensor(loss), count)
    return mean.compute()


def test_over_two_processes(tmp_path):
    found = TwoRanks(lambda rank: mean_of(LOSSES[rank]), tmp_path).results()
    expected = sum(loss * count for process in LOSSES for loss, count in process) / 107
    assert found == [pytest.approx(expected)] * 2


def test_of_nothing_and_of_nan():
    assert mean_of([(0.0, 0)]) == 0
    assert mean_of([(1.0, 3), (float("nan"), 1)]).isnan()


@pytest.mark.parametrize("size", [1, 2, 4])
def test_weights_count_alike_in_batches_of_any_size(tmp_path, size):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, 5, 5, generator=generator)
    target = torch.randint(4, (4, 5, 5), generator=generator)
    weight = torch.rand(4, 5, 5, generator=generator) * torch.tensor([0.05, 0.05, 1, 1])[:, None, None]
    torch.manual_seed(0)
    student = torch.nn.Conv2d(3, 4, 1)
    module = DistillationModule(torch.nn.Conv2d(3, 4, 1), student, class_dim=1, mask=lambda batch: batch[2])
    batches = DataLoader(torch.utils.data.TensorDataset(images, target, weight), batch_size=size)
    trainer = Trainer(default_root_dir=tmp_path, accelerator="cpu", logger=False, enable_progress_bar=False)
    found = trainer.validate(module, batches, verbose=False)[0]["val/loss"]
    expected = (F.cross_entropy(student(images), target, reduction="none") * weight).sum() / weight.sum()
    assert found == pytest.approx(expected.item(), rel=1e-6)
