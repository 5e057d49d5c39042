"""Jobs of several processes: as two nodes, in a sweep, and stopped."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from safetensors.torch import load_file
from torch import nn

from tests.conftest import SMALL
from tests.processes import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


class Report(Callback):
    """Which processes there were, in a file each."""

    def on_train_start(self, trainer, module):
        name = f"{Path(trainer.default_root_dir).name}-{trainer.global_rank}-of-{trainer.world_size}"
        Path("processes").mkdir(exist_ok=True)
        (Path("processes") / name).touch()


class Terminate(Callback):
    """SIGTERM to one process, in the second epoch."""

    def __init__(self, rank):
        self.rank = rank

    def on_train_batch_start(self, trainer, module, batch, number):
        if (trainer.global_rank, trainer.current_epoch, number) == (self.rank, 1, 1):
            Path("sent").touch()
            os.kill(os.getpid(), signal.SIGTERM)


class EvalBatchNorm(Callback):
    """Normalise by the running statistics: those of a batch are each process's own."""

    def on_train_epoch_start(self, trainer, module):
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.eval()


def start(*overrides, launcher=()):
    overrides = [*(o for o in SMALL if o != "trainer=cpu"), "progress=none", *overrides]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    overrides.sort(key=lambda word: word != "-m")  # Hydra takes it before the settings alone
    command = [sys.executable, *launcher, "-m", "ctkd_lightning.run", *overrides]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def callback(kind, **settings):
    node = "".join(f", {key}: {value}" for key, value in settings.items())
    return f"+callbacks.{kind.lower()}={{_target_: tests.job.test_several_processes.{kind}{node}}}"


def summary(folder):
    return json.loads(Path(folder, "summary.json").read_text())


def test_two_nodes_are_one_process():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    same = [
        "trainer.precision=64-true",
        "temperature=global",
        "data.batch_size_is_total=true",
        callback("EvalBatchNorm"),
    ]
    of_two = ["trainer=multi_node", "trainer.accelerator=cpu", "trainer.devices=1", "run_dir=two", callback("Report")]
    torchrun = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1"]
    nodes = [
        start(*same, *of_two, launcher=[*torchrun, f"--master-port={port}", f"--node-rank={node}"]) for node in range(2)
    ]
    said = [node.communicate(timeout=300)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    assert sorted(os.listdir("processes")) == ["two-0-of-2", "two-1-of-2"]
    assert sum(text.count("Training the teacher") for text in said) == 1
    teachers = list(Path("cache/teachers").iterdir())
    one = start(*same, "trainer=cpu", "run_dir=one", f"teacher.checkpoint={teachers[0]}/teacher.safetensors")
    assert one.wait(300) == 0, one.communicate()
    assert len(teachers) == 1
    found, expected = load_file("two/student.safetensors"), load_file("one/student.safetensors")
    assert summary("two")["status"] == "complete"
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-8, msg=name)
    assert summary("two")["final"] == pytest.approx(summary("one")["final"], rel=1e-8)


def test_a_job_of_a_sweep_has_its_processes():
    """The second job too, and each says so."""
    sweep = start("-m", "trainer=ddp_cpu", "method=none", "run_dir=sweep", "seed=1,2", callback("Report"))
    said = sweep.communicate(timeout=400)[0]
    assert sweep.returncode == 0, said
    assert sorted(os.listdir("processes")) == [f"{job}-{rank}-of-2" for job in range(2) for rank in range(2)]
    assert sorted(path.name for path in Path("sweep").iterdir()) == ["0", "1", "multirun.yaml"]
    assert [summary(f"sweep/{job}")["seed"] for job in range(2)] == [1, 2]


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("launched", [True, False], ids=["torchrun", "itself"])
def test_sigterm_to_one_process_ends_all(rank, launched):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"] if launched else []
    run = start(
        "trainer=ddp_cpu",
        "method=none",
        "max_epochs=1000",
        "run_dir=run",
        callback("Terminate", rank=rank),
        launcher=launcher,
    )
    said = run.communicate(timeout=400)[0]
    assert time.time() - Path("sent").stat().st_mtime < 60
    assert run.returncode == (1 if launched else 143), said  # 1 is torchrun's own
    assert summary("run")["status"] == "stopped"
    if launched:
        assert "exitcode  : 143" in said
