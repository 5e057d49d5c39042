"""Resume under Lightning: the batches that follow are those that would have followed."""

from __future__ import annotations

import json
from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from ctkd_lightning.data import Batch, Fake
from tests.quiet import quiet_trainer


class Recorder(lightning.LightningModule):
    """Records what it trains on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, list[int], list[int], float]] = []

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        checksum = batch.image.double().sum().item()
        self.seen.append((self.current_epoch, batch.index.tolist(), batch.view.tolist(), checksum))
        return self.weight * 0

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("val/loss", self.weight * 0)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveAt(Callback):
    """Saves a checkpoint in a hook once the step is reached."""

    def __init__(self, hook: str, step: int, path: Path) -> None:
        def save(trainer: lightning.Trainer, *arguments) -> None:
            if trainer.global_step == step and not trainer.sanity_checking:
                trainer.save_checkpoint(path)

        setattr(self, hook, save)


def fit(data: Fake, callbacks=(), resume: Path | None = None, **settings) -> list:
    module = Recorder()
    trainer = quiet_trainer(Path.cwd(), **{"max_epochs": 3, **settings}, callbacks=list(callbacks))
    trainer.fit(module, datamodule=data, ckpt_path=resume)
    return module.seen


def make(in_memory: bool = True, num_workers: int = 0) -> Fake:
    return Fake(
        num_classes=4, train_size=24, test_size=4, image_size=8, padding=2, batch_size=5, val_size=4, seed=3,
        in_memory=in_memory, num_workers=num_workers,
    )  # fmt: skip


def test_epochs_differ_and_runs_do_not():
    seen = fit(make())
    assert [epoch for epoch, *_ in seen] == [0] * 4 + [1] * 4 + [2] * 4
    epochs = [[index for e, i, *_ in seen if e == epoch for index in i] for epoch in range(3)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(epochs[2]) == make().train_indices.tolist()
    assert epochs[0] != epochs[1] != epochs[2]
    assert fit(make()) == seen
    assert fit(make(in_memory=False)) == seen


@pytest.mark.parametrize("path", [(True, 0), (False, 0), (False, 2)], ids=["memory", "ordinary", "workers"])
@pytest.mark.parametrize(
    ("hook", "step"),
    [
        ("on_train_batch_end", 1),
        ("on_train_batch_end", 6),
        ("on_train_batch_end", 4),  # an epoch's last batch
        ("on_train_batch_end", 8),
        ("on_validation_end", 4),
        ("on_train_epoch_end", 8),
    ],
)
def test_resume_is_exact(tmp_path, path, hook, step):
    whole = fit(make(*path), [SaveAt(hook, step, tmp_path / "x.ckpt")])
    assert whole == fit(make())
    assert fit(make(*path), resume=tmp_path / "x.ckpt") == whole[step:]


def test_resume_with_limited_batches_and_validation_within_the_epoch(tmp_path):
    settings = {"limit_train_batches": 3, "val_check_interval": 2}
    for hook, step in [("on_train_batch_end", 4), ("on_train_epoch_end", 3), ("on_validation_end", 5)]:
        whole = fit(make(), [SaveAt(hook, step, tmp_path / "x.ckpt")], **settings)
        assert len(whole) == 9
        assert fit(make(), resume=tmp_path / "x.ckpt", **settings) == whole[step:], hook


def test_overfitting_keeps_the_batches():
    seen = fit(make(), overfit_batches=2)
    assert seen[0][1] == seen[2][1] == seen[4][1]


def test_without_reloading_nor_warnings_about_samplers(recwarn):
    fit(make(in_memory=False))
    assert not [w for w in recwarn if any(x in str(w.message) for x in ("sampler", "shuffl", "num_workers", "resum"))]


class WriteSeen(Callback):
    """Each process writes what it trained on."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_fit_end(self, trainer: lightning.Trainer, module: Recorder) -> None:
        Path(f"{self.path}.{trainer.global_rank}").write_text(json.dumps(module.seen))


@pytest.mark.slow
def test_two_processes_resume_exactly_on_disjoint_shares(tmp_path):
    two = {"strategy": "ddp_spawn", "devices": 2}

    def seen(name: str) -> list[list]:
        return [json.loads((tmp_path / f"{name}.{rank}").read_text()) for rank in (0, 1)]

    checkpoint = lightning.pytorch.callbacks.ModelCheckpoint(
        tmp_path, filename="{step}", every_n_train_steps=3, save_top_k=-1, auto_insert_metric_name=False
    )
    fit(make(), [WriteSeen(tmp_path / "whole"), checkpoint], enable_checkpointing=True, **two)
    whole = seen("whole")
    for epoch in range(3):
        shares = [[index for e, i, *_ in share if e == epoch for index in i] for share in whole]
        assert sorted(shares[0] + shares[1]) == make().train_indices.tolist()
    fit(make(), [WriteSeen(tmp_path / "rest")], resume=tmp_path / "3.ckpt", **two)
    assert seen("rest") == [share[3:] for share in whole]
