"""A run that was stopped within an epoch goes on from there, and ends as one that was not."""

import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback

from ctkd_lightning.errors import UserError

RUN = ("max_epochs=3", "data.batch_size=16", "checkpoint_every_steps=2")
TIMES = ("train_seconds", "images_per_second", "teacher_cache", "baseline", "teacher")
STEP = 8  # the third of the second epoch is done


class StopAt(Callback):
    """Ctrl-C after a step, as early as the checkpoint of the step is written."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, module, *args):
        if trainer.global_step == self.step and trainer.max_epochs == 3:
            raise KeyboardInterrupt


def stopped_and_resumed(command, *settings, small=True, steps=(STEP,)):
    settings = (*settings, "data.train_size=88" if small else "data.limit_train=80")  # 5 steps an epoch
    command("run_dir=whole", *RUN, *settings, small=small)
    resume = []
    for step in steps:
        stop = f"+callbacks.stop={{_target_: tests.job.test_within_epochs.StopAt, step: {step}}}"
        with pytest.raises(SystemExit):
            command("run_dir=run", *RUN, *settings, *resume, stop, small=small)
        checkpoint = torch.load("run/checkpoints/last.ckpt", weights_only=True)
        assert checkpoint["global_step"] == step // 2 * 2
        resume = ["resume=auto"]
    command("run_dir=run", *RUN, *settings, *resume, small=small)
    check_equal()


def check_equal():
    whole, run = (torch.load(f"{name}/checkpoints/last.ckpt", weights_only=True) for name in ("whole", "run"))
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, run["state_dict"][name]), name
    for name in ("metrics.csv", "temperatures.json"):
        files = [Path(folder, name) for folder in ("whole", "run")]
        assert [file.exists() for file in files] in ([True, True], [False, False]), name
        if files[0].exists():
            assert files[0].read_text() == files[1].read_text(), name
    assert timeless("whole") == timeless("run")


def timeless(folder):
    found = json.loads(Path(folder, "summary.json").read_text())
    assert found["status"] == "complete"
    return {name: value for name, value in found.items() if name not in TIMES}


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        ["method=[crd,kd]", "temperature=global", "data.in_memory=false", "data.num_workers=0"],
        ["temperature=normkd", "method=[kd,dkd]", "+trainer.accumulate_grad_batches=2"],
    ],
)
def test_a_distillation(command, settings):
    steps = (STEP,) if "accumulate" not in settings[-1] else (4,)
    stopped_and_resumed(command, *settings, steps=steps)


def test_stopped_twice(command):
    stopped_and_resumed(command, "temperature=instance", steps=(3, STEP, 13))


@pytest.mark.slow
def test_a_fusion(command):
    fusion = [
        "experiment=fusion_digits",
        "trainer=cpu",
        "curriculum=constant",
        "report=false",
        "fusion.conditions=null",
    ]
    stopped_and_resumed(command, *fusion, small=False)  # the joint head's dropout draws random numbers


def test_by_minutes(command):
    command("run_dir=run", *RUN[:-1], "checkpoint_every_minutes=0.0000001", "temperature=fixed")
    assert json.loads(Path("run/summary.json").read_text())["status"] == "complete"


@pytest.mark.parametrize(
    "setting", ["checkpoint_every_steps=0", "checkpoint_every_steps=1.5", "checkpoint_every_minutes=-1"]
)
def test_settings_that_cannot_be(command, setting, capsys):
    with pytest.raises((SystemExit, UserError)):
        command("run_dir=run", setting)
