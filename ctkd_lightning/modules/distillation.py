"""The LightningModule that distils a teacher into a student."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from ctkd_lightning._fused_heads import FusedHeads
from ctkd_lightning._scores.batches import TARGET_KEYS, Sample, need_labels
from ctkd_lightning._training_progress import planned_epochs, training_fraction
from ctkd_lightning.curriculum import CosineCurriculum, Curriculum
from ctkd_lightning.data._base import ImageDataModule
from ctkd_lightning.distillation import Distillation
from ctkd_lightning.errors import UserError, check_number
from ctkd_lightning.features._asking import AskTeacher, StudentCall
from ctkd_lightning.features.frozen import FrozenNetwork
from ctkd_lightning.features.outputs import Pick, Step, is_integer
from ctkd_lightning.features.teachers import Teacher, named_teachers
from ctkd_lightning.fusion.teachers import TeacherFusion
from ctkd_lightning.methods import Method
from ctkd_lightning.modules._held_out_batches import HeldOutBatches, number_of_step
from ctkd_lightning.modules._sharding import is_sharded
from ctkd_lightning.modules.classifier import SupervisedModule
from ctkd_lightning.teacher_cache.cached import CachedTeacher
from ctkd_lightning.temperature import Temperature
from ctkd_lightning.token_store.cached import CachedTexts
from ctkd_lightning.token_store.store import TokenStore
from ctkd_lightning.token_store.teacher import Key

_LARGE = 2**22
"""Logits of a batch, 16 MiB of each network in float32: from there on to make none of them takes less time too."""


class DistillationModule(SupervisedModule):
    r"""Train a student with a frozen teacher at a temperature that may be learned.

    .. math:: L = w_\mathrm{CE} \cdot \mathrm{CE}(s, y) + \sum_m w_m \cdot L_m(s, t, \tau)

    A LightningModule around :class:`~ctkd_lightning.Distillation`. The teacher is always in eval mode, without
    gradients, in no optimizer and in no checkpoint. The temperature and the methods' own parameters share the student's
    optimizer, as in the CTKD paper (Li et al., AAAI 2023, https://arxiv.org/abs/2211.16231). λ of a learned temperature
    follows the Trainer's :class:`~ctkd_lightning.CurriculumTemperatureCallback`, which also logs both; without one it
    follows ``curriculum``.

    A temperature with ``objective="held_out"`` learns from the Trainer's validation data, a batch in each step; the
    student does not.

    Batches are (inputs, target), (inputs, target, index, view), or mappings with usual names (:func:`read_batch`). Logs
    ``train/loss``, ``train/ce`` and ``train/<method>`` once an epoch, and the task's loss and metrics of the student on
    validation and test data.

    Args:
        teacher: from images to scores, (B, C) of a classifier; or several by name, fused as ``teacher_fusion`` says;
            ``None`` with ``teacher_store``.
        student: likewise.
        method: a term of the loss, or several by name; ``KD()`` by default.
        temperature: one for all methods that soften logits, :class:`~ctkd_lightning.GlobalTemperature` by default; or
            one for each of them, by the method's name.
        ce_weight: w_CE: by default the paper's γ, 0.1; see :class:`~ctkd_lightning.Distillation`.
        example_image: (B, 3, H, W), one or more images as they will come; needed by methods that read features. Both
            networks and each method see them once, so that misfits show before the training.
        num_samples: size of the training set, for methods that keep a memory of it.
        curriculum: λ(epoch) where the Trainer has no callback that drives it;
            :class:`~ctkd_lightning.CosineCurriculum` by default.
        mask: from the batch to the positions that count: an entry a position, or a sample.
        student_layers: from feature role to the dotted name of the student's layer, where the default does not serve.
        teacher_layers: the same for the teacher.
        teacher_logits: from the teacher's output to its scores, where that is neither a tensor nor has ``.logits``.
        teacher_input: as in :class:`~ctkd_lightning.Distillation`.
        ask_teacher: likewise.
        teacher_fusion: likewise; its loss is logged as ``train/teacher_fusion``.
        kd_at: a constant temperature at which KD is logged too, as ``train/kd_at_4``: it is no part of the loss, and
            makes trainings at different temperatures comparable.
        teacher_store: a token store or its folder, asked in the teacher's place, as in
            :class:`~ctkd_lightning.Distillation`.
        key: from the batch to its documents in the store.
        fuse_heads: make KD and cross-entropy from what the networks' last linear layers read, so that the logits of
            neither exist as a whole: :func:`~ctkd_lightning.methods.linear_losses`. ``"auto"`` does where it can be
            done and a batch's logits are large, and ``True`` refuses what stands in the way.
        **settings: as in :class:`~ctkd_lightning.modules.classifier.SupervisedModule`: ``optimizer``, ``scheduler``,
            ``channels_last``; ``task``, ``scores``, ``class_dim``, ``ignore_index``, ``student_logits``,
            ``student_input``.

    Raises:
        UserError: no method, or one of a name that the losses have; temperatures by name that are not those of the
            softening methods; ``fuse_heads=True`` where it cannot be; a method that reads features, without
            ``example_image``, of layers that are not there or whose shapes do not fit; with ``example_image``, networks
            that score different classes. At the start of fit a temperature that learns from held-out samples, and no
            validation data, the test's in their place, or a Trainer that shards.
    """

    def __init__(
        self,
        teacher: Teacher | None,
        student: nn.Module,
        method: Method | Mapping[str, Method] | None = None,
        temperature: Temperature | Mapping[str, Temperature] | None = None,
        *,
        ce_weight: float | None = None,
        example_image: Tensor | None = None,
        num_samples: int | None = None,
        curriculum: Curriculum | None = None,
        mask: Callable[[Any], Tensor] | None = None,
        student_layers: Mapping[str, str] | None = None,
        teacher_layers: Mapping[str, str] | None = None,
        teacher_logits: Pick | None = None,
        teacher_input: Callable[..., Any] | None = None,
        ask_teacher: AskTeacher | None = None,
        teacher_fusion: TeacherFusion | None = None,
        kd_at: float | None = None,
        teacher_store: TokenStore | str | Path | None = None,
        key: Key | None = None,
        fuse_heads: bool | Literal["auto"] = "auto",
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        if fuse_heads not in (True, False, "auto"):
            raise UserError(f"fuse_heads must be True, False or 'auto', found {fuse_heads!r}")
        scores = self.scores
        engine = Distillation(
            self.network_in_layout(student),
            self.network_in_layout(named_teachers(teacher)) if teacher_store is None else teacher,
            method,
            temperature,
            ce_weight=ce_weight,
            task=scores.task,
            scores=scores.kinds,
            class_dim=scores.class_dim,
            ignore_index=self.ignore_index,
            student_logits=self.student_logits,
            teacher_logits=teacher_logits,
            student_layers=student_layers,
            teacher_layers=teacher_layers,
            teacher_input=teacher_input,
            ask_teacher=ask_teacher,
            num_samples=num_samples,
            teacher_fusion=teacher_fusion,
            teacher_store=teacher_store,
            key=key,
        )
        # The engine's parts are the module's own, under these names in checkpoints and logs; the engine itself is not.
        self._engine = (engine,)
        self.teacher, self.student = engine.teacher, cast(nn.Module, engine.student)
        self.methods, self.temperature = engine.methods, engine.temperature
        self.teacher_fusion = engine.teacher_fusion
        self.curriculum, self._mask = curriculum, mask
        self._told_unlabelled = False
        self._held_out: HeldOutBatches | None = None
        self.fuse_heads, self._heads, self._compiled = fuse_heads, _Heads(), False
        if kd_at is not None:
            check_number("kd_at", kd_at, above=0)
        self.kd_at = kd_at
        if temperature is not None and not self.uses_temperature:
            rank_zero_warn(engine.no_effect)
        if example_image is not None:
            engine.build(self.images_in_layout(example_image))
        elif engine.needs:
            raise UserError(
                f"method {'+'.join(engine.terms)} reads features and must know their shapes: pass example_image, "
                "for example torch.zeros(2, 3, 32, 32)"
            )
        # Each process computes the same memories, statistics and weights: DDP need not send them around in each step.
        self._ddp_params_and_buffers_to_ignore = [f"methods.{name}" for name, _ in self.methods.named_buffers()]

    @property
    def distillation(self) -> Distillation:
        """The engine."""
        return self._engine[0]

    @property
    def network(self) -> nn.Module:
        """The student."""
        return self.student

    @property
    def networks(self) -> tuple[object, ...]:
        """Which FSDP2 shards: the student and its teachers."""
        teachers = (part.network for part in self.teacher.modules() if isinstance(part, FrozenNetwork))
        return (self.student, *teachers)

    @property
    def uses_temperature(self) -> bool:
        """Whether the temperature acts on any of the methods."""
        return self.distillation.uses_temperature

    @property
    def cached_teacher(self) -> CachedTeacher | CachedTexts | None:
        """Asked in the teacher's place, if there is one."""
        return self.distillation.cached_teacher

    @cached_teacher.setter
    def cached_teacher(self, cached: CachedTeacher | CachedTexts | None) -> None:
        self.distillation.cached_teacher, self._heads = cached, _Heads()

    def compile_networks(self) -> None:
        """Train through ``torch.compile`` from now on; validation and test stay as they are."""
        self._compiled, self._heads = True, _Heads()
        self.distillation.compile_networks()

    def cache_teacher(self, data: ImageDataModule, folder: str | Path, *, precision: str) -> CachedTeacher:
        """Ask the teacher only once for each view of each training sample, and keep what it gives in a file.

        For data of another kind, whose batches say which samples and views they hold, set ``cached_teacher`` to a
        :class:`~ctkd_lightning.teacher_cache.cached.CachedTeacher` of its own.

        Args:
            data: what the student trains on; its loaders ask the cache from now on. Modules that share it keep a
                cache each; the loaders ask the last one's.
            folder: of the file.
            precision: the Trainer's.

        Returns:
            The cached teacher, in use from now on.

        Raises:
            UserError: a method reads feature maps; the folder cannot be written, or the disk cannot hold the file.
        """
        return self.distillation.cache_teacher(
            data, folder, example=self.images_in_layout(data.example_image), precision=precision
        )

    def on_fit_start(self) -> None:
        """See who drives λ."""
        super().on_fit_start()
        self._heads = _Heads()  # what there was may be another by now
        self.distillation.curriculum = None if self.driven else self.curriculum or CosineCurriculum()

    def on_train_start(self) -> None:
        """Set λ and the methods' weights (a run resumed within an epoch has no epoch start); say what is too short."""
        self._held_out = self._held_out_batches()
        for method in self.distillation.terms.values():
            if message := method.unfinished_warmup(planned_epochs(self.trainer)):
                rank_zero_warn(message)
        curriculum = self.distillation.curriculum
        if curriculum:
            self.tell_idle(curriculum, self.distillation.temperatures)
        self.on_train_epoch_start()

    def on_train_epoch_start(self) -> None:
        """Set λ and the methods' weights of this epoch."""
        self.distillation.progress(self.current_epoch, training_fraction(self.trainer))

    def on_validation_start(self) -> None:
        """Let go of the validation data."""
        if self._held_out is not None:
            self._held_out.let_go()

    def on_train_end(self) -> None:
        """Likewise."""
        self._held_out = None

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """One step: the total loss."""
        if self._held_out is not None:
            held_out = self._held_out.at(number_of_step(self.trainer, batch_idx))
            held_out = self.trainer.strategy.batch_to_device(held_out, dataloader_idx=0)
            sample = self.read(held_out)
            images = self.images_in_layout(sample.inputs)
            self.distillation.hold_out(images, target=need_labels(sample), mask=self.mask_of(held_out))
        return super().training_step(batch, batch_idx)

    def _held_out_batches(self) -> HeldOutBatches | None:
        if not self.distillation.learns_from_held_out:
            return None
        if is_sharded(self):
            raise UserError(
                "objective='held_out' runs the student with other weights, which a Trainer that shards does not hold "
                "in one place: train with strategy='ddp' or on one device, or take another objective"
            )
        return HeldOutBatches(self.trainer)

    def mask_of(self, batch: Any) -> Tensor | None:
        """As the module's ``mask`` says."""
        return None if self._mask is None else self._mask(batch)

    def losses(self, images: Tensor, batch: Any) -> Mapping[str, Tensor]:
        """The total loss, the task's loss and each method's unweighted term."""
        sample = self.read(batch)
        engine = self.distillation
        step = Step(sample.target, sample.index, self.mask_of(batch))
        if (heads := self._fused(images, sample.target)) is not None:
            self._tell_unlabelled(sample)
            return heads.losses(images, batch, step)
        teacher = engine.ask(StudentCall((images,), {}), batch)
        student = engine.run(images)
        self._tell_unlabelled(sample)
        losses = engine.losses(student, teacher, step)
        if self.kd_at is not None:
            losses[f"kd_at_{self.kd_at:g}"] = engine.kd_at(self.kd_at, student, teacher, step)
        return losses

    def _tell_unlabelled(self, sample: Sample) -> None:
        if sample.target is None and not self._told_unlabelled:
            self._told_unlabelled = True
            rank_zero_warn(
                f"a training batch has no target in a usual place (its second entry, {', '.join(TARGET_KEYS)}), so "
                "that its loss is the distillation's alone: if it has labels, collate them so"
            )

    def _fused(self, inputs: Tensor, target: Tensor | None) -> FusedHeads | None:
        """What makes the losses of a batch from hidden states; ``None`` where its logits make them."""
        wanted, found = self.fuse_heads is True, self._heads
        if not wanted and (not self.fuse_heads or not is_integer(inputs)):
            return None
        if found.fused is None:
            found.fused = FusedHeads(self.distillation)
        head = found.fused.student.layer
        if not wanted and (head is None or inputs.numel() * head.out_features < _LARGE):
            return None
        if not found.looked:
            found.looked, found.why_not = True, self._why_not_fused(found.fused, inputs)
        why = found.why_not
        if why is None and target is not None and not is_integer(target):
            why = "the target is probabilities"
        if wanted and why:
            raise UserError(f"fuse_heads=True: {why}: take fuse_heads='auto', which does it where it can")
        return found.fused if why is None else None

    def _why_not_fused(self, fused: FusedHeads, inputs: Tensor) -> str | None:
        if self.kd_at is not None:
            return "kd_at reads logits"
        if self._compiled or is_sharded(self):
            return "the networks are compiled or sharded"
        return fused.why_not(inputs[:1])


@dataclass
class _Heads:
    """What is known of a student and a teacher without their last layers.

    Attributes:
        fused: makes losses of them.
        looked: whether it is known that they can be left out.
        why_not: what stands in the way.
    """

    fused: FusedHeads | None = None
    looked: bool = False
    why_not: str | None = None
