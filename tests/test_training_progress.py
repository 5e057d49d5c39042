from types import SimpleNamespace

import pytest

from ctkd_lightning._training_progress import training_fraction


def fraction(max_epochs, max_steps, epoch, step):
    """After so many epochs and steps."""
    return training_fraction(
        SimpleNamespace(max_epochs=max_epochs, max_steps=max_steps, current_epoch=epoch, global_step=step)
    )


@pytest.mark.parametrize(
    ("max_epochs", "max_steps", "epoch", "step", "expected"),
    [
        (4, -1, 1, 10, 0.25),
        (-1, 40, 1, 10, 0.25),
        (None, 40, 1, 10, 0.25),
        # ten steps an epoch: both come, and the first one ends the training
        (4, 1000, 1, 10, 0.25),
        (4, 1000, 4, 40, 1.0),
        (100, 20, 1, 10, 0.5),
        (100, 20, 1, 19, 0.95),
        (100, 20, 2, 20, 1.0),
        (4, 20, 9, 90, 1.0),
        (-1, -1, 1, 10, None),
        (None, -1, 1, 10, None),
    ],
)
def test_the_end_that_comes_first_counts(max_epochs, max_steps, epoch, step, expected):
    assert fraction(max_epochs, max_steps, epoch, step) == expected
