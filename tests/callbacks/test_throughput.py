import pytest
from lightning.pytorch.demos.boring_classes import BoringModel

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

    class Timed(BoringModel):  # its batches are tensors whose first row, taken for the images, has 32 entries
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
    assert throughput.images == steps * 32
    assert throughput.seconds == pytest.approx(steps * 0.5)
    assert throughput.images_per_second == pytest.approx(64)


def test_without_two_batches_there_is_no_rate():
    assert Throughput().images_per_second is None
