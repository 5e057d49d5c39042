"""The LightningModule that trains encoders and their fusion, or a fusion alone."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from ctkd_lightning._across_processes import processes, samples_of_all, shares, weighed
from ctkd_lightning._masks import entries
from ctkd_lightning._scores.batches import TARGET_KEYS, find_index, find_targets
from ctkd_lightning._scores.scores import Scores
from ctkd_lightning._scores.task_loss import task_loss
from ctkd_lightning.curriculum import ConstantCurriculum, CosineCurriculum, Curriculum
from ctkd_lightning.errors import UserError, check_number
from ctkd_lightning.fusion._experts import check_names, mask_by_name
from ctkd_lightning.fusion.corruption import ModalityCorruption
from ctkd_lightning.fusion.fusion import TemperatureFusion
from ctkd_lightning.fusion.network import FusedNetwork, FusionOutput, need_input, without_broken
from ctkd_lightning.modules._accuracy import TopKAccuracy
from ctkd_lightning.modules._auroc import TemperatureAUROC
from ctkd_lightning.modules._trained import MakeOptimizer, MakeScheduler, TrainedModule
from ctkd_lightning.temperature._driving import drive

_STAGES = ("val", "test")
_FUSED = ""
_ONE_CLASS = Scores()
BASELINES = ("product", "average")
"""Fusions of the same scores without temperatures, which the test measures too."""


class FusionModule(TrainedModule):
    r"""Train an encoder for each modality and the fusion of their scores, or the fusion alone over frozen encoders.

    .. math:: L = L_\mathrm{fused} + w \sum_m L_m

    Batches are mappings by name: an entry for each modality, the target under a usual name (``target``, ``label``, …),
    and perhaps ``mask``, (B, M) or by name (B,), for modalities that samples miss. A modality whose input holds NaN
    counts as missing. It logs ``train/loss``, ``train/fused`` and ``train/<modality>``; on validation and test data
    ``loss``, ``top1`` and ``top5`` of the fused scores, and ``top1/<modality>``; on test data also those of plain
    fusions of the same scores, ``top1/product`` and ``top1/average``, and under a corruption ``auroc/<modality>``: how
    well its τ tells the samples where it is corrupted from the others, NaN where there are no others.

    With :class:`~ctkd_lightning.CurriculumTemperatureCallback` in the Trainer λ follows its curriculum, and each
    modality's τ is logged as ``ctkd/temperature/<modality>``.

    Args:
        encoders: from modality to network, input to scores (B, C).
        fusion: of these modalities; :class:`~ctkd_lightning.TemperatureFusion`, for one class out of several.
        frozen: whether the encoders stay as they are and the fusion alone is trained.
        corruption: of training batches; where the temperatures are to know what bad inputs look like.
        expert_weight: w, weight of the modalities' own losses.
        curriculum: λ(epoch), if no callback drives it; a cosine over 10 epochs by default, so that all modalities learn
            before one is turned down, and 1 where encoders are frozen.
        optimizer: makes the optimizer of what is trained; Adam with a rate of 1e-3 by default.
        scheduler: makes the learning rate's scheduler, stepped once an epoch; none by default.

    Attributes:
        network: encoders and fusion as one :class:`~ctkd_lightning.fusion.FusedNetwork`.
        test_corruption: of test batches; none by default.

    Raises:
        UserError: encoders or a corruption that are not those of the fusion's modalities, frozen ones with nothing to
            train; in use, batches without a modality or a target.
    """

    def __init__(
        self,
        encoders: Mapping[str, nn.Module],
        fusion: TemperatureFusion,
        *,
        frozen: bool = False,
        corruption: ModalityCorruption | None = None,
        expert_weight: float = 1.0,
        curriculum: Curriculum | None = None,
        optimizer: MakeOptimizer | None = None,
        scheduler: MakeScheduler | None = None,
    ) -> None:
        super().__init__(optimizer or adam, scheduler)
        check_number("expert_weight", expert_weight, least=0)
        if fusion.scores.single:
            raise UserError(
                f"FusionModule's metrics are for one class out of several, and the task is {fusion.scores.task}: call "
                "the fusion in a module of your own"
            )
        _check_entries(fusion.modalities)
        if corruption is not None:
            corruption.check(fusion.modalities)
        self.network = FusedNetwork(encoders, fusion, frozen=frozen)
        if not any(p.requires_grad for p in self.network.parameters()):
            raise UserError(
                "there is nothing to train: the encoders are frozen and the fusion's temperatures fixed; take "
                "kind='instance' or 'global', or fit_temperatures on held-out data"
            )
        self.corruption, self.test_corruption = corruption, cast(ModalityCorruption | None, None)
        self.expert_weight = expert_weight
        self.curriculum = curriculum
        names = ("top5", *(f"top1{_of(name)}" for name in (_FUSED, *fusion.names)))
        self.metrics = nn.ModuleDict(
            {_key(stage, name): TopKAccuracy(5 if name == "top5" else 1) for stage in _STAGES for name in names}
        )
        self.metrics.update({_key("test", f"top1{_of(name)}"): TopKAccuracy(1) for name in BASELINES})
        self.metrics.update({_key("test", f"auroc{_of(name)}"): TemperatureAUROC() for name in fusion.names})

    @property
    def fusion(self) -> TemperatureFusion:
        """The fusion."""
        return self.network.fusion

    def forward(self, inputs: Mapping[str, Tensor], mask: Tensor | Mapping[str, Tensor] | None = None) -> Tensor:
        """Log-probabilities (B, C) of inputs by modality."""
        return self.network(inputs, mask)

    def on_train_start(self) -> None:
        """Set λ (a run resumed within an epoch has no epoch start), and say where it never leaves 0."""
        self.on_train_epoch_start()
        if not self.driven:
            self.tell_idle(self._own_curriculum, [self.fusion.temperature])

    def on_train_epoch_start(self) -> None:
        """Set λ of this epoch."""
        if not self.driven:
            drive([self.fusion.temperature], self._own_curriculum, self.current_epoch)

    @property
    def _own_curriculum(self) -> Curriculum:
        default = ConstantCurriculum(1.0) if self.network.frozen else CosineCurriculum()
        return self.curriculum or default

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """One step: the total loss."""
        inputs, mask, target = self._read(batch)
        if self.corruption is not None:
            inputs, _ = self._corrupted(self.corruption, inputs, batch, self.current_epoch)
        output = self.network.run(inputs, mask)
        losses = self.fusion.losses_of(output.experts, output.fused, target, self.expert_weight)
        self.record.add(losses, samples_of_all(len(target), target.device))
        return losses["loss"]

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Loss and accuracies of a validation batch."""
        inputs, mask, target = self._read(batch)
        self._evaluate("val", self.network.run(inputs, mask), target)

    def test_step(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Any]:
        """Those of a test batch, and of the plain fusions; gives what :meth:`predict_step` gives."""
        output, bad = self._tested(batch)
        target = need_target(batch, self.fusion.modalities)
        self._evaluate("test", output, target)
        self._compare(output, target)
        self._tell_apart(output, bad)
        return self._told(output, bad)

    def predict_step(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Any]:
        """Log-probabilities and τ by name; under :attr:`test_corruption` also which samples are corrupted."""
        return self._told(*self._tested(batch))

    def _tested(self, batch: Mapping[str, Any]) -> tuple[FusionOutput, dict[str, Tensor]]:
        """The output for a batch under the test's corruption, and by modality which samples are corrupted."""
        inputs, mask = self._inputs(batch)
        bad: dict[str, Tensor] = {}
        if self.test_corruption is not None:
            inputs, bad = self._corrupted(self.test_corruption, inputs, batch, 0)
        return self.network.run(inputs, mask), bad

    def _told(self, output: FusionOutput, bad: dict[str, Tensor]) -> dict[str, Any]:
        tau = output.tau.expand(len(output.fused), -1).unbind(dim=-1)
        return {"log_probabilities": output.fused, "tau": dict(zip(self.fusion.names, tau, strict=True)), "bad": bad}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """No weight decay on the temperatures: it would pull all of them back to where they start."""
        own = {id(parameter) for parameter in self.fusion.temperature.parameters()}
        trained = [p for p in self.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in trained if id(p) not in own]},
            {"params": [p for p in trained if id(p) in own], "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]

    def _inputs(self, batch: Any) -> tuple[dict[str, Tensor], Any]:
        names = self.fusion.modalities
        mask = _need_mapping(batch, names).get("mask")
        return {name: need_input(batch, name) for name in names}, mask

    def _read(self, batch: Any) -> tuple[dict[str, Tensor], Any, Tensor]:
        inputs, mask = self._inputs(batch)
        return inputs, mask, need_target(batch, inputs)

    def _corrupted(
        self, corruption: ModalityCorruption, inputs: dict[str, Tensor], batch: Mapping[str, Any], epoch: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return corruption(inputs, find_index(_without(batch, inputs)), epoch)

    def _evaluate(self, stage: str, output: FusionOutput, target: Tensor) -> None:
        fusion, experts = self.fusion, output.experts
        rows, size = fusion.classes(target, experts), len(target)
        loss = task_loss(fusion.scores, output.fused, target.reshape(-1), rows, None)
        self.log_evaluation(stage, loss, size)
        self._count(stage, "top1", output.fused, rows, size)
        self._count(stage, "top5", output.fused, rows, size)
        for m, name in enumerate(fusion.names):
            there = experts.present[:, m]
            self._count(stage, f"top1/{name}", experts.logits[there, m], rows[there], size)

    def _compare(self, output: FusionOutput, target: Tensor) -> None:
        count = len(self.fusion.modalities)  # without the joint head
        logits, present = output.experts.logits[:, :count], output.experts.present[:, :count, None]
        rows, size = self.fusion.classes(target, output.experts), len(target)
        self._count("test", "top1/product", (logits.log_softmax(-1) * present).sum(dim=1), rows, size)
        self._count("test", "top1/average", (logits.softmax(-1) * present).sum(dim=1), rows, size)

    def _count(self, stage: str, name: str, scores: Tensor, rows: Tensor, size: int) -> None:
        metric = cast(Metric, self.metrics[_key(stage, name)])
        metric.update(scores, rows)
        self.log(f"{stage}/{name}", metric, prog_bar=(stage, name) == ("val", "top1"), batch_size=size)

    def _tell_apart(self, output: FusionOutput, bad: Mapping[str, Tensor]) -> None:
        if output.tau.ndim == 1:  # the same for all samples
            return
        for m, name in enumerate(self.fusion.names):
            if name not in bad:
                continue
            there = output.experts.present[:, m]
            metric = cast(Metric, self.metrics[_key("test", f"auroc/{name}")])
            metric.update(output.tau[there, m], bad[name][there])
            self.log(f"test/auroc/{name}", metric, batch_size=len(there))


class EncodersModule(TrainedModule):
    """Train an encoder for each modality, each by itself: before they are frozen and fused.

    Batches are those of :class:`FusionModule`; samples that miss a modality do not count for its encoder.

    Args:
        encoders: from modality to network, input to scores (B, C).
        **training: ``optimizer`` and ``scheduler``, as of :class:`FusionModule`.

    Raises:
        UserError: modalities' names that cannot be; in use, batches without a modality or a target.
    """

    def __init__(self, encoders: Mapping[str, nn.Module], **training: Any) -> None:
        super().__init__(training.pop("optimizer", None) or adam, **training)
        self.encoders = nn.ModuleDict({name: encoders[name] for name in _check_entries(check_names(list(encoders)))})

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """One step: the sum of the encoders' cross-entropies."""
        names, mask = list(self.encoders), _need_mapping(batch, self.encoders).get("mask")
        target, meant = need_target(batch, names), {} if mask is None else mask_by_name(mask, names)
        losses, counts = {}, []
        for name, encoder in self.encoders.items():
            x, there = without_broken(need_input(batch, name))
            there = there & (meant[name] != 0) if name in meant else there
            losses[name] = task_loss(_ONE_CLASS, encoder(x), target, target, there)
            counts.append(entries(there, there.shape, there.device))
        if processes() > 1:
            own = zip(losses.items(), shares(*counts), strict=True)
            losses = {name: weighed(loss, share) for (name, loss), share in own}
        losses["loss"] = torch.stack(list(losses.values())).sum()
        self.record.add(losses, samples_of_all(len(target), target.device))
        return losses["loss"]


def _check_entries(names: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse modalities that masks or the test's metrics are named like."""
    for name in names:
        if name in ("mask", *BASELINES):
            raise UserError(f"a modality cannot be named {name!r}, which stands for something else: take another name")
    return names


def _need_mapping(batch: Any, names: Iterable[str]) -> Mapping[str, Any]:
    if not isinstance(batch, Mapping):
        raise UserError(
            f"a batch must be a mapping with the modalities {', '.join(names)}, found a {type(batch).__name__}: "
            "collate it so"
        )
    return batch


def _without(batch: Mapping[str, Any], modalities: Container[str]) -> dict[str, Any]:
    return {name: entry for name, entry in batch.items() if name not in modalities}


def need_target(batch: Mapping[str, Any], modalities: Container[str] = ()) -> Tensor:
    """A batch's target, under a usual name that no modality has: of sensors, ``y`` may be an axis.

    Raises:
        UserError: there is none.
    """
    targets = find_targets(_without(batch, modalities))
    if not targets:
        raise UserError(
            f"the batch has no target under {', '.join(TARGET_KEYS)}, found {', '.join(map(str, batch))}: collate it "
            "with one"
        )
    return targets[0]


def adam(parameters: Any) -> torch.optim.Optimizer:
    """Adam with a learning rate of 1e-3 and a decoupled weight decay of 1e-2."""
    return torch.optim.AdamW(parameters, lr=1e-3)


def _of(name: str) -> str:
    return f"/{name}" if name else ""


def _key(stage: str, name: str) -> str:
    return f"{stage} {name}"
