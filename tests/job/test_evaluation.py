"""The command, as its user sees it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from safetensors.torch import load_file, save_file

from ctkd_lightning.evaluate import main
from ctkd_lightning.job import RunDirectory, read_evaluation, read_summary
from tests.conftest import call_main

ROLES = ("teacher", "student", "baseline")


@pytest.fixture
def evaluate(capfd):
    """Run the command in this process; what it printed."""

    def call(*overrides):
        capfd.readouterr()
        call_main(main, *overrides)
        return "".join(capfd.readouterr())

    yield call
    GlobalHydra.instance().clear()


@pytest.fixture
def refused(evaluate):
    """The one line that the command fails with."""

    def call(*overrides):
        with pytest.raises(SystemExit) as stop:
            evaluate(*overrides)
        line = str(stop.value)
        assert line.startswith("error: ")
        assert "\n" not in line
        return line

    return call


def test_a_run(finished_run, evaluate):
    files = {path.name for path in Path().rglob("*")}
    printed = evaluate("run=run")
    found, summary = read_evaluation(RunDirectory("run")), read_summary(RunDirectory("run"))
    assert list(found.networks) == list(ROLES)
    for role in ROLES:
        network, told = found.networks[role], getattr(summary, role)
        assert (network.name, network.cost.parameters) == (told.name, told.parameters)
        assert network.quality.top1 == pytest.approx(told.top1)
        assert network.quality.top5 == pytest.approx(told.top5)
        assert network.cost.latency_ms > 0
        assert network.cost.images_per_second > 0
    assert (found.samples, found.outputs, found.batch_size, found.data) == (40, "kept", 16, "fake")
    assert found.test_data == summary.test_data
    assert found.networks["teacher"].agreement is None
    assert "Testing" not in printed  # no network was run for the accuracies
    assert {path.name for path in Path().rglob("*")} - files == {"evaluation.json"}  # no folder of Hydra's


def test_kept_outputs_say_what_the_networks_do(finished_run, evaluate):
    evaluate("run=run", "latency=false")
    kept = read_evaluation(RunDirectory("run"))
    evaluate("run=run", "latency=false", "recompute=true")
    computed = read_evaluation(RunDirectory("run"))
    assert (kept.outputs, computed.outputs) == ("kept", "computed")
    for role in ROLES:
        for name, value in vars(computed.networks[role].quality).items():
            assert getattr(kept.networks[role].quality, name) == pytest.approx(value, rel=2e-3, abs=2e-3), (role, name)
        assert computed.networks[role].cost.latency_ms is None


def test_kept_outputs_that_float16_has_changed_are_not_read(finished_run, evaluate):
    path = finished_run / "test_outputs.safetensors"
    outputs = load_file(path)
    outputs["student.logits"] = torch.eye(4)[outputs["target"]]  # all right
    save_file(outputs, path, {"class_names": json.dumps(["0", "1", "2", "3"])})
    assert "Kept outputs give the student another accuracy" in evaluate("run=run", "latency=false")
    found, summary = read_evaluation(RunDirectory("run")), read_summary(RunDirectory("run"))
    assert found.outputs == "computed"
    assert found.networks["student"].quality.top1 == pytest.approx(summary.student.top1)


def test_outputs_that_are_missing_are_kept(finished_run, evaluate):
    path = finished_run / "test_outputs.safetensors"
    before = load_file(path)
    path.unlink()
    evaluate("run=run", "latency=false")
    assert read_evaluation(RunDirectory("run")).outputs == "computed"
    after = load_file(path)
    torch.testing.assert_close(after["student.logits"], before["student.logits"], rtol=2e-3, atol=2e-3)


def test_a_teacher_that_is_gone(finished_run, evaluate):
    for path in Path("cache").rglob("teacher.safetensors"):
        path.unlink()
    assert "Without" not in evaluate("run=run", "latency=false")  # what it gave is kept
    printed = evaluate("run=run", "latency=false", "recompute=true")
    assert re.search(r"Without the teacher: the teacher's weights are not in \S+ any more", printed)
    found = read_evaluation(RunDirectory("run"))
    assert list(found.networks) == ["student", "baseline"]
    assert found.networks["student"].agreement is None


def test_a_student_alone(command, evaluate):
    command("run_dir=run", "method=none")
    evaluate("run=run", "latency=false")
    found = read_evaluation(RunDirectory("run"))
    assert list(found.networks) == ["student"]
    assert found.networks["student"].agreement is None


def test_a_checkpoint_of_any_kind(finished_run, evaluate):
    data = ["data=fake", "data.test_size=40", "data.image_size=8", "data.num_classes=4"]
    evaluate("run=run", "latency=false")
    told = read_evaluation(RunDirectory("run")).networks["student"]
    torch.save({"epoch": 3, "model": load_file("run/student.safetensors")}, "zoo.pth")
    for path in ("run/student.safetensors", "run/checkpoints/last.ckpt", "zoo.pth"):
        evaluate(f"checkpoint={path}", "model=resnet8", *data, "latency=false", "output=e.json", "overwrite=true")
        content = json.loads(Path("e.json").read_text())
        (found,) = content["networks"].values()
        assert found["quality"]["top1"] == pytest.approx(told.quality.top1), path
        assert found["quality"]["nll"] == pytest.approx(told.quality.nll, rel=2e-3), path
        assert content["outputs"] == "computed"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "give run=DIR"),
        (["run=run", "checkpoint=a"], "give run=DIR"),
        (["run=nowhere"], "no folder at nowhere"),
        (["run=run", "model=resnet8"], "a run has its own"),
        (["checkpoint=a"], "checkpoint= needs model and data="),
        (["checkpoint=a", "model=resnet8"], "checkpoint= needs data="),
        (["checkpoint=a", "model=vgg13_to_vgg8", "model.name=vgg8", "data=fake"], "give one of them"),
        (["checkpoint=a", "model=resnet9", "data=fake"], "unknown model 'resnet9': did you mean"),
        (["checkpoint=none.pth", "model=resnet8", "data=fake"], "no such checkpoint: none.pth"),
        (["run=run", "latency=maybe"], "latency must be true or false, found maybe"),
        (["run=run", "device=tpu"], "device must be auto, cpu, cuda, mps, found tpu"),
        (["run=run", "max_epochs=3"], "Could not override 'max_epochs'"),
        (["run=run", "data=mnist"], "Could not find 'data/mnist'"),
        (["run=run", "data=digit_views"], "several modalities"),
        (["run=run", "data=image_folder"], "data.root must be given"),
        (["run=run", "data=digits"], "data= has 10 classes, and the run's networks know 4"),
    ],
)
def test_bad_input(overrides, message, finished_run, refused):
    assert message in refused(*overrides)


def test_a_device_that_is_not_there(finished_run, refused):
    if torch.cuda.is_available():
        pytest.skip("has a CUDA device")
    assert "device=cuda is not on this machine" in refused("run=run", "device=cuda")


def test_a_damaged_student(finished_run, refused):
    path = finished_run / "student.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert "truncated, damaged" in refused("run=run", "recompute=true")


def test_files_that_are_there(finished_run, evaluate, refused):
    evaluate("run=run", "latency=false")
    evaluate("run=run", "latency=false")  # takes the earlier one's place
    Path("notes.txt").write_text("mine")
    assert "notes.txt is there and is no evaluation" in refused("run=run", "output=notes.txt")
    assert Path("notes.txt").read_text() == "mine"
    evaluation = json.loads(Path("run/evaluation.json").read_text()) | {"test_data": "others"}
    Path("run/evaluation.json").write_text(json.dumps(evaluation))
    assert "is an evaluation on other samples" in refused("run=run", "latency=false")
    evaluate("run=run", "latency=false", "overwrite=true")
    assert read_evaluation(RunDirectory("run")).test_data != "others"


def test_help_needs_no_torch():
    program = "import sys; from ctkd_lightning.evaluate import main; main(); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", program, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for text in ("run=DIR", "checkpoint=FILE", "image_folder", "latency: true"):
        assert text in done.stdout
    assert "curriculum" not in done.stdout  # not the groups of other commands
