import json
import re
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ctkd_lightning import build
from ctkd_lightning.job import ready_teacher
from ctkd_lightning.models import load_weights
from ctkd_lightning.reporting import write_report
from tests.data.test_coco import write
from tests.job.interrupted import stopped_run

SMALL = (
    "experiment=detection_digits",
    "data.train_size=8",
    "data.val_size=3",
    "data.test_size=3",
    "data.batch_size=2",
    "model.teacher.channels=[4,4,8]",
    "model.teacher.box_features=16",
    "model.student.channels=[2,2,4]",
    "model.student.box_features=8",
    "teacher.max_epochs=1",
    "teacher.check=false",
    "max_epochs=2",
    "trainer=cpu",
    "logger=csv",
    "progress=none",
    "report=false",
)


@pytest.fixture
def run(command):
    def call(*overrides, drawn=False):
        command(*SMALL, *overrides, "run_dir=run", small=False, drawn=drawn)
        return json.loads(Path("run/summary.json").read_text())

    return call


def test_the_summary_is_that_of_a_run_by_hand(run, capsys):
    """The same steps in a few lines: networks, teacher, callback, Trainer, torchmetrics."""
    from torchmetrics.detection import MeanAveragePrecision

    found = run("with_baseline=true", drawn=True)
    assert found["status"] == "complete"
    assert (found["task"], found["model"], found["method"]) == ("detection", "rcnn_small_to_tiny", "kd")
    assert found["final"]["ctkd/temperature"] > 1.0  # it has moved, upwards: λ works against the student
    for name in ("student.safetensors", "metrics.csv", "checkpoints/best.ckpt", "figures/training.png"):
        assert Path("run", name).is_file(), name
    assert "top1" not in Path("run/metrics.csv").read_text()

    cfg = build.config(*SMALL, "run_dir=hand", "logger=[]")
    data = build.detection_data(cfg)
    teacher, student = build.networks(cfg, data)
    assert ready_teacher(cfg, teacher, data) == found["teacher"]["train_seconds"]  # found in the cache
    torch.manual_seed(1)
    from lightning.pytorch import seed_everything

    seed_everything(cfg.seed, workers=True, verbose=False)
    distilled = build.detector_distillation(cfg, teacher, data)
    trainer = build.trainer(cfg, callbacks=[distilled], limit_val_batches=0, enable_checkpointing=False)
    trainer.fit(build.student_alone(cfg, student), datamodule=data)
    kept = load_file("run/student.safetensors")
    for name, value in student.state_dict().items():
        assert torch.equal(value, kept[name]), name

    baseline = build.student(cfg, data)
    load_weights(baseline, next(Path("cache").rglob("baseline.safetensors")))
    for role, network in (("teacher", teacher), ("student", student), ("baseline", baseline)):
        metric = MeanAveragePrecision()
        with torch.no_grad():
            for images, objects in data.test_dataloader():
                metric.update(network.eval()(images), objects)
        measured = metric.compute()
        assert found[role]["map"] == pytest.approx(100 * float(measured["map"]), abs=1e-4)
        assert found[role]["ap50"] == pytest.approx(100 * float(measured["map_50"]), abs=1e-4)
        assert found[role]["top1"] is None
    printed = capsys.readouterr().out
    for word in ("test mAP %", "test AP50 %", "student alone", "global_near_one", "best on validation", "mAP"):
        assert word in printed, word

    page = Path(write_report(["run"], "page.html")).read_text()
    assert "student, test mAP %" in page
    assert "top-1" not in page


def test_alone(run):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*no effect")
        found = run("method=none", "max_epochs=1")
    assert found["teacher"] is None
    assert found["without_effect"] == ["temperature", "curriculum"]
    assert found["student"]["map"] is not None
    assert not Path("cache/teachers").exists()


