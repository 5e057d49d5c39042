"""A checkpoint that a run goes on from is input: what is in it reaches no other file, and no kernel unseen."""

import os
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from ctkd_lightning.errors import UserError
from ctkd_lightning.job.checkpoints import RunCheckpoints
from ctkd_lightning.job.preflight import read_resumable


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


@pytest.mark.parametrize(
    "reader",
    [[], ["+trainer.plugins=[{_target_: lightning.fabric.plugins.TorchCheckpointIO}]"]],
    ids=["own", "foreign"],
)
def test_paths_in_it_remove_and_open_nothing(run, reader):
    """Also where a strategy such as FSDP reads it in a way of its own."""
    change, go_on = run
    victim = Path("victim")
    victim.mkdir()
    thesis = victim / "thesis.txt"
    thesis.write_text("years")
    folder = Path("run/checkpoints").absolute()
    (folder / "link.ckpt").symlink_to(thesis.absolute())
    os.mkfifo(folder / "pipe.ckpt")  # who opens it waits for ever
    paths = [folder / "../../victim", folder / "../../victim/thesis.txt", folder / "link.ckpt", thesis.absolute()]

    def aim(content):
        for monitor in ("None", "'val/top1'"):
            state = states(content, monitor)
            keys = ("best_model_path", "kth_best_model_path", "last_model_path")
            state |= dict(zip(keys, map(str, paths), strict=False))
            state["best_k_models"] = {str(path): torch.tensor(0.0) for path in paths}
        states(content, "'val/top1'")["best_model_path"] = str(folder / "pipe.ckpt")

    change(aim)
    go_on(*reader)
    assert thesis.read_text() == "years"
    assert {path.name for path in folder.iterdir()} == {"best.ckpt", "last.ckpt", "link.ckpt", "pipe.ckpt"}


def test_the_best_is_not_there_any_more(run):
    Path("run/checkpoints/best.ckpt").unlink()
    run[1]()
    assert Path("run/checkpoints/best.ckpt").is_file()  # of the epochs from now on


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c["optimizer_states"][0]["state"][0].update(momentum_buffer=torch.zeros(5)),
            r"momentum_buffer of parameter 0 has shape \(5,\), the parameter \(16, 3, 3, 3\)",
        ),
        (lambda c: c.update(lr_schedulers=[7]), "lr_schedulers missing or no such thing"),
    ],
)
def test_what_does_not_fit_is_said_in_a_line(run, change, message):
    damage, go_on = run
    damage(change)
    with pytest.raises(SystemExit, match=message) as stopped:
        go_on()
    assert "\n" not in stopped.value.code


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        ({"optimizer_states": []}, "optimizer_states"),
        ({"loops": "abc"}, "loops"),
        ({"epoch": "many"}, "epoch"),
        ({"callbacks": [1]}, "callbacks"),
        ({"state_dict": None, "loops": 1}, "state_dict, loops"),
    ],
)
def test_no_checkpoint_of_a_training(tmp_path, change, missing):
    loops = {"fit_loop": {"epoch_progress": {"current": {"processed": 1}}}}
    content = {"epoch": 1, "state_dict": {}, "loops": loops, "optimizer_states": [{}], "callbacks": {}}
    torch.save(content, tmp_path / "x.ckpt")
    assert read_resumable(tmp_path / "x.ckpt") == content
    torch.save(content | change, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=f"no checkpoint of a training, {missing} missing"):
        read_resumable(tmp_path / "x.ckpt")


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


def _changed(checkpoint, *keys, value):
    for key in keys[:-1]:
        checkpoint = checkpoint[key]
    checkpoint[keys[-1]] = value


TAMPERED = {
    "random numbers": (("ctkd_lightning.random",), [{"python": 1}]),
    "their state": (("ctkd_lightning.random", 0, "torch"), torch.zeros(3, dtype=torch.uint8)),
    "losses": (("ctkd_lightning.losses",), [{"sums": {}}]),
    "loops": (("loops", "fit_loop"), {}),
    "schedules": (("lr_schedulers",), [{"_step_count": "x"}]),
    "learning rate": (("optimizer_states", 0, "param_groups", 0, "lr"), "fast"),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_a_checkpoint_whose_parts_are_something_else(run, what):
    change, go_on = run
    keys, value = TAMPERED[what]
    change(lambda content: _changed(content, *keys, value=value))
    with pytest.raises(SystemExit, match=r"^error: resume: "):
        go_on()


def test_a_checkpoint_that_is_not_finite(run):
    change, go_on = run
    change(lambda content: next(iter(content["state_dict"].values())).fill_(torch.nan))
    with pytest.raises(SystemExit, match=r"^error: resume: weights in .*last.ckpt are not finite"):
        go_on()
