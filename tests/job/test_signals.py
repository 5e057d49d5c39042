"""Ctrl-C and SIGTERM, wherever they come."""

import json
import os
import signal
from pathlib import Path

import pytest
from lightning.pytorch import Callback

from ctkd_lightning.job.signals import exit_status


class Send(Callback):
    """A signal in the second batch of a stage."""

    def __init__(self, number, hook):
        self.number = number
        setattr(self, hook, self._second)

    def _second(self, trainer, module, *args):
        if args[-1] == 1:  # the batch's number
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_in_the_training(command, number, status):
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal, whatever runs the tests
    send = f"{{_target_: tests.job.test_signals.Send, number: {int(number)}, hook: on_train_batch_start}}"
    with pytest.raises(SystemExit) as stopped:
        command("run_dir=run", f"+callbacks.send={send}", "max_epochs=2")
    signal.signal(signal.SIGINT, handlers[0])  # Lightning leaves it ignored
    assert stopped.value.code == status
    found = json.loads(Path("run/summary.json").read_text())
    assert (found["status"], found["stage"], found["epochs"]) == ("stopped", "student", 0)
    assert signal.getsignal(signal.SIGTERM) == handlers[1]


def test_in_the_test(command, monkeypatch):
    """Lightning's own handler ignores it there."""
    from ctkd_lightning.modules import ClassifierModule

    step = ClassifierModule.test_step

    def killed(self, batch, batch_idx):
        os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(ClassifierModule, "test_step", killed)
        with pytest.raises(SystemExit) as stopped:
            command("run_dir=run")
    assert stopped.value.code == 143
    assert json.loads(Path("run/summary.json").read_text())["stage"] == "test"
    command("run_dir=run", "resume=auto")
    assert json.loads(Path("run/summary.json").read_text())["status"] == "complete"


def test_the_status_is_that_of_the_first_cause():
    of_lightning = SystemExit(1)
    of_lightning.__context__ = KeyboardInterrupt()
    assert exit_status(of_lightning) == 130
    assert exit_status(SystemExit(0)) == exit_status(SystemExit()) == 143
    assert exit_status(SystemExit(7)) == 7
