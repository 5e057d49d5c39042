"""What a network's training has in common, distilled or not."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ctkd_lightning.accuracy import TopKAccuracy
from ctkd_lightning.errors import UserError

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


class SupervisedModule(LightningModule):
    """Evaluation, optimizer and loss logging of one trained classifier.

    Batches are tuples that start with images (B, ...) and targets (B,), such as :class:`ctkd_lightning.data.Batch`.
    Training losses are summed on the device and logged once an epoch: a log call a step costs more than small steps
    do. A subclass has ``network``, the classifier that is trained, and ``losses``.

    Args:
        optimizer: makes the optimizer of the trainable parameters; the CTKD paper's SGD by default.
        scheduler: makes the learning rate's scheduler, stepped once an epoch; none by default.
        channels_last: keep network and images in channels-last layout, which convolutions on recent CPUs and GPUs
            prefer.
    """

    def __init__(
        self,
        optimizer: MakeOptimizer | None = None,
        scheduler: MakeScheduler | None = None,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.make_optimizer = optimizer or default_optimizer
        self.make_scheduler = scheduler
        self.channels_last = channels_last
        self.accuracy = nn.ModuleDict({f"{stage}_top{k}": TopKAccuracy(k) for stage in ("val", "test") for k in (1, 5)})
        self._loss_sums: dict[str, Tensor] = {}
        self._loss_steps = 0

    @property
    @abstractmethod
    def network(self) -> nn.Module:
        """The classifier that is trained."""

    @abstractmethod
    def losses(self, images: Tensor, batch: tuple[Any, ...]) -> Mapping[str, Tensor]:
        """The training losses by name; ``"loss"`` is the one to minimise."""

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C) of the trained network."""
        return self.network(self.images_in_layout(images))

    def network_in_layout(self, network: nn.Module) -> nn.Module:
        """The network, converted in place to the memory layout chosen."""
        layout: dict[str, Any] = {"memory_format": torch.channels_last} if self.channels_last else {}
        return network.to(**layout)

    def images_in_layout(self, images: Tensor) -> Tensor:
        """The images in the memory layout that the networks have."""
        if self.channels_last and images.ndim == 4:
            return images.contiguous(memory_format=torch.channels_last)
        return images

    def training_step(self, batch: tuple[Any, ...], batch_idx: int) -> Tensor:
        """One step: the total loss."""
        losses = self.losses(self.images_in_layout(batch[0]), batch)
        for name, value in losses.items():
            value = value.detach()
            self._loss_sums[name] = self._loss_sums[name] + value if name in self._loss_sums else value
        self._loss_steps += 1
        return losses["loss"]

    @property
    def mean_loss(self) -> Tensor | None:
        """Of the epoch's steps so far, on the device."""
        return self._loss_sums["loss"] / self._loss_steps if self._loss_steps else None

    def on_train_epoch_end(self) -> None:
        """Log the epoch's mean losses.

        Raises:
            UserError: the loss is not finite: no later epoch would bring the network back.
        """
        for name, total in self._loss_sums.items():
            mean = self.trainer.strategy.reduce(total / self._loss_steps, reduce_op="mean")
            self.log(f"train/{name}", mean)
            if name == "loss" and not mean.isfinite():
                raise UserError(
                    f"the training loss of epoch {self.current_epoch + 1} is {float(mean)}: lower the learning rate or "
                    "the weights of the loss's terms, or look for broken images and teacher weights"
                )
        self._loss_sums, self._loss_steps = {}, 0

    def validation_step(self, batch: tuple[Any, ...], batch_idx: int) -> None:
        """Cross-entropy, top-1 and top-5 of a validation batch."""
        self._evaluate("val", batch)

    def test_step(self, batch: tuple[Any, ...], batch_idx: int) -> None:
        """Cross-entropy, top-1 and top-5 of a test batch."""
        self._evaluate("test", batch)

    def _evaluate(self, stage: str, batch: tuple[Any, ...]) -> None:
        target = batch[1]
        logits = self(batch[0]).float()
        self.log(f"{stage}/loss", F.cross_entropy(logits, target), batch_size=len(target), sync_dist=True)
        for k in (1, 5):
            accuracy = cast(TopKAccuracy, self.accuracy[f"{stage}_top{k}"])
            accuracy.update(logits, target)
            self.log(f"{stage}/top{k}", accuracy, prog_bar=stage == "val" and k == 1, batch_size=len(target))

    def configure_optimizers(self) -> Any:
        """Optimizer and scheduler over everything that is trained, in one parameter group."""
        optimizer = self.make_optimizer([p for p in self.parameters() if p.requires_grad])
        optimizer.register_load_state_dict_post_hook(state_in_layout)
        self._check_clipping(optimizer)
        if self.make_scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self.make_scheduler(optimizer)}

    def _check_clipping(self, optimizer: Optimizer) -> None:
        """Lightning refuses this too, in the first step and in other words."""
        trainer = self._trainer
        if (
            trainer
            and trainer.gradient_clip_val
            and "mixed" in str(trainer.precision)
            and optimizer.defaults.get("fused")
        ):
            raise UserError(
                f"a fused optimizer does not go with gradient_clip_val={trainer.gradient_clip_val} in "
                f"{trainer.precision}: give the optimizer fused=False (on the command line optimizer.optimizer.fused="
                "false teacher.optimizer.fused=false)"
            )


class ClassifierModule(SupervisedModule):
    """A classifier trained with cross-entropy: a teacher, or a student alone.

    Args:
        network: images to logits (B, C).
        **settings: as in :class:`SupervisedModule`.
    """

    def __init__(self, network: nn.Module, **settings: Any) -> None:
        super().__init__(**settings)
        self.classifier = self.network_in_layout(network)

    @property
    def network(self) -> nn.Module:
        """The classifier."""
        return self.classifier

    def losses(self, images: Tensor, batch: tuple[Any, ...]) -> Mapping[str, Tensor]:
        """Cross-entropy."""
        ce = F.cross_entropy(self.classifier(images).float(), batch[1])
        return {"loss": ce, "ce": ce}
