import os

import pytest

from ctkd_lightning.errors import UserError
from ctkd_lightning.job import RunDirectory


def test_what_to_resume_from(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    run = RunDirectory("~/run")
    assert run.path == tmp_path / "run"
    assert run.resume_from(None) is None
    assert run.resume_from("auto") is None
    run.checkpoints.mkdir(parents=True)
    run.last.touch()
    assert run.resume_from("auto") == run.last
    assert str(run.resume_from("~/x.ckpt")) == str(tmp_path / "x.ckpt")


def test_a_file_is_whole_or_as_it_was(tmp_path, monkeypatch):
    run = RunDirectory(tmp_path / "run")
    run.write(run.summary, "first")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        patch.setattr("pathlib.Path.replace", full)
        with pytest.raises(UserError, match=r"cannot write .*summary.json: No space left on device; make room or set"):
            run.write(run.summary, "second")
    assert run.summary.read_text() == "first"


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    run = RunDirectory(tmp_path / "file" / "below")
    with pytest.raises(UserError, match=r"cannot write .*summary.json: .*; make room or set run_dir to a folder"):
        run.write(run.summary, "text")


def test_what_a_killed_run_left_half_written(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.write(run.summary, "{}")
    run.checkpoints.mkdir()
    for path in (run.path / ".metrics.csv.0a1b2c3d.partial", run.checkpoints / ".last.ckpt.0a1b2c3d.partial"):
        path.touch()
    run.remove_partial()
    assert [path.name for path in run.path.rglob("*") if path.is_file()] == ["summary.json"]
