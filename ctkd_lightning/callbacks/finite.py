"""A training whose numbers are not finite never ends as if all were well."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.optim import Optimizer

from ctkd_lightning._loss_record import LossRecord
from ctkd_lightning.errors import UserError

LOOKS = 50
"""Steps between two looks at the losses on a GPU, each of which waits for the device; on a CPU every step is seen."""


class FiniteSteps(Callback):
    """Stop a training, or skip its step, where a loss, gradient, weight or temperature is NaN or infinite.

    Losses are looked at in each step, weights, temperatures and statistics before each checkpoint and at the end: a
    checkpoint that was written is a good one.

    Args:
        on_nan: ``"stop"``; or ``"skip"``, which looks at the gradients before each step of the optimizer, and leaves
            the step out where they are not finite. That waits for the device in each step.

    Attributes:
        skipped: steps that were left out.

    Raises:
        UserError: another word; and in the training, with the step, what is not finite, and the last good checkpoint.
    """

    def __init__(self, on_nan: str = "stop") -> None:
        if on_nan not in ("stop", "skip"):
            raise UserError(f"on_nan must be stop or skip, found {on_nan}")
        self.skip = on_nan == "skip"
        self.skipped = 0
        self._steps = 0  # of this epoch
        self._skipped_before = 0
        self._recent: list[tuple[int, dict[str, Tensor]]] = []

    def state_dict(self) -> dict[str, Any]:
        """The counts, which a resumed run goes on with."""
        return {"skipped": self.skipped, "steps": self._steps, "skipped_before": self._skipped_before}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As it was."""
        self.skipped = int(state_dict["skipped"])
        self._steps = int(state_dict.get("steps", 0))
        self._skipped_before = int(state_dict.get("skipped_before", 0))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count this epoch's steps."""
        self._steps, self._skipped_before = 0, self.skipped

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Where that is asked for, leave a step out whose gradients are not finite."""
        if not self.skip:
            return
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if all_finite([p.grad for p in parameters]):
            return
        self.skipped += 1
        if (record := _record(pl_module)) is not None:
            record.forget_latest()
        if getattr(trainer.precision_plugin, "scaler", None) is None:  # which leaves the step out itself
            for parameter in parameters:
                parameter.grad = None  # optimizers pass such parameters by

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the step's losses, and look at them from time to time."""
        self._steps += 1
        record = _record(pl_module)
        if record is not None and record.latest:
            self._recent.append((trainer.global_step, record.latest))
        if pl_module.device.type == "cpu" or len(self._recent) >= LOOKS:
            self._look(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before the epoch's checkpoints."""
        self._look(trainer)
        self._look_at_weights(trainer, pl_module)
        if self._steps and self.skipped - self._skipped_before == self._steps:
            raise UserError(
                f"on_nan=skip: all {self._steps} steps of epoch {trainer.current_epoch + 1} were left out, none had "
                f"finite gradients; {_advice(trainer)}"
            )

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse to write a checkpoint that is worth nothing."""
        self._look(trainer)
        self._look_at_weights(trainer, pl_module)

    def _look(self, trainer: Trainer) -> None:
        recent, self._recent = self._recent, []
        if all_finite([value for _, losses in recent for value in losses.values()]):
            return
        for step, losses in recent:
            bad = {name: float(value) for name, value in losses.items() if not value.isfinite()}
            if bad:
                terms = [name for name in bad if name != "loss"] or ["loss"]
                found = ", ".join(f"{name} is {bad[name]}" for name in terms)
                raise UserError(
                    f"the training loss is not finite in step {step}, epoch {trainer.current_epoch + 1}: {found}; "
                    f"{_advice(trainer)}"
                )

    def _look_at_weights(self, trainer: Trainer, pl_module: LightningModule) -> None:
        named = dict(pl_module.named_parameters()) | dict(pl_module.named_buffers())
        trained = {name: value for name, value in named.items() if not _of_teacher(name)}
        if all_finite(trained.values()):
            return
        bad = [name for name, value in trained.items() if not all_finite([value])]
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise UserError(
            f"after step {trainer.global_step}, epoch {trainer.current_epoch + 1}, {bad[0]}{more} are not finite: a "
            f"gradient was not; {_advice(trainer)}"
        )


def all_finite(tensors: Iterable[Tensor | None]) -> bool:
    """Whether all numbers in tensors are finite, with one wait for each device; of sharded ones this process's part."""
    by_device: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        if tensor is not None and hasattr(tensor, "to_local"):
            tensor = tensor.to_local()
        if tensor is not None and tensor.is_floating_point() and tensor.numel():
            by_device.setdefault(tensor.device, []).append(tensor.detach())
    for device, several in by_device.items():
        # a sum of finite numbers is finite short of 1e38, and quick where there are no kernels over many tensors
        each = torch._foreach_norm(several, torch.inf) if device.type == "cuda" else [value.sum() for value in several]
        if not torch.stack([value.double() for value in each]).isfinite().all():
            return False
    return True


def _record(module: LightningModule) -> LossRecord | None:
    record = getattr(module, "record", None)
    return record if isinstance(record, LossRecord) else None


def _of_teacher(name: str) -> bool:
    return name.split(".", 1)[0] == "teacher"


def _advice(trainer: Trainer) -> str:
    advice = "lower the learning rate or the weights of the loss's terms, or look for broken images and teacher weights"
    for callback in cast(Any, trainer).checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor is None and callback.best_model_path:
            return f"{advice}; the last good checkpoint is {callback.best_model_path}"
    return advice
