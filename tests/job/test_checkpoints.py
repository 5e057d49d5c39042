"""A checkpoint that a run goes on from is input: what is in it reaches no other file, and no kernel unseen."""

import os
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from ctkd_lightning.errors import UserError
from ctkd_lightning.job.checkpoints import RunCheckpoints

STATE = "ModelCheckpoint{'monitor': None"


@pytest.fixture
def run(finished_run, command):
    """A run that would go on for an epoch, and what changes its checkpoint."""
    last = Path("run/checkpoints/last.ckpt")

    def change(of):
        content = torch.load(last, weights_only=True)
        of(content)
        torch.save(content, last)

    def go_on(*overrides):
        command("run_dir=run", "with_baseline=true", "data.test_size=40", "max_epochs=2", "resume=auto", *overrides)

    return change, go_on


def states(content, monitor):
    return next(v for k, v in content["callbacks"].items() if k.startswith(f"ModelCheckpoint{{'monitor': {monitor}"))


@pytest.mark.parametrize("kind", ["folder", "file", "link", "outside"])
def test_paths_in_it_remove_nothing(run, kind):
    change, go_on = run
    victim = Path("victim")
    victim.mkdir()
    thesis = victim / "thesis.txt"
    thesis.write_text("years")
    folder = Path("run/checkpoints").absolute()
    paths = {
        "folder": folder / "../../victim",
        "file": folder / "../../victim/thesis.txt",
        "link": folder / "link.ckpt",
        "outside": thesis.absolute(),
    }
    (folder / "link.ckpt").symlink_to(thesis.absolute())

    def aim(content):
        for monitor in ("None", "'val/top1'"):
            state = states(content, monitor)
            for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
                state[key] = str(paths[kind])
            state["best_k_models"] = {str(paths[kind]): torch.tensor(0.0)}

    change(aim)
    go_on()
    assert thesis.read_text() == "years"
    assert {path.name for path in folder.iterdir()} == {"best.ckpt", "last.ckpt", "link.ckpt"}


def test_a_pipe_is_not_opened(run):
    change, go_on = run
    os.mkfifo("run/checkpoints/pipe.ckpt")
    change(lambda c: states(c, "'val/top1'").update(best_model_path=str(Path("run/checkpoints/pipe.ckpt").absolute())))
    go_on()


def test_the_best_is_not_there_any_more(run):
    _, go_on = run
    Path("run/checkpoints/best.ckpt").unlink()
    go_on()
    assert Path("run/checkpoints/best.ckpt").is_file()  # of the epochs from now on


def momentum(shape):
    def change(content):
        content["optimizer_states"][0]["state"][0]["momentum_buffer"] = torch.zeros(shape)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (momentum(5), r"momentum_buffer of parameter 0 has shape \(5,\), the parameter \(16, 3, 3, 3\)"),
        (momentum((16, 3, 3, 1)), r"has shape \(16, 3, 3, 1\)"),
        (lambda c: c["optimizer_states"][0]["param_groups"][0].pop("momentum"), "another optimizer than SGD.*momentum"),
        (lambda c: c["optimizer_states"][0]["param_groups"][0]["params"].pop(), "cannot go on from"),
        (lambda c: c["optimizer_states"].clear(), "no checkpoint of a training, optimizer_states missing"),
        (lambda c: c.update(lr_schedulers=[7]), "cannot go on from"),
        (lambda c: c.update(loops="abc"), "no checkpoint of a training, loops"),
        (lambda c: c.update(epoch="many"), "no checkpoint of a training"),
        (lambda c: c.update(callbacks=[1]), "no checkpoint of a training"),
    ],
)
def test_what_does_not_fit_is_said_in_a_line(run, change, message):
    damage, go_on = run
    damage(change)
    with pytest.raises(SystemExit, match=message) as stopped:
        go_on()
    assert "\n" not in stopped.value.code


def test_another_optimizer(run):
    with pytest.raises(SystemExit, match="of another optimizer than AdamW"):
        run[1]("optimizer=adamw")


def test_written_beside_and_renamed(tmp_path, monkeypatch):
    """Not in TMPDIR; what is there stays where the disk is full."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    path = tmp_path / "last.ckpt"
    files = RunCheckpoints()
    files.save_checkpoint({"x": torch.ones(3)}, path)
    whole = path.read_bytes()
    with monkeypatch.context() as patch:

        def full(content, partial):
            Path(partial).write_bytes(b"half")
            raise RuntimeError("[enforce fail at inline_container.cc:858] . PytorchStreamWriter failed writing file")

        patch.setattr(torch, "save", full)
        with pytest.raises(UserError, match=r"cannot write the checkpoint .*: the disk may be full; make room"):
            files.save_checkpoint({}, path)
    assert path.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [path]


def test_only_the_runs_own_are_removed(tmp_path, caplog):
    own, other = tmp_path / "checkpoints", tmp_path / "other"
    for folder in (own, other):
        folder.mkdir()
        (folder / "a.ckpt").touch()
    files = RunCheckpoints()
    files.allow([ModelCheckpoint(own), object()])
    for path in (other / "a.ckpt", own / "../other/a.ckpt", own, own / "missing.ckpt"):
        files.remove_checkpoint(path)
    assert (other / "a.ckpt").is_file()
    files.remove_checkpoint(own / "a.ckpt")
    assert not (own / "a.ckpt").exists()
