"""A script builds what the command builds: the same weights come out."""

import importlib.util
from pathlib import Path

import torch
from conftest import SMALL
from hydra.core.global_hydra import GlobalHydra

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "from_config.py"


def test_script_and_command_train_the_same_student(command):
    spec = importlib.util.spec_from_file_location("from_config", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    settings = ["max_epochs=2", "curriculum=constant"]
    command("run_dir=command", *settings)
    GlobalHydra.instance().clear()
    top1 = example.main(*SMALL, *settings, "run_dir=script")
    assert 0 <= top1 <= 100
    ours, theirs = (
        torch.load(f"{name}/checkpoints/last.ckpt", weights_only=True)["state_dict"] for name in ("script", "command")
    )
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
