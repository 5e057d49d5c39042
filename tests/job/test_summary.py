import json
from dataclasses import asdict

import torch

from ctkd_lightning.job import RunDirectory, Summary, read_summary
from ctkd_lightning.job.summary import Best, NetworkSummary, describe_environment, parameters_of

# A summary of version 0.1, as that wrote it.
VERSION_0_1 = {
    "model": "a_to_b", "data": "digits", "method": "kd", "temperature": "fixed", "curriculum": "linear (no effect)",
    "seed": 3, "status": "stopped in stage student", "epochs": 7,
    "teacher": {"name": "a", "parameters": 10, "top1": None, "top5": None},
    "student": {"name": "b", "parameters": 5, "top1": None, "top5": None},
    "best": {"top1": 48.2, "epoch": 2, "chosen_on": "best on test"}, "final": {"ctkd/temperature": 4.0},
    "teacher_cache": None, "train_seconds": 12.5, "images_per_second": 100.0, "precision": "32-true",
    "versions": {"torch": "2.6"}, "git": None, "hardware": {"cores": 2},
}  # fmt: skip


def summary(**changed):
    networks = {"teacher": NetworkSummary("a", 10, 90.5, 99.0), "student": NetworkSummary("b", 5)}
    names = {"model": "a_to_b", "data": "digits", "method": "kd", "temperature": "global", "curriculum": "cosine"}
    return Summary(**{**names, **networks, "seed": 3, **changed})


def test_what_is_written_is_read_again(tmp_path):
    run = RunDirectory(tmp_path)
    written = summary(status="failed", stage="test", error="x is 3", best=Best(48.2, 2, "test"), epochs=7,
                      final={"ctkd/lambda": 0.5}, **describe_environment())  # fmt: skip
    written.write(run)
    assert read_summary(run) == written
    found = json.loads(run.summary.read_text())
    empty = dict.fromkeys(("train_seconds", "map", "ap50", "miou", "pixel_accuracy", "bits", "nats"))
    assert found["teacher"] == {"name": "a", "parameters": 10, "top1": 90.5, "top5": 99.0, **empty}
    assert found["versions"]["python"].startswith("3.")
    assert found["hardware"]["cores"] >= 1


def test_one_of_detectors_is_read_again(tmp_path):
    run = RunDirectory(tmp_path)
    student = NetworkSummary("b", 5, map=0.0, ap50=1.5)
    written = summary(task="detection", student=student, best=Best(map=12.5, epoch=3, chosen_on="validation"))
    written.write(run)
    assert read_summary(run) == written
    assert (student.score, NetworkSummary("a", top1=80.0).score) == (0.0, 80.0)


def test_a_summary_of_version_0_1(tmp_path):
    run = RunDirectory(tmp_path)
    run.summary.write_text(json.dumps(VERSION_0_1))
    found = read_summary(run)
    assert (found.status, found.stage, found.epochs, found.seed) == ("stopped", "student", 7, 3)
    assert (found.curriculum, found.without_effect) == ("linear", ["curriculum"])
    assert found.best == Best(48.2, 2, "test")
    assert found.student == NetworkSummary("b", 5)
    complete = {**VERSION_0_1, "status": "complete", "temperature": "global (no effect)", "curriculum": "cosine"}
    run.summary.write_text(json.dumps(complete))
    found = read_summary(run)
    assert (found.status, found.stage, found.without_effect) == ("complete", "test", ["temperature"])


def test_what_cannot_be_read_is_none(tmp_path):
    run = RunDirectory(tmp_path)
    assert read_summary(run) is None
    for text in ("{", "[]", "{}", json.dumps({**asdict(summary()), "student": None})):
        run.summary.write_text(text)
        assert read_summary(run) is None


def test_parameters():
    assert parameters_of(torch.nn.Linear(3, 4)) == 16
