from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel, RandomDataset

from ctkd_lightning.callbacks._throughput import Throughput
from tests.quiet import quiet_trainer


class Clock:
    """Time that only the steps below let pass."""

    now = 1.0

    def perf_counter(self):
        return self.now


def test_counts_training_alone(tmp_path, monkeypatch):
    clock, throughput = Clock(), Throughput()
    monkeypatch.setattr("ctkd_lightning.callbacks._throughput.time", clock)

    class Timed(BoringModel):
        def train_dataloader(self):
            return torch.utils.data.DataLoader(RandomDataset(32, 64), batch_size=4)

        def training_step(self, batch, batch_idx):
            clock.now += 0.5
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch, batch_idx):
            clock.now += 100.0

    quiet_trainer(
        tmp_path,
        max_epochs=2,
        limit_train_batches=6,
        limit_val_batches=2,
        val_check_interval=3,
        callbacks=[throughput],
    ).fit(Timed())
    steps = 2 * (2 + 2)  # the first of each epoch and the first after each validation are not counted
    assert throughput.images == steps * 4
    assert throughput.seconds == pytest.approx(steps * 0.5)
    assert throughput.images_per_second == pytest.approx(8)


def test_without_two_batches_there_is_no_rate():
    assert Throughput().images_per_second is None


@pytest.mark.parametrize("batch", [{"sound": torch.zeros(5, 2), "target": torch.zeros(5)}, (torch.zeros(5, 2), None)])
def test_samples_of_batches_of_any_kind_are_counted(batch):
    throughput = Throughput()
    trainer = SimpleNamespace(
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=SimpleNamespace(is_last_batch=False)))
    )
    for number in range(3):
        throughput.on_train_batch_end(trainer, None, None, batch, number)
    assert throughput.images == 10
