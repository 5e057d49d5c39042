"""Clipped gradients of mixed precision: Lightning takes no fused optimizer there."""

from functools import partial

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, TensorDataset

from ctkd_lightning.errors import UserError
from ctkd_lightning.modules import ClassifierModule


def train(tmp_path, make, precision="bf16-mixed", clip=0.1):
    torch.manual_seed(0)
    module = ClassifierModule(torch.nn.Linear(4, 3), optimizer=make)
    data = TensorDataset(torch.randn(8, 4), torch.arange(8) % 3)
    trainer = Trainer(
        default_root_dir=tmp_path, accelerator="cpu", max_epochs=2, precision=precision, gradient_clip_val=clip,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader(data, batch_size=4))
    return module, trainer.optimizers[0]


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW])
def test_fused_one_is_made_without(tmp_path, make):
    found, optimizer = train(tmp_path, partial(make, lr=0.1, fused=True))
    expected, _ = train(tmp_path, partial(make, lr=0.1))
    assert not optimizer.defaults["fused"]
    torch.testing.assert_close(found.state_dict(), expected.state_dict())


@pytest.mark.parametrize("settings", [{"precision": "32-true"}, {"clip": None}])
def test_stays_fused_elsewhere(tmp_path, settings):
    _, optimizer = train(tmp_path, partial(torch.optim.SGD, lr=0.1, fused=True), **settings)
    assert optimizer.defaults["fused"]


def test_one_that_cannot_be_changed_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"gradient_clip_val=0\.1 in bf16-mixed: give the optimizer fused=False"):
        train(tmp_path, lambda parameters: torch.optim.SGD(parameters, lr=0.1, fused=True))
