"""What arrives at the loggers, read with their own libraries."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from ctkd_lightning import build
from ctkd_lightning.errors import UserError

FILES = {"summary.json", "student.safetensors"}


def summary(run="run"):
    return json.loads(Path(run, "summary.json").read_text())


def test_tensorboard_by_default(command):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert set(build.config().logger) == {"csv", "tensorboard"}
    command("run_dir=run", "max_epochs=2", "logger=tensorboard", drawn=True)
    events = EventAccumulator("run/tensorboard")
    events.Reload()
    tags = events.Tags()
    names = {"train/loss", "train/kd", "val/top1", "ctkd/lambda", "ctkd/temperature", "test/top1"}
    assert names <= set(tags["scalars"])
    assert len(events.Scalars("train/loss")) == 2
    assert events.Scalars("test/top1")[0].value == pytest.approx(summary()["student"]["top1"])
    assert "figures/training" in tags["images"]
    assert Path("run/metrics.csv").is_file()


def check_mlflow(client, run_id, expected):
    found = client.get_run(run_id)
    assert found.info.status == "FINISHED"
    assert found.data.params["max_epochs"] == "2"
    assert found.data.params["data/num_classes"] == "4"
    assert found.data.metrics["test/top1"] == pytest.approx(expected["student"]["top1"])
    assert [m.value for m in client.get_metric_history(run_id, "ctkd/temperature")]
    assert {a.path for a in client.list_artifacts(run_id)} >= {*FILES, "figures"}
    assert "figures/training.png" in {a.path for a in client.list_artifacts(run_id, "figures")}


def test_mlflow_in_a_file_of_the_run(command):
    mlflow = pytest.importorskip("mlflow")
    command("run_dir=run", "max_epochs=2", "logger=mlflow", drawn=True)
    client = mlflow.tracking.MlflowClient(f"sqlite:///{Path('run/mlflow.db').absolute()}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "ctkd_lightning"]
    (found,) = client.search_runs([experiment.experiment_id])
    check_mlflow(client, found.info.run_id, summary())
    assert not Path("mlruns").exists()


@pytest.mark.slow
def test_mlflow_of_a_server(command, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    store = [
        "--backend-store-uri",
        f"sqlite:///{tmp_path / 'server.db'}",
        "--artifacts-destination",
        str(tmp_path / "kept"),
    ]
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1", *store],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        start_new_session=True,
    )
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}/health", timeout=2)
                break
            except OSError:
                time.sleep(0.5)
        command("run_dir=run", "max_epochs=2", "logger=[csv,mlflow]", f"logger.mlflow.server={address}", drawn=True)
        client = mlflow.tracking.MlflowClient(address)
        experiment = client.get_experiment_by_name("ctkd_lightning")
        (found,) = client.search_runs([experiment.experiment_id])
        check_mlflow(client, found.info.run_id, summary())
        assert not Path("run/mlflow.db").exists()
    finally:
        os.killpg(server.pid, 15)
        server.wait(30)


def test_a_server_that_is_not_there(command, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(SystemExit, match="MLFlowLogger cannot be used"):
        command("run_dir=run", "logger=mlflow", "logger.mlflow.server=http://127.0.0.1:9")
    assert summary()["status"] == "failed"


def test_weights_and_biases_offline(command, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    command("-m", "run_dir=sweep", "seed=1,2", "logger=wandb", "logger.wandb.offline=true", drawn=True)
    for run in ("sweep/0", "sweep/1"):
        (folder,) = Path(run, "wandb").glob("offline-run-*")  # each job has a run of its own
        assert {path.name for path in folder.joinpath("files").iterdir()} >= FILES
        assert list(folder.glob("run-*.wandb"))
        assert list(folder.rglob("media/images/**/*.png"))


def test_weights_and_biases_of_a_fusion_with_a_student(command, monkeypatch, capsys):
    """The rows of the student's training are none of the fusion's."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    settings = ["experiment=fusion_digits", "trainer=cpu", "data.limit_train=100", "curriculum=constant"]
    command(*settings, "max_epochs=1", "fusion.conditions=null", "fusion.student=pixels", "run_dir=run",
            "logger=wandb", "logger.wandb.offline=true", small=False)  # fmt: skip
    (file,) = Path("run").rglob("offline-run-*/run-*.wandb")
    names = (b"test/clean/fused", b"student/alone", b"student/distilled", b"train/loss")  # in it as they are
    until = time.monotonic() + 60
    while not all(name in file.read_bytes() for name in names):  # another process writes it
        assert time.monotonic() < until
        time.sleep(0.2)
    assert b"train/kd" not in file.read_bytes()
    assert "train/kd" in Path("run/student/metrics.csv").read_text()
    assert "one run a process" in capsys.readouterr().err


def test_a_package_that_is_not_installed(monkeypatch):
    monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", False)
    cfg = build.config("logger=wandb")
    with pytest.raises(UserError, match="logger=wandb needs a package that is not installed: pip install wandb"):
        build.loggers(cfg)


def test_where_a_logger_fails_in_the_end_the_run_is_complete(command, monkeypatch, capsys):
    def fail(*_, **__):
        raise ConnectionError("the server has\ngone")

    monkeypatch.setattr("ctkd_lightning.job.loggers._to_tensorboard", fail)
    command("run_dir=run", "logger=tensorboard", drawn=True)
    assert summary()["status"] == "complete"
    assert "TensorBoardLogger did not get all of the run: the server has gone" in capsys.readouterr().err
