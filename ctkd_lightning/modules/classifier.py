"""What a network's training has in common, distilled or not."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import BinaryAccuracy, BinaryF1Score

from ctkd_lightning._across_processes import processes, samples_of_all, shares, weighed
from ctkd_lightning._masks import entries
from ctkd_lightning._scores.batches import Sample, need_labels, read_batch
from ctkd_lightning._scores.ignored import IgnoredTargets, fit_mask
from ctkd_lightning._scores.scores import Kind, Scores, Task, check_scores_classes
from ctkd_lightning._scores.task_loss import task_loss
from ctkd_lightning.features.outputs import Pick, pick_logits
from ctkd_lightning.modules._accuracy import Percent, TopKAccuracy
from ctkd_lightning.modules._mean_iou import MeanIoU
from ctkd_lightning.modules._trained import MakeOptimizer, MakeScheduler, TrainedModule

_STAGES = ("val", "test")


class SupervisedModule(TrainedModule):
    """Evaluation, optimizer and loss logging of one trained classifier.

    Batches are tuples that start with images (B, ...) and targets, such as :class:`ctkd_lightning.data.Batch`, or
    mappings with both under their usual names (:func:`read_batch`). Training losses are summed on the device and
    logged once an epoch: a log call a step costs more than small steps do. On validation and test data it logs the
    task's loss and, in percent, ``top1`` and ``top5`` (with ``miou`` that too), or under ``binary`` and ``multilabel``
    ``accuracy`` and ``f1`` over all labels together. A subclass has ``network``, the classifier that is trained, and
    ``losses``.

    Args:
        optimizer: makes the optimizer of the trainable parameters; the CTKD paper's SGD by default.
        scheduler: makes the learning rate's scheduler, stepped once an epoch; none by default.
        channels_last: keep network and images in channels-last layout, which convolutions on recent CPUs and GPUs
            prefer.
        task: what the scores say, as in :class:`~ctkd_lightning._scores.scores.Scores`.
        scores: what they are, likewise.
        class_dim: where the classes are, likewise.
        ignore_index: the target that leaves its position out of losses and metrics.
        miou: log the mean intersection over union too, as of maps of classes.
        student_logits: from the network's output to its scores, where that is neither a tensor nor has ``.logits``.
        student_input: from the batch to the network's inputs, where the batch has them under another name, as of
            several modalities one.
    """

    def __init__(
        self,
        optimizer: MakeOptimizer | None = None,
        scheduler: MakeScheduler | None = None,
        channels_last: bool = False,
        *,
        task: Task = "multiclass",
        scores: Kind | Mapping[str, Kind] = "logits",
        class_dim: int | None = None,
        ignore_index: int = -100,
        miou: bool = False,
        student_logits: Pick | None = None,
        student_input: Callable[[Any], Tensor] | None = None,
    ) -> None:
        super().__init__(optimizer, scheduler)
        self.channels_last = channels_last
        check_scores_classes(task, type(self).__name__)
        self.scores = Scores(task, scores, class_dim)
        self.ignore_index = ignore_index
        self._ignored = IgnoredTargets(ignore_index)
        self.miou = miou
        self.student_logits = student_logits
        self.student_input = student_input
        self.accuracy = nn.ModuleDict({f"{stage}_{name}": make() for stage in _STAGES for name, make in self._metrics})

    @property
    def _metrics(self) -> list[tuple[str, Callable[[], Metric]]]:
        """Names and makers; the first is what the progress bar shows."""
        if self.scores.single:
            return [("accuracy", lambda: Percent(BinaryAccuracy())), ("f1", lambda: Percent(BinaryF1Score()))]
        found: list[tuple[str, Callable[[], Metric]]] = [("miou", MeanIoU)] if self.miou else []
        return [*found, ("top1", lambda: TopKAccuracy(1)), ("top5", lambda: TopKAccuracy(5))]

    @property
    @abstractmethod
    def network(self) -> nn.Module:
        """The classifier that is trained."""

    @property
    def networks(self) -> tuple[object, ...]:
        """Which FSDP2 shards: the classifier."""
        return (self.network,)

    @abstractmethod
    def losses(self, images: Tensor, batch: Any) -> Mapping[str, Tensor]:
        """The training losses by name; ``"loss"`` is the one to minimise."""

    def read(self, batch: Any) -> Sample:
        """The entries of a batch."""
        return read_batch(batch, self.student_input)

    def mask_of(self, batch: Any) -> Tensor | None:
        """The positions of a batch that count; ``None`` for all but ignored targets."""
        return None

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

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """One step: the total loss."""
        images = self.images_in_layout(self.read(batch).inputs)
        losses = self.losses(images, batch)
        self.record.add(losses, samples_of_all(len(images), images.device))
        return losses["loss"]

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Loss and metrics of a validation batch."""
        self._evaluate("val", batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Loss and metrics of a test batch."""
        self._evaluate("test", batch)

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        """What the network gives for a batch of inputs, with labels or without."""
        return self(self.read(batch).inputs)

    def _scored(self, output: Any, target: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """A network's logits (..., C) in float32, the target as class indices, and the positions that count."""
        raw = pick_logits(output, self.student_logits, "student")
        logits = self.scores.logits(raw, "student", self.scores.find_class_dim(raw, target)).float()
        classes = self.scores.classes(target, logits.shape[:-1])
        mask = None if classes is None else self._ignored.mask(target.reshape(classes.shape))
        return logits, classes, mask

    def _evaluate(self, stage: str, batch: Any) -> None:
        sample = self.read(batch)
        target = need_labels(sample)
        logits, classes, mask = self._scored(self(sample.inputs), target)
        if (given := self.mask_of(batch)) is not None:
            given = fit_mask(given, logits.shape[:-1])
            mask = given if mask is None else given * mask
        loss = task_loss(self.scores, logits, target, classes, mask)
        if classes is None:  # probabilities: the likeliest class counts
            classes = target.argmax(dim=-1)
        kept = slice(None) if mask is None else mask.flatten() != 0
        rows, classes = logits.flatten(0, -2)[kept], classes.flatten()[kept]
        count = len(rows)  # what is left out makes no batch count more
        self.log_evaluation(stage, loss, count, None if mask is None else mask.sum())
        for position, (name, _) in enumerate(self._metrics):
            metric = cast(Metric, self.accuracy[f"{stage}_{name}"])
            if self.scores.single:
                metric.update(rows[:, 0] - rows[:, 1], 1 - classes)
            else:
                metric.update(rows, classes.long())
            self.log(f"{stage}/{name}", metric, prog_bar=stage == "val" and position == 0, batch_size=count)


class ClassifierModule(SupervisedModule):
    """A classifier trained with cross-entropy: a teacher, or a student alone.

    Args:
        network: images to logits (B, C).
        **settings: as in :class:`SupervisedModule`.
    """

    def __init__(self, network: nn.Module, **settings: Any) -> None:
        super().__init__(**settings)
        self.classifier = self.network_in_layout(network)
        self._run: tuple[Callable[[Tensor], Any]] = (self.classifier,)  # a tuple, so that it is no module of its own

    def compile_networks(self) -> None:
        """Train through ``torch.compile`` from now on; validation and test stay as they are."""
        self._run = (torch.compile(self.classifier),)

    @property
    def network(self) -> nn.Module:
        """The classifier."""
        return self.classifier

    def losses(self, images: Tensor, batch: Any) -> Mapping[str, Tensor]:
        """Cross-entropy; its mean over several processes is that of all their samples together."""
        target = need_labels(self.read(batch))
        logits, classes, mask = self._scored(self._run[0](images), target)
        ce = task_loss(self.scores, logits, target, classes, mask)
        if processes() > 1:
            ce = weighed(ce, *shares(entries(mask, logits.shape[:-1], logits.device)))
        return {"loss": ce, "ce": ce}