@pytest.mark.parametrize(("method", "terms"), [("dkd_detection", {"dkd"}), ("[kd_detection,box_kd]", {"kd", "box_kd"})])
def test_other_methods(run, method, terms):
    run(f"method={method}", "temperature=fixed_one", "max_epochs=1")
    names = Path("run/metrics.csv").read_text().splitlines()[0].split(",")
    assert {f"train/{term}" for term in terms} <= set(names)


def test_a_resumed_run_is_the_same(command):
    command(*SMALL, "run_dir=whole", small=False)
    stopped_run(command, *SMALL, "run_dir=run")
    assert json.loads(Path("run/summary.json").read_text())["status"] == "stopped"
    command(*SMALL, "run_dir=run", "resume=auto", small=False)
    found = json.loads(Path("run/summary.json").read_text())
    assert (found["status"], found["epochs"]) == ("complete", 2)
    whole, resumed = (load_file(f"{folder}/student.safetensors") for folder in ("whole", "run"))
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("teacher_cache=auto",), "teacher_cache=auto is of classifiers"),
        (("callbacks.curriculum=null",), "callbacks.curriculum distils detectors"),
        (("model.task=segmenting",), "model.task must be classification, detection, segmentation or language"),
        (("model.student.name=faster_rcnn_smal",), "did you mean faster_rcnn_small"),
        (("teacher.check=true",), "finds nothing: AP50"),
        (("method=fitnet",), "method fitnet reads features, and a detector does not say which of its layers"),
        (("temperature.objective=held_out",), "held_out"),
    ],
)
def test_what_makes_no_sense_is_one_line(run, overrides, message):
    with pytest.raises(SystemExit) as error:
        run(*overrides)
    assert re.search(message, str(error.value.code)), error.value.code
    assert "\n" not in str(error.value.code)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("data=digits", "model=rcnn_small_to_tiny"), "is a detector, and these data have no boxes"),
        (("data=digit_scenes",), "these data have boxes, and the networks are classifiers"),
    ],
)
def test_data_of_another_task_is_one_line(command, overrides, message):
    with pytest.raises(SystemExit, match=message):
        command(*overrides, "trainer=cpu", "logger=csv", "progress=none", "run_dir=run", small=False)


@pytest.mark.parametrize("setting", ["compile=true", "keep_outputs=false", "channels_last=true"])
def test_what_has_no_effect_is_told(run, setting):
    with pytest.warns(UserWarning, match=f"{setting.split('=')[0]} has no effect"):
        run(setting, "method=none", "max_epochs=1")


def test_evaluate_takes_classifiers(run):
    from ctkd_lightning.errors import UserError
    from ctkd_lightning.job.earlier import need_student, read_run

    run("method=none", "max_epochs=1")
    with pytest.raises(UserError, match="is of detectors"):
        need_student(read_run("run"))


def test_the_papers_experiment_in_small(command):
    """A few steps of it, on images of COCO's format."""
    write()
    command(
        "experiment=detection_coco_paper",
        "data.root=.",
        "data.batch_size=2",
        "data.num_workers=0",
        "model.teacher.name=faster_rcnn_resnet18",
        "model.teacher.pretrained_backbone=false",
        "+model.teacher.min_size=32",
        "+model.teacher.max_size=32",
        "model.student.pretrained_backbone=false",
        "model.student.min_size=[32,40]",
        "model.student.max_size=40",
        "teacher.check=false",
        "trainer=cpu",
        "trainer.max_steps=3",
        "logger=csv",
        "progress=none",
        "report=false",
        "run_dir=run",
        small=False,
    )
    found = json.loads(Path("run/summary.json").read_text())
    assert found["status"] == "complete"
    assert found["best"]["chosen_on"] == "test"
    assert found["num_classes"] == 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("trainer.precision=bf16-true",), "trainer.precision=bf16-true does not go with detectors"),
        (("temperature=energy",), "give temperature.low= and temperature.high="),
    ],
)
def test_refused_before_anything_is_trained(command, settings, words):
    with pytest.raises(SystemExit, match=re.escape(words)):
        command(*SMALL, *settings, "run_dir=run", small=False)
    assert not Path("run/checkpoints").exists()
