from functools import partial

import pytest
import torch
from lightning.pytorch import seed_everything
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from ctkd_lightning.modules.classifier import ClassifierModule
from tests.quiet import quiet_trainer


def fit(tmp_path, epochs, *, fused, channels_last, checkpoint=None):
    seed_everything(0, verbose=False)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten())
    module = ClassifierModule(
        network,
        optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9, fused=fused),
        channels_last=channels_last,
    )
    generator = torch.Generator().manual_seed(1)
    images, target = torch.randn(24, 3, 5, 5, generator=generator), torch.arange(24) % 6
    trainer = quiet_trainer(tmp_path, max_epochs=epochs)
    trainer.fit(module, DataLoader(TensorDataset(images, target), batch_size=8), ckpt_path=checkpoint)
    return network, trainer


@pytest.mark.parametrize("first", [False, True], ids=["contiguous", "channels last"])
def test_fused_resume_in_another_memory_layout(first, tmp_path):
    straight, _ = fit(tmp_path, 2, fused=False, channels_last=False)
    _, stopped = fit(tmp_path, 1, fused=True, channels_last=first)
    stopped.save_checkpoint(tmp_path / "stopped.ckpt")
    resumed, _ = fit(tmp_path, 2, fused=True, channels_last=not first, checkpoint=tmp_path / "stopped.ckpt")
    for expected, found in zip(straight.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_validation_counts_each_labelled_sample_once(tmp_path):
    torch.manual_seed(0)
    network, images = nn.Linear(4, 3), torch.randn(11, 4)
    target = torch.tensor([0, 1, 2, 0, -100, -100, -100, 1, 2, 0, -100])
    batches = [(images[rows], target[rows]) for rows in (slice(0, 4), slice(4, 8), slice(8, 11))]
    module = ClassifierModule(network)
    metrics = quiet_trainer(tmp_path).validate(module, DataLoader(batches, batch_size=None), verbose=False)[0]
    kept = target >= 0
    logits = network(images)[kept]
    assert metrics["val/loss"] == pytest.approx(F.cross_entropy(logits, target[kept]).item())
    assert metrics["val/top1"] == pytest.approx(100 * (logits.argmax(1) == target[kept]).float().mean().item())
