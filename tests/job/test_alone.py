"""The student alone: as a run, and beside one."""

import csv
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ctkd_lightning import build
from ctkd_lightning.models import create_model


def summary(run):
    return json.loads(Path(run, "summary.json").read_text())


def test_it_starts_and_is_trained_as_plain_pytorch_would(command):
    """Three steps of SGD by hand, on the batches of the data module."""
    command("run_dir=run", "method=none", "max_epochs=1")
    cfg = build.config(run="run")
    data = build.data(cfg)
    torch.manual_seed(cfg.seed)
    network = create_model("resnet8", num_classes=4)
    node = cfg.optimizer.optimizer
    settings = {"lr": node.lr, "momentum": node.momentum, "weight_decay": node.weight_decay}
    optimizer = torch.optim.SGD(network.parameters(), **settings)
    network.train()
    for batch in data.train_dataloader():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(batch.image), batch.target).backward()
        optimizer.step()
    trained = load_file("run/student.safetensors")
    for name, value in network.state_dict().items():
        torch.testing.assert_close(trained[name], value, rtol=1e-4, atol=1e-5)


def test_a_run_without_a_teacher(command, capsys, recwarn):
    command("run_dir=run", "method=none")
    found = summary("run")
    assert found["teacher"] is None
    assert (found["method"], found["status"], found["model"]) == ("none", "complete", "resnet8_to_resnet8")
    assert found["without_effect"] == ["temperature", "curriculum"]
    assert not any("has no effect" in str(w.message) for w in recwarn)  # nobody asked for one
    with Path("run/metrics.csv").open() as file:
        columns = set(csv.DictReader(file).fieldnames)
    assert {"train/loss", "val/top1"} <= columns
    assert not any(name.startswith("ctkd/") for name in columns)
    assert "teacher  " not in capsys.readouterr().out
    assert not list(Path("cache").rglob("teacher.safetensors"))
    with pytest.warns(UserWarning, match="temperature=global has no effect"):
        command("run_dir=run2", "method=none", "temperature=global")


def test_the_baseline_is_that_run(command):
    command("run_dir=alone", "method=none", "max_epochs=2")
    command("run_dir=run", "with_baseline=true", "max_epochs=2")
    found = summary("run")
    seconds = found["baseline"].pop("train_seconds")
    alone_too = summary("alone")["student"]
    assert (seconds > 0, alone_too.pop("train_seconds")) == (True, None)
    assert found["baseline"] == alone_too
    (kept,) = Path("cache").rglob("baseline.safetensors")
    alone, beside = load_file("alone/student.safetensors"), load_file(kept)
    assert all(torch.equal(alone[name], beside[name]) for name in alone)
    outputs = load_file("run/test_outputs.safetensors")
    assert torch.equal(outputs["baseline.logits"], load_file("alone/test_outputs.safetensors")["student.logits"])


def test_the_baseline_is_trained_once(command, caplog, capsys):
    command("run_dir=run", "with_baseline=true")
    assert "student alone" in capsys.readouterr().out
    first = load_file("run/student.safetensors")
    command("run_dir=run2", "with_baseline=true", "temperature=fixed")
    assert summary("run2")["baseline"] == summary("run")["baseline"]  # the seconds of its training, whenever it was
    assert len(list(Path("cache").rglob("baseline.safetensors"))) == 1
    command("run_dir=run3", "with_baseline=true", "seed=2")
    assert len(list(Path("cache").rglob("baseline.safetensors"))) == 2
    command("run_dir=run4")
    assert all(torch.equal(value, first[name]) for name, value in load_file("run4/student.safetensors").items())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method.ce_weight=0.5", "method.ce_weight=0.5 has no effect"),
        ("with_baseline=true", "the run itself is the baseline"),
        ("teacher_cache=auto", "teacher_cache=auto has no effect"),
    ],
)
def test_what_it_cannot_have(command, override, message):
    with pytest.raises(SystemExit, match=message):
        command("run_dir=run", "method=none", override)


def test_beside_a_method(command):
    with pytest.raises(SystemExit, match="method kd beside method=none"):
        command("run_dir=run", "method=[kd,none]")


def test_it_goes_on(command):
    command("run_dir=whole", "method=none", "max_epochs=3")
    command("run_dir=run", "method=none", "max_epochs=3", "trainer.max_epochs=2")
    command("run_dir=run", "method=none", "max_epochs=3", "resume=auto")
    whole, resumed = load_file("whole/student.safetensors"), load_file("run/student.safetensors")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
