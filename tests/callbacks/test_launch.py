"""Processes that the strategy starts, and parameters that it shards, against the loop by hand."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ctkd_lightning import LinearCurriculum
from tests.callbacks import foreign

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


def run(folder, strategy, *launcher):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *launcher, "-m", "tests.callbacks.launch_script", str(folder), strategy]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((folder / "results.json").read_text())


def check(result):
    net, value = foreign.by_hand(LinearCurriculum(epochs=4, start=0.5), batch_size=16)
    expected = torch.cat([p.detach().flatten() for p in net.parameters()])
    assert torch.tensor(result["weights"]) == pytest.approx(expected, abs=1e-6)
    assert result["temperature"] == pytest.approx(value.item(), abs=1e-6)
    assert abs(value.item()) > 0.02


@pytest.mark.parametrize("strategy", ["ddp_fork", "ddp_spawn"])
def test_the_process_that_started_the_others_sees_the_temperature(tmp_path, strategy):
    check(run(tmp_path, strategy)["straight"])


def test_sharded_student(tmp_path):
    results = run(tmp_path, "fsdp2", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    check(results["straight"])
    check(results["resumed"])
