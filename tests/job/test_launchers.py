"""A sweep of six jobs, of which one fails, by the launchers of Hydra's plug-ins."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from lightning.pytorch import Callback

from ctkd_lightning.errors import UserError
from tests.conftest import SMALL
from tests.processes import ROOT

LAUNCHERS = {
    "joblib": ("hydra_plugins.hydra_joblib_launcher", ["hydra.launcher.n_jobs=2"]),
    "submitit_local": ("hydra_plugins.hydra_submitit_launcher", []),
    "ray": ("hydra_plugins.hydra_ray_launcher", []),
}


class Fail(Callback):
    """In the training, where the seed is 4."""

    def __init__(self, how, seed):
        self.how, self.seed = how, int(seed)  # a sweep hands it on as a string

    def on_train_start(self, trainer, module):
        if self.seed != 4:
            return
        if self.how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise UserError("as the test has it") if self.how == "error" else KeyError("a bug")


def sweep(*overrides, how):
    fail = f"{{_target_: tests.job.test_launchers.Fail, how: {how}, seed: '${{seed}}'}}"
    settings = [*SMALL, "method=none", "run_dir=sweep", "seed=1,2,3,4,5,6", f"+callbacks.fail={fail}", "progress=none"]
    return subprocess.run(
        [sys.executable, "-m", "ctkd_lightning.run", "-m", *settings, *overrides],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


def assert_five_of_six(done):
    assert done.returncode == 1
    assert "error: 1 of 6 jobs failed: 3; see their lines above" in done.stderr
    found = [json.loads(Path(f"sweep/{job}/summary.json").read_text()) for job in range(6) if job != 3]
    assert [(summary["seed"], summary["status"]) for summary in found] == [
        (seed, "complete") for seed in (1, 2, 3, 5, 6)
    ]
    assert all(Path(f"sweep/{job}/student.safetensors").is_file() for job in range(6) if job != 3)
    assert not Path("sweep/.jobs").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("launcher", "how"), [("joblib", "error"), ("joblib", "killed"), ("submitit_local", "error"), ("ray", "killed")]
)
def test_five_of_six(launcher, how):
    plugin, settings = LAUNCHERS[launcher]
    pytest.importorskip(plugin)
    done = sweep(f"hydra/launcher={launcher}", *settings, how=how)
    assert_five_of_six(done)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_bug_is_shown_and_counted():
    """By Hydra's own launcher, one job after the other."""
    done = sweep(how="bug")
    assert_five_of_six(done)
    assert "error in job 3:\nTraceback" in done.stderr
    assert "KeyError: 'a bug'" in done.stderr
