"""The callback that drives learned temperatures."""

from __future__ import annotations

from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from ctkd_lightning.callbacks.temperature_record import TemperatureRecord
from ctkd_lightning.curriculum import CosineCurriculum, Curriculum
from ctkd_lightning.errors import UserError
from ctkd_lightning.temperature import LearnedTemperature, Temperature

_NEAR_END = 0.05  # of the range: where the sigmoid's slope has fallen to a fifth of its peak


class CurriculumTemperatureCallback(Callback):
    """Set λ of every learned temperature in the LightningModule, and show what the temperatures do.

    λ follows the curriculum, from easy (λ = 0: the temperature stands still) to hard (λ = 1: it works fully against
    the student). Once an epoch it logs ``ctkd/lambda`` and ``ctkd/temperature``, of a per-sample temperature its mean
    over the epoch with ``ctkd/temperature_std``, ``_min`` and ``_max``. With several temperatures each has its module's
    name behind ``ctkd/temperature/``.

    Warns once each when a temperature sits at an end of its range, when λ never leaves 0, and when a temperature's
    parameters are in no optimizer.

    Args:
        curriculum: λ(epoch); :class:`~ctkd_lightning.CosineCurriculum` over 10 epochs by default.
        interval: ``"epoch"``: λ is set at the start of each epoch, as in the CTKD paper; ``"step"``: at each step, of
            the epoch's fraction that has passed.

    Raises:
        UserError: another interval; at the start of fit, a module without any temperature.
    """

    def __init__(self, curriculum: Curriculum | None = None, *, interval: Literal["epoch", "step"] = "epoch") -> None:
        if interval not in ("epoch", "step"):
            raise UserError(f"the curriculum's interval is 'epoch' or 'step', found {interval!r}")
        self.curriculum = CosineCurriculum() if curriculum is None else curriculum
        self.interval = interval
        self._records: dict[str, TemperatureRecord] = {}
        self._warned: set[str] = set()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the temperatures."""
        found = {name: module for name, module in pl_module.named_modules() if isinstance(module, Temperature)}
        if not found:
            raise UserError(
                f"{type(pl_module).__name__} holds no temperature: give it self.temperature = GlobalTemperature(), "
                "and use tau = self.temperature(student_logits, teacher_logits) in its distillation loss"
            )
        self._close()
        self._records = {name: TemperatureRecord(module) for name, module in found.items()}
        if self._learned:
            self._check_optimized(trainer)
            self._check_curriculum(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set λ: a run resumed within an epoch has no epoch start."""
        self._set_lambda(trainer.current_epoch)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set λ of this epoch."""
        self._set_lambda(trainer.current_epoch)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set λ of this step, if it moves by steps."""
        if self.interval == "step":
            self._set_lambda(trainer.current_epoch + batch_idx / trainer.num_training_batches)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log λ and τ of the epoch."""
        learned = self._learned
        if learned:
            pl_module.log("ctkd/lambda", next(iter(learned.values())).lambda_, prog_bar=True)
        for name, record in self._records.items():
            statistics = record.collect(trainer.strategy)
            if statistics is None:  # the temperature was not asked in this epoch
                continue
            suffix = f"/{name}" if len(self._records) > 1 else ""
            for key, value in statistics.items():
                pl_module.log(f"ctkd/temperature{key}{suffix}", value, prog_bar=key == "" and not suffix)
            if name in learned:
                self._check_range(name, learned[name], statistics[""])

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the module."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let go of the module: a crash skips teardown."""
        self._close()

    @property
    def _learned(self) -> dict[str, LearnedTemperature]:
        return {n: r.module for n, r in self._records.items() if isinstance(r.module, LearnedTemperature)}

    def _set_lambda(self, epoch: float) -> None:
        value = self.curriculum(epoch)
        for temperature in self._learned.values():
            temperature.lambda_.fill_(value)

    def _close(self) -> None:
        for record in self._records.values():
            record.close()
        self._records = {}

    def _check_optimized(self, trainer: Trainer) -> None:
        optimized = {id(p) for o in trainer.optimizers for group in o.param_groups for p in group["params"]}
        for name, temperature in self._learned.items():
            if not any(id(p) in optimized for p in temperature.parameters()):
                self._warn_once(
                    f"{name}:optimizer",
                    f"temperature {name!r} will not learn: its parameters are in no optimizer; "
                    "hand them to one in configure_optimizers",
                )

    def _check_curriculum(self, trainer: Trainer) -> None:
        epochs = trainer.max_epochs
        if self.interval == "epoch" and epochs and 0 < epochs < 1000 and not any(map(self.curriculum, range(epochs))):
            self._warn_once(
                "lambda",
                f"λ never leaves 0 in {epochs} epoch(s) under {self.curriculum}: the temperature will not learn; "
                "train longer, start the curriculum above 0, or set its interval to 'step'",
            )

    def _check_range(self, name: str, temperature: LearnedTemperature, mean: Tensor) -> None:
        low, high = temperature.bounds
        tau = float(mean)
        if min(tau - low, high - tau) < _NEAR_END * (high - low):
            self._warn_once(
                f"{name}:range",
                f"temperature {name!r} sits at an end of its range: {tau:.2f} in [{low:g}, {high:g}], where it hardly "
                "learns; consider another tau_init or tau_range, a smaller λ, or no weight decay on it",
            )

    def _warn_once(self, key: str, message: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            rank_zero_warn(message)
