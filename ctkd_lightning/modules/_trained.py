"""What every training of this package has in common: optimizer, scheduler and the record of its losses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ctkd_lightning._across_processes import check_processes
from ctkd_lightning._loss_record import LossRecord
from ctkd_lightning._resuming import RandomNumbers, of_all_processes, of_this_process
from ctkd_lightning._training_progress import curriculum_at_zero
from ctkd_lightning.callbacks.curriculum import CurriculumTemperatureCallback
from ctkd_lightning.curriculum import Curriculum
from ctkd_lightning.errors import UserError
from ctkd_lightning.modules._mean_loss import MeanLoss
from ctkd_lightning.modules._sharding import average_whole, is_sharded, shard
from ctkd_lightning.schedule import PerStep
from ctkd_lightning.temperature import LearnedTemperature, Temperature

_LOSSES = "ctkd_lightning.losses"  # in a checkpoint

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]
MakeScheduler = Callable[[Optimizer], LRScheduler]


def default_optimizer(parameters: Iterable[nn.Parameter]) -> Optimizer:
    """The CTKD paper's SGD on CIFAR-100: rate 0.05, momentum 0.9, weight decay 5e-4."""
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=5e-4)


def state_in_layout(optimizer: Optimizer) -> None:
    """Give an optimizer's state the memory layout of its parameters.

    A checkpoint keeps the layout that it was saved in. Fused optimizers on the CPU walk parameter and state in the
    order of the memory, so that one in channels-last and the other not would mix up their elements, without an error.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


_LIKE_PARAMETER = ("momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "sum")
"""State of torch's optimizers with the parameter's shape: fused kernels take it for granted."""

_SWITCHES = {"foreach", "maximize", "capturable", "differentiable", "fused", "decoupled_weight_decay"}
"""Settings that torch has added over time, and adds to the state of older versions."""


def check_state(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Refuse the state of another optimizer, or of other parameters, before it is taken over.

    Raises:
        UserError: saying what differs.
    """
    for own, saved in zip(optimizer.param_groups, state["param_groups"], strict=False):
        if missing := sorted(own.keys() - saved.keys() - _SWITCHES):
            raise UserError(
                f"resume: the checkpoint is of another optimizer than {type(optimizer).__name__}: it has no "
                f"{', '.join(missing)}; resume with the optimizer of that run, or leave resume out"
            )
        for name, value in own.items():
            if _is_number(value) and not _is_number(saved.get(name, value)):
                raise UserError(
                    f"resume: the checkpoint's {name} of the optimizer is {saved[name]!r}, no number: it is damaged; "
                    "give another, or leave resume out"
                )
        for position, (parameter, key) in enumerate(zip(own["params"], saved["params"], strict=False)):
            for name, value in state["state"].get(key, {}).items():
                if name not in _LIKE_PARAMETER or value is None:
                    continue
                shape = tuple(value.shape) if isinstance(value, Tensor) else value
                if shape != tuple(parameter.shape):
                    raise UserError(
                        f"resume: the checkpoint's {name} of parameter {position} has shape {shape}, the parameter "
                        f"{tuple(parameter.shape)}: it is damaged or of another run; give another, or leave resume out"
                    )


def _is_number(value: object) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1
    return isinstance(value, int | float) and not isinstance(value, bool)


