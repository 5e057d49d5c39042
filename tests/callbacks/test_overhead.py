"""The callback makes the host wait for the device once an epoch, not at each step."""

import pytest
from lightning.pytorch import Callback

from benchmarks import overhead


class Reader(Callback):
    """Waits at each step."""

    def on_train_batch_end(self, trainer, module, outputs, *args):
        outputs["loss"].item()


def added(make, steps):
    return overhead.waits(overhead.Plain, steps, make()) - overhead.waits(overhead.Plain, steps)


def test_no_wait_at_a_step():
    short, long = (added(overhead.callback, steps) for steps in (4, 8))
    assert long == short > 0  # what there is belongs to the epoch


def test_waits_would_be_counted():
    assert added(Reader, 8) - added(Reader, 4) == 4


@pytest.mark.gpu
def test_no_wait_at_a_step_on_a_gpu():
    assert overhead.cuda_waits(8) == overhead.cuda_waits(4)
