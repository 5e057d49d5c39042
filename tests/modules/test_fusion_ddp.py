"""Two gloo processes against one that sees both their batches at once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.modules import fusing_ddp_script

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, "-m", "tests.modules.fusing_ddp_script", str(tmp_path)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    alone = fusing_ddp_script.results(tmp_path)
    for kind, expected in alone.items():
        assert first[kind] == second[kind]
        assert first[kind]["weights"] == pytest.approx(expected["weights"], rel=1e-4, abs=1e-6)
        assert first[kind]["logged"] == pytest.approx(expected["logged"], rel=1e-4, abs=1e-6)
        assert ("ctkd/temperature_max/audio" in expected["logged"]) == (kind == "instance")