class TrainedModule(LightningModule):
    """Optimizer, scheduler and loss logging.

    Training losses are summed on the device in :attr:`record` and logged once an epoch: a log call a step costs more
    than small steps do.

    Args:
        optimizer: makes the optimizer of the trainable parameters; the CTKD paper's SGD by default.
        scheduler: makes the learning rate's scheduler, stepped once an epoch (a
            :class:`~ctkd_lightning.schedule.PerStep` once a step); none by default.
    """

    def __init__(self, optimizer: MakeOptimizer | None = None, scheduler: MakeScheduler | None = None) -> None:
        super().__init__()
        self.make_optimizer = optimizer or default_optimizer
        self.make_scheduler = scheduler
        self.record = LossRecord()
        self.loss_means = nn.ModuleDict({stage: MeanLoss() for stage in ("val", "test")})
        self._random_numbers = RandomNumbers()

    def setup(self, stage: str) -> None:
        """See that the processes are the Trainer's."""
        if stage == "fit":
            check_processes(self.trainer.world_size)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what Lightning does not: the epoch's losses so far, and where the random numbers are."""
        checkpoint[_LOSSES] = of_all_processes(self.record.state_dict())
        self._random_numbers.save(checkpoint, self.device)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over what :meth:`on_save_checkpoint` has kept."""
        self._random_numbers.load(checkpoint)
        if losses := of_this_process(checkpoint.get(_LOSSES)):
            self.record.load_state_dict(losses)

    def on_fit_start(self) -> None:
        """Go on with the random numbers of a checkpoint."""
        self._random_numbers.go_on(self.device)

    @property
    def networks(self) -> tuple[object, ...]:
        """Which FSDP2 shards: the large ones."""
        return ()

    def configure_model(self) -> None:
        """Shard the networks, under ``ModelParallelStrategy``."""
        if is_sharded(self):
            shard(self, self.networks)

    def on_after_backward(self) -> None:
        """Keep equal on all processes what is not sharded, such as temperatures."""
        if is_sharded(self):
            average_whole(self)

    @property
    def mean_loss(self) -> Tensor | None:
        """Of the epoch's steps so far, on the device."""
        return self.record.mean("loss")

    def log_evaluation(self, stage: str, loss: Tensor, count: int, weight: Tensor | float | None = None) -> None:
        """Log the epoch's mean of a loss over all batches and processes.

        Args:
            stage: ``"val"`` or ``"test"``.
            loss: a batch's mean.
            count: how many entries it is of.
            weight: the sum of their weights, where these are not 1.
        """
        mean = cast(MeanLoss, self.loss_means[stage])
        mean.update(loss, count if weight is None else weight)
        self.log(f"{stage}/loss", mean, batch_size=count)

    def on_train_epoch_end(self) -> None:
        """Log the epoch's mean losses.

        Raises:
            UserError: the loss is not finite: no later epoch would bring the network back. (The command's Trainers
                see it in its step: :class:`~ctkd_lightning.callbacks.FiniteSteps`.)
        """
        for name, value in self.record.means().items():
            mean = self.trainer.strategy.reduce(value, reduce_op="mean")
            self.log(f"train/{name}", mean)
            if name == "loss" and not mean.isfinite():
                raise UserError(
                    f"the training loss of epoch {self.current_epoch + 1} is {float(mean)}: lower the learning rate or "
                    "the weights of the loss's terms, or look for broken images and teacher weights"
                )
        self.record.reset()

    @property
    def driven(self) -> bool:
        """Whether a callback of the Trainer drives λ."""
        callbacks = cast(Any, self.trainer).callbacks
        return any(isinstance(callback, CurriculumTemperatureCallback) for callback in callbacks)

    def tell_idle(self, curriculum: Curriculum, temperatures: Iterable[Temperature]) -> None:
        """Warn where some of the temperatures would learn, and λ never leaves 0."""
        learned = [t for t in temperatures if isinstance(t, LearnedTemperature)]
        learns = any(p.requires_grad for temperature in learned for p in temperature.parameters())
        if learns and (message := curriculum_at_zero(cast(Any, self.trainer), curriculum)):
            rank_zero_warn(message)

    def parameter_groups(self) -> Any:
        """What is trained: one group of parameters, unless a subclass has settings for some of them."""
        return [p for p in self.parameters() if p.requires_grad]

    def configure_optimizers(self) -> Any:
        """Optimizer and scheduler over everything that is trained."""
        optimizer = self._optimizer()
        optimizer.register_load_state_dict_pre_hook(check_state)
        optimizer.register_load_state_dict_post_hook(state_in_layout)
        if self.make_scheduler is None:
            return optimizer
        scheduler = self.make_scheduler(optimizer)
        if isinstance(scheduler, PerStep):
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": scheduler.interval}}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def _optimizer(self) -> Optimizer:
        """What trains the parameters: not fused where gradients of mixed precision are clipped.

        Lightning refuses fused optimizers there, in the first step; others reach the same weights.

        Raises:
            UserError: the optimizer is fused, and how it is made cannot be changed.
        """
        optimizer = self.make_optimizer(self.parameter_groups())
        trainer = self._trainer
        if not (trainer and trainer.gradient_clip_val and "mixed" in str(trainer.precision)):
            return optimizer
        if not optimizer.defaults.get("fused"):
            return optimizer
        if isinstance(self.make_optimizer, partial):
            return self.make_optimizer(self.parameter_groups(), fused=False)
        raise UserError(
            f"a fused optimizer does not go with gradient_clip_val={trainer.gradient_clip_val} in "
            f"{trainer.precision}: give the optimizer fused=False"
        )
