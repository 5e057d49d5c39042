"""torchgeo's segmentation task through the callback, unedited, against a loop by hand."""

import copy

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from ctkd_lightning import CurriculumTemperatureCallback, FixedTemperature

TAU, IGNORED = 2.0, 255


def test_weights_are_those_of_a_loop_by_hand():
    trainers = pytest.importorskip("torchgeo.trainers")
    torch.manual_seed(0)

    def make(backbone):
        settings = {"in_channels": 3, "loss": "ce", "ignore_index": IGNORED, "lr": 1e-2, "weights": None}
        return trainers.SemanticSegmentationTask(model="unet", backbone=backbone, num_classes=4, **settings).double()

    teacher, task = make("resnet34").model, make("resnet18")
    by_hand, batches = copy.deepcopy(task), []
    for _ in range(4):
        classes = torch.randint(0, 4, (2, 32, 32))
        classes[:, :10] = IGNORED
        batches.append({"image": torch.randn(2, 3, 32, 32).double(), "mask": classes})
    distil = CurriculumTemperatureCallback(teacher=teacher, temperature=FixedTemperature(TAU), ignore_index=IGNORED)
    Trainer(
        max_epochs=1, callbacks=[distil], accelerator="cpu", precision="64-true", num_sanity_val_steps=0, logger=False,
        enable_checkpointing=False, enable_progress_bar=False,
    ).fit(task, DataLoader(batches, batch_size=None), DataLoader(batches, batch_size=None))  # fmt: skip

    optimizer = torch.optim.AdamW(by_hand.parameters(), lr=1e-2)
    by_hand.train()
    teacher.eval()
    for batch in batches:
        output, kept = by_hand(batch["image"]), batch["mask"] != IGNORED
        guide = teacher(batch["image"]).detach()
        log_q, log_p = ((x.movedim(1, -1)[kept] / TAU).log_softmax(-1) for x in (output, guide))
        kd = TAU**2 * (log_p.exp() * (log_p - log_q)).sum(-1).mean()
        optimizer.zero_grad()
        (0.1 * F.cross_entropy(output, batch["mask"], ignore_index=IGNORED) + 0.9 * kd).backward()
        optimizer.step()
    for own, other in zip(task.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-7)  # AdamW divides by gradients that are nearly 0
