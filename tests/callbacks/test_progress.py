"""The bar shows the loss, and neither it nor DistillationModule makes the host wait at each step."""

import pytest
from lightning.pytorch import Callback

from benchmarks import overhead
from benchmarks.quiet import quiet_trainer
from ctkd_lightning import ConstantCurriculum, CurriculumTemperatureCallback
from ctkd_lightning.callbacks.progress import ProgressBar


class Watch(Callback):
    """Keeps what the bar shows after each step."""

    def __init__(self, bar):
        self.bar, self.shown, self.means = bar, [], []

    def on_train_batch_end(self, trainer, module, *args):
        self.shown.append(self.bar.get_metrics(trainer, module).get("loss"))
        self.means.append(float(module.mean_loss))


@pytest.mark.parametrize("bar", [[], [ProgressBar(refresh_rate=1)]], ids=["no bar", "bar"])
def test_no_wait_at_a_step(bar):
    short, long = (
        overhead.waits(overhead.Distilled, steps, CurriculumTemperatureCallback(ConstantCurriculum()), *bar)
        for steps in (5, 25)
    )
    assert long == short > 0


def test_shows_the_mean_loss_now_and_then():
    bar = ProgressBar(refresh_rate=1)
    watch = Watch(bar)
    overhead.fit(overhead.Distilled(), 60, watch, bar)
    assert len(set(watch.shown[1:50])) == 1
    assert watch.shown[-1] == pytest.approx(watch.means[50])


def test_epochs_are_counted_from_one():
    class Descriptions(Callback):
        def on_train_batch_end(self, trainer, module, *args):
            shown.append(bar.train_progress_bar.description)

    shown, bar = [], ProgressBar(refresh_rate=1)
    trainer = quiet_trainer("cpu", max_epochs=3, callbacks=[Descriptions(), bar], enable_progress_bar=True)
    trainer.fit(overhead.Distilled(), overhead.batches(1))
    assert [text.rstrip() for text in shown] == ["Epoch 1/3", "Epoch 2/3", "Epoch 3/3"]
    assert len(set(map(len, shown))) == 1
