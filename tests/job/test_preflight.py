"""The command's own tests (test_run.py) carry most mistakes through; here are the rules alone."""

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from ctkd_lightning import build
from ctkd_lightning.errors import UserError
from ctkd_lightning.job.preflight import _check_whole, check_parts, check_resumable, count_processes


@pytest.mark.parametrize(
    ("devices", "processes"), [("auto", 1), (3, 3), ("4", 4), ([0, 2], 2), ("0,2", 2), ("many", 1)]
)
def test_count_processes(devices, processes):
    assert count_processes(OmegaConf.create({"devices": devices, "accelerator": "cpu"})) == processes


def checkpoint(path, **state):
    loops = {"fit_loop": {"epoch_progress": {"current": {"processed": 1}}}}
    torch.save({"epoch": 1, "loops": loops, "optimizer_states": [{}], "state_dict": state}, path)
    return path


def test_a_checkpoint_of_another_network(tmp_path):
    module = nn.Linear(2, 3)
    check_resumable(checkpoint(tmp_path / "own.ckpt", **module.state_dict()), module)
    with pytest.raises(UserError, match="is of another run: bias, scale differ"):
        check_resumable(checkpoint(tmp_path / "names.ckpt", weight=torch.zeros(3, 2), scale=torch.ones(3)), module)
    with pytest.raises(UserError, match="is of another run: weight differ"):
        check_resumable(checkpoint(tmp_path / "shape.ckpt", weight=torch.zeros(3, 4), bias=torch.zeros(3)), module)


def test_a_whole_number_in_another_form():
    cfg = OmegaConf.create({"max_epochs": 12.0})
    _check_whole(cfg, "max_epochs", least=1)
    assert isinstance(cfg.max_epochs, int)
    assert cfg.max_epochs == 12


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method.terms=null"], r"method.terms must be a group of settings, found None"),
        (["~curriculum"], r"curriculum must be a group of settings, found None"),
        (["~temperature"], r"temperature must be a group of settings, found None"),
        (["optimizer.optimizer=3"], r"optimizer.optimizer must be a group of settings, found 3"),
        (["model.student=null"], r"model.student must be a group of settings, found None"),
        (["student_layers=abc"], r"student_layers must be layers by role, .* found abc"),
        (["trainer.devices=null"], r"trainer.devices must be a number, a list of numbers or auto, found None"),
        (["trainer.devices=true"], r"trainer.devices must be a number, a list of numbers or auto, found True"),
    ],
)
def test_a_configuration_without_a_part(overrides, message):
    check_parts(build.config())
    check_parts(build.config("experiment=fusion_digits"))
    with pytest.raises(UserError, match=message):
        check_parts(build.config(*overrides))


@pytest.mark.parametrize("folder", ["null", "''"])
def test_no_run_directory(command, folder):
    with pytest.raises(SystemExit, match="run_dir must be a folder, found none"):
        command(f"run_dir={folder}")
