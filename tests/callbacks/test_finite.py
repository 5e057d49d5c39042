import json
import math
import re
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ctkd_lightning.callbacks import FiniteSteps
from ctkd_lightning.callbacks.finite import all_finite
from ctkd_lightning.errors import UserError
from tests.quiet import quiet_trainer


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_all_finite(bad):
    tensors = [torch.ones(3), torch.ones(2, dtype=torch.float64), torch.tensor(1), None, torch.empty(0)]
    tensors += [torch.ones(4, dtype=torch.bfloat16), torch.tensor([65504.0, 65504.0], dtype=torch.float16).float()]
    assert all_finite(tensors)
    assert all_finite([])
    for dtype in (torch.float32, torch.float16, torch.float64):
        assert not all_finite([*tensors, torch.tensor([1.0, bad], dtype=dtype)])


class Poison(Callback):
    """NaN in a gradient at a step, counted from 1; after it was looked at, or before."""

    def __init__(self, step, after=True):
        self.step, self.after = step, after

    def on_after_backward(self, trainer, module):
        if not self.after and trainer.global_step + 1 == self.step:
            self._poison(module)

    def on_before_optimizer_step(self, trainer, module, optimizer):
        if self.after and trainer.global_step + 1 == self.step:
            self._poison(module)

    def _poison(self, module):
        next(p for p in module.student.parameters() if p.grad is not None).grad.fill_(math.nan)


def poison(step, after):
    return f"+callbacks.poison={{_target_: tests.callbacks.test_finite.Poison, step: {step}, after: {after}}}"


def summary():
    return json.loads(Path("run/summary.json").read_text())


def test_the_last_step(command):
    """12 steps in 3 epochs: no loss comes after the last."""
    with pytest.raises(SystemExit) as stopped:
        command("run_dir=run", "max_epochs=3", poison(12, True))
    message = stopped.value.code
    assert re.search(r"after step 12, epoch 3, student\.\S+.* not finite", message)
    assert f"the last good checkpoint is {Path('run/checkpoints/last.ckpt').absolute()}" in message
    assert (summary()["status"], summary()["epochs"]) == ("failed", 2)
    kept = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    assert (kept["epoch"], kept["global_step"]) == (1, 8)


def test_the_step_and_the_term_are_named(command):
    with pytest.raises(SystemExit, match=r"not finite in step 7, epoch 2: ce is nan, kd is nan"):
        command("run_dir=run", "max_epochs=3", poison(6, True))


def test_a_skipped_step_is_as_if_it_had_not_been(command, capsys):
    command("run_dir=run", "max_epochs=2", "on_nan=skip", "optimizer.optimizer.momentum=0", poison(8, False))
    assert (summary()["status"], summary()["skipped_steps"]) == ("complete", 1)
    assert "1 steps whose gradients were not finite" in capsys.readouterr().out
    # the last step of the second epoch was left out: the weights are those of the step before
    skipped = load_file("run/student.safetensors")
    command("run_dir=run2", "max_epochs=2", "+trainer.max_steps=7", "optimizer.optimizer.momentum=0")
    plain = load_file("run2/student.safetensors")
    learned = [name for name in plain if "running" not in name and "num_batches" not in name]
    assert all(torch.equal(skipped[name], plain[name]) for name in learned)


class Foreign(LightningModule):
    """No record of losses; the batch decides."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch[0]).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(callback, values, tmp_path):
    loader = DataLoader(TensorDataset(torch.tensor(values)[:, None]))
    module = Foreign()
    quiet_trainer(tmp_path, callbacks=[callback], max_epochs=1).fit(module, loader)
    return module


def test_any_module(tmp_path):
    with pytest.raises(UserError, match=r"layer\.weight.* are not finite"):
        fit(FiniteSteps(), [1.0, math.nan], tmp_path)
    guard = FiniteSteps("skip")
    module = fit(guard, [1.0, math.inf, 2.0], tmp_path)
    assert guard.skipped == 1
    assert all_finite(module.parameters())
    with pytest.raises(UserError, match="all 2 steps of epoch 1 were left out"):
        fit(FiniteSteps("skip"), [math.nan, math.nan], tmp_path)


def test_other_words(command):
    with pytest.raises(UserError, match="on_nan must be stop or skip, found ignore"):
        FiniteSteps("ignore")
    with pytest.raises(SystemExit, match="on_nan must be stop or skip, found ignore"):
        command("run_dir=run", "on_nan=ignore")
