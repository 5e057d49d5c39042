"""The callback that drives learned temperatures, and distils any training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor, nn

from ctkd_lightning._across_processes import check_processes
from ctkd_lightning._default_temperature import default_temperature
from ctkd_lightning._given import named_methods, named_temperatures, weight_of_task
from ctkd_lightning._resuming import RandomNumbers, of_all_processes, of_this_process
from ctkd_lightning._scores.scores import Kind, Scores, Task
from ctkd_lightning._training_progress import curriculum_at_zero, planned_epochs, training_fraction
from ctkd_lightning.callbacks._distributions import Callback
from ctkd_lightning.callbacks._given_teacher import check_same_everywhere, check_strategy, load_teacher, match_precision
from ctkd_lightning.callbacks._temperature_record import TemperatureRecord
from ctkd_lightning.callbacks.plugin.attach import Attachment, find_network
from ctkd_lightning.callbacks.plugin.detectors import check_detectors, detectors_of
from ctkd_lightning.callbacks.plugin.distiller import Distiller, Pickers
from ctkd_lightning.callbacks.plugin.optimizer import CompanionOptimizer
from ctkd_lightning.callbacks.plugin.shared_values import SharedValues
from ctkd_lightning.curriculum import CosineCurriculum, Curriculum
from ctkd_lightning.detection import DetectorPair
from ctkd_lightning.distillation import Distillation
from ctkd_lightning.errors import UserError, check_number
from ctkd_lightning.features._asking import AskTeacher, TeacherInput
from ctkd_lightning.features.frozen import check_separate
from ctkd_lightning.features.outputs import Pick
from ctkd_lightning.features.teachers import Teacher
from ctkd_lightning.fusion.teachers import FUSION, TeacherFusion, fusion_of
from ctkd_lightning.methods import KD, Method
from ctkd_lightning.temperature import GlobalTemperature, LearnedTemperature, Temperature
from ctkd_lightning.temperature._driving import drive
from ctkd_lightning.temperature._rule import RuleTemperature
from ctkd_lightning.token_store.store import TokenStore
from ctkd_lightning.token_store.teacher import Key, stored_teacher

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

_EPOCH = "ctkd_lightning.epoch"  # in a checkpoint
_RANGE_OF_VERSION_0_1 = (1.0, 20.0)  # tau_init and tau_range of the default temperature, which was one for all
_OWN = "temperature"  # the name of the temperature that the callback brings

_BOTH_WAYS = """
    self.temperature = GlobalTemperature()                                    # 1. in __init__, and in training_step
    loss = loss + kd_loss(student, teacher, self.temperature(student, teacher))
    Trainer(callbacks=[CurriculumTemperatureCallback(teacher=network)])       # 2. or this alone"""


class CurriculumTemperatureCallback(Callback):
    r"""Bring curriculum temperatures to any training: in the module's own loss, or with the loss.

    *The module distils*: it holds temperatures, ``self.temperature = GlobalTemperature()``, and its loss uses them.
    ``CurriculumTemperatureCallback()`` finds them all. *The module knows nothing of distillation*:
    ``CurriculumTemperatureCallback(teacher=network)`` watches the student's call in ``training_step``, runs the frozen
    teacher on the same arguments and adds the distillation loss to what the step returns, or, where the module
    optimizes by hand, to what it hands to ``manual_backward``:

    .. math:: L = w_\mathrm{CE} \cdot L_\mathrm{step} + w_\mathrm{KD} \cdot \mathrm{KD}(s, t, \tau)

    The distillation itself is :class:`~ctkd_lightning.Distillation`'s, whose settings the callback takes: any methods,
    of logits and of features, each with its temperature; tasks, masks and teachers of all kinds. Where the step calls
    the student several times, KD is the mean over the calls that the loss depends on. Of torchvision's detectors and
    their like, which return losses, the teacher scores the proposals or anchors of the student's own pass: see
    ``docs/detection.md``. Validation, test and prediction stay as they are. The teacher is in no optimizer and in no
    checkpoint, temperature, methods and their optimizer are in the callback's part of the checkpoint: the module's part
    is that of the module alone, and loads with or without the callback. After fit, and after an exception, the module
    is as it was.

    In both cases λ of each learned temperature follows the curriculum, from easy (λ = 0: the temperature stands still)
    to hard (λ = 1: it works fully against the student). Parameters of temperatures that ``configure_optimizers`` left
    out are stepped right after the student's, by an optimizer of their own of the same class and settings, under the
    same schedule; the module's optimizers stay as they are.

    Once an epoch it logs ``ctkd/lambda`` and ``ctkd/temperature``, of a per-sample temperature its mean over the epoch
    with ``ctkd/temperature_std``, ``_min`` and ``_max``; with several temperatures each has its module's name behind
    ``ctkd/temperature/``. With a teacher also ``train/<method>``, the unweighted distillation loss. Warns once each
    when a temperature sits at an end of its range, when λ never leaves 0, and when there is no optimizer.

    Args:
        curriculum: λ(epoch); :class:`~ctkd_lightning.CosineCurriculum` over 10 epochs by default.
        teacher: takes what the student takes; a module, or the path of its weights with ``teacher_model``; or several
            modules by name, fused as ``teacher_fusion`` says. It is frozen and put into eval mode.
        student: dotted name of the network whose call is distilled, such as ``"model"`` or ``"net.head"``; by default
            the module itself, be it called as ``self(x)`` or ``self.forward(x)``.
        interval: ``"epoch"``: λ is set at the start of each epoch, as in the CTKD paper; ``"step"``: at each step, of
            the epoch's fraction that has passed.
        steps_per_epoch: batches that count as an epoch of the curriculum, where the loader's epochs are not meant or
            have no end; λ is then set at each step.
        temperature: of the distillation with a teacher; :class:`~ctkd_lightning.GlobalTemperature` by default, for a
            student that scores a vocabulary ``GlobalTemperature.for_tokens()``, for a detector
            ``GlobalTemperature.for_detectors()``; or one for each method that softens, by the method's name.
        method: a term with its weight, or several by name; ``KD()`` by default. What methods of features build for
            themselves they build at the first batch.
        ce_weight: w_CE, factor of the step's own loss: by default the paper's γ, 0.1, of detectors 1; 0, and nothing
            else, beside a method that brings the cross-entropy itself.
        kd_weight: w_KD, factor of the default method, the paper's α: 0.9.
        learning_rate: of the temperatures and the methods' own parameters, in the place of the rate that the student's
            parameter group was made with (under CyclicLR and OneCycleLR, which replace it, the optimizer's): a schedule
            moves both alike. By default they share the student's settings.
        weight_decay: of these. With one of the two given, temperatures in the module's optimizers are taken over too.
        task: what the scores say: ``"multiclass"``, ``"binary"`` or ``"multilabel"``; ``"vectors"`` where the outputs
            are no scores but embeddings, or what is regressed.
        scores: ``"logits"`` or ``"probabilities"``, for both networks or by role: ``{"teacher": "probabilities"}``.
        class_dim: where the logits have their classes; told from the target's shape by default.
        ignore_index: the target that leaves its position out of every term.
        student_logits: from the student's output to its logits, where that is neither a tensor nor has ``.logits``.
        teacher_logits: the same for the teacher.
        student_layers: from feature role to the dotted name of a layer, within the student.
        teacher_layers: the same for the teacher.
        target: from the batch to the class indices, where batches have them elsewhere than in their second entry or
            under ``labels``, ``label``, ``targets``, ``target`` or ``y``.
        mask: from the batch to the positions that count: the logits' shape without the classes (or one entry a sample),
            false or 0 for padding. Methods that compare samples are given the kept ones alone, which waits for the
            device.
        index: from the batch to the samples' positions in the training set, for methods with a memory; by default
            its third entry, or ``index``.
        num_samples: size of the training set, for these; that of the loader's data by default.
        teacher_input: from the batch, or from the batch and the student's call, to the teacher's arguments: another
            resolution, another tokeniser, a clean view. See :class:`~ctkd_lightning.features._asking.TeacherInput`.
        ask_teacher: from the teacher and the student's call (``call.args``, ``call.kwargs``, ``call.output``) to the
            teacher's output, where that is not one forward pass.
        teacher_cache: a folder: keep there what the teacher gives, and ask it once for each view of each sample. The
            Trainer's datamodule must be one of :mod:`ctkd_lightning.data`, whose batches say which they hold.
        teacher_model: the network for a teacher that is a path.
        teacher_fusion: how several teachers are fused: ``"instance"``, the default, ``"global"`` or ``"fixed"``, or a
            :class:`~ctkd_lightning.TemperatureFusion`, as in :class:`~ctkd_lightning.Distillation`. The callback logs
            ``ctkd/temperature/<teacher>`` and the loss ``train/teacher_fusion``.
        accumulate_grad_batches: for a module that optimizes by hand and divides its loss by as much, since it
            accumulates gradients over several batches: the distillation is divided as well. With automatic optimization
            it is the Trainer's argument, which divides both.
        teacher_store: a :class:`~ctkd_lightning.token_store.TokenStore` or its folder, which is asked in the teacher's
            place: no teacher is in memory. The student's token ids must be the store's text.
        key: from the batch to its documents in the store, one a row, as in ``lambda batch: batch["id"]``; or to a pair
            (documents, offsets) where the rows do not begin at position 0.

    Raises:
        UserError: settings out of range or that do not go together; at the start of fit, a module without any
            temperature and no teacher, a student or layer that is not there, a teacher that shares trained parameters
            with the module or differs between processes; in training, a student that is never called, and what the
            engine refuses.
    """

    def __init__(
        self,
        curriculum: Curriculum | None = None,
        teacher: Teacher | str | Path | None = None,
        student: str | None = None,
        *,
        interval: Literal["epoch", "step"] = "epoch",
        steps_per_epoch: int | None = None,
        temperature: Temperature | Mapping[str, Temperature] | None = None,
        method: Method | Mapping[str, Method] | None = None,
        ce_weight: float | None = None,
        kd_weight: float | None = None,
        learning_rate: float | None = None,
        weight_decay: float | None = None,
        task: Task = "multiclass",
        scores: Kind | Mapping[str, Kind] = "logits",
        class_dim: int | None = None,
        ignore_index: int = -100,
        student_logits: Pick | None = None,
        teacher_logits: Pick | None = None,
        student_layers: Mapping[str, str] | None = None,
        teacher_layers: Mapping[str, str] | None = None,
        target: Callable[[Any], Any] | None = None,
        mask: Callable[[Any], Any] | None = None,
        index: Callable[[Any], Any] | None = None,
        num_samples: int | None = None,
        teacher_input: Callable[..., Any] | None = None,
        ask_teacher: AskTeacher | None = None,
        teacher_cache: str | Path | None = None,
        teacher_model: nn.Module | None = None,
        accumulate_grad_batches: int = 1,
        teacher_fusion: TeacherFusion | None = None,
        teacher_store: TokenStore | str | Path | None = None,
        key: Key | None = None,
    ) -> None:
        if interval not in ("epoch", "step"):
            raise UserError(f"the curriculum's interval is 'epoch' or 'step', found {interval!r}")
        if steps_per_epoch is not None:
            check_number("steps_per_epoch", steps_per_epoch, least=1, whole=True)
        if learning_rate is not None:
            check_number("learning_rate", learning_rate, above=0)
        if weight_decay is not None:
            check_number("weight_decay", weight_decay, least=0)
        check_number("accumulate_grad_batches", accumulate_grad_batches, least=1, whole=True)
        self.curriculum = CosineCurriculum() if curriculum is None else curriculum
        self.interval, self.steps_per_epoch = interval, steps_per_epoch
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        if teacher_store is not None or key is not None:
            asked_otherwise = {
                "teacher": teacher,
                "teacher_model": teacher_model,
                "teacher_input": teacher_input,
                "ask_teacher": ask_teacher,
                "teacher_cache": teacher_cache,
            }
            teacher, teacher_input = stored_teacher(teacher_store, key, asked_otherwise, task)
            class_dim = -1 if class_dim is None else class_dim
        self.teacher = load_teacher(teacher, teacher_model)
        self.student = student
        self.accumulate_grad_batches = accumulate_grad_batches
        self.teacher_cache = teacher_cache
        self.pickers = Pickers(target, mask, index)
        self.num_samples = num_samples
        self._settings: dict[str, Any] = {
            "task": task,
            "scores": scores,
            "class_dim": class_dim,
            "ignore_index": ignore_index,
            "student_logits": student_logits,
            "teacher_logits": teacher_logits,
            "student_layers": student_layers,
            "teacher_layers": teacher_layers,
            "teacher_input": teacher_input,
            "ask_teacher": ask_teacher,
        }
        of_batch = {"target": target, "mask": mask, "index": index, "teacher_cache": teacher_cache}
        self._given = _given({**self._settings, **of_batch})
        _check_teacher_given(
            self.teacher,
            {
                **self._settings,
                **of_batch,
                "student": student,
                "temperature": temperature,
                "method": method,
                "ce_weight": ce_weight,
                "kd_weight": kd_weight,
                "num_samples": num_samples,
                "accumulate_grad_batches": accumulate_grad_batches,
                "teacher_fusion": teacher_fusion,
            },
        )
        meaning = Scores(task, scores, class_dim)
        self.teacher_fusion = None if self.teacher is None else fusion_of(self.teacher, teacher_fusion, meaning)
        TeacherInput(teacher_input)
        self._temperature_given = temperature is not None
        terms = named_methods(_weighted(method, kd_weight))
        self.ce_weight = weight_of_task(terms.values(), ce_weight)
        self.methods = nn.ModuleDict(terms)
        self.temperature = named_temperatures(
            self.methods, default_temperature(None) if temperature is None else temperature
        )
        self._range_found, self._ce_weight_given = temperature is not None, ce_weight is not None
        self._records: dict[str, TemperatureRecord] = {}
        self._warned: set[str] = set()
        self._engine: Distillation | None = None
        self._attachment: Attachment | None = None
        self._detectors: DetectorPair | None = None
        self._optimizer: CompanionOptimizer | None = None
        self._loaded_methods: dict[str, Any] = {}
        self._loaded_epoch: dict[str, Any] = {}
        self._random_numbers = RandomNumbers()
        self._built = False  # the methods' own parts, which a second training goes on with
        self._shared = SharedValues(*self._brought.values())

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Attach the teacher."""
        if stage != "fit":
            return
        self._release()
        self._optimizer = self._companion(trainer, pl_module)
        check_strategy(trainer.strategy, _find_temperatures(pl_module).values(), None)
        if self.teacher is None:
            return
        check_separate(self.teacher, pl_module)
        self._detectors = detectors = detectors_of(
            self.teacher, pl_module, self.student, self.methods.values(), self._given
        )
        if detectors is not None and not self._ce_weight_given:
            self.ce_weight = 1.0  # the step's loss is that of boxes and proposals too
        for own in self._brought.values():
            check_strategy(trainer.strategy, (), own)
        if not self._shared.detach():
            self._warn_once("shared", "this machine shares no memory: the temperature stays in the child processes")
        self._engine = engine = Distillation(
            teacher=self.teacher,
            method=self.methods,
            temperature=self.temperature,
            ce_weight=self.ce_weight,
            shared=pl_module,
            teacher_fusion=self.teacher_fusion,
            **{**self._settings, **({} if detectors is None else detectors.settings)},
        )
        match_precision(engine, getattr(trainer, "precision_plugin", None))  # before a checkpoint's values come
        if not engine.uses_temperature and self._temperature_given:
            self._warn_once("no effect", engine.no_effect)
        self._attachment = Attachment(
            pl_module,
            Distiller(engine, self.pickers, None if self._built else self._methods_built, detectors),
            self.student,
            self.ce_weight,
            self.accumulate_grad_batches,
            engine.layers_of,
            self._optimizer.forget_stale,
            None if detectors is None else detectors.tap,
        )

    def _find_range(self, pl_module: LightningModule) -> None:
        """Give the default temperature, once, the range that goes with what the student scores.

        Not before the module has made its networks, and not one that has learned already.
        """
        if self._range_found:
            return
        self._range_found = True
        own, untouched = self.temperature, GlobalTemperature()
        if not isinstance(own, GlobalTemperature) or not torch.equal(own.value.cpu(), untouched.value):
            return
        fit = default_temperature(find_network(pl_module, self.student), detects=self._detectors is not None)
        if own.bounds != fit.bounds:
            own.tau_init, own.tau_range = fit.tau_init, fit.tau_range
            own.load_state_dict(fit.state_dict())

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the temperatures, and have them optimised."""
        found = _find_temperatures(pl_module)
        if self._engine is not None:
            check_processes(trainer.world_size)
            check_detectors(find_network(pl_module, self.student), self._detectors, self._engine, self._given)
            self._find_range(pl_module)
            self._move_engine(trainer, pl_module)
            for root, part in self._brought.items():
                for name, temperature in _named(root, part):
                    if not any(module is temperature for module in found.values()):
                        _add_named(found, name, temperature)
        if not found:
            raise UserError(
                f"{type(pl_module).__name__} holds no temperature, and the callback has no teacher. Either its loss "
                "uses a temperature, or the callback brings the loss:",
                example=_BOTH_WAYS,
            )
        self._check_objectives(pl_module, found)
        self._records = {name: TemperatureRecord(module) for name, module in found.items()}
        self._optimize(trainer, pl_module)
        self._go_on(pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep what Lightning does not: the epoch's τ and losses so far, and where the random numbers are."""
        heard: dict[str, Any] = {name: record.state_dict() for name, record in self._records.items()}
        losses = None if self._engine is None else self._engine.record.state_dict()
        checkpoint[_EPOCH] = of_all_processes({"temperatures": heard, "losses": losses})
        self._random_numbers.save(checkpoint, pl_module.device)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep it until the training starts."""
        self._random_numbers.load(checkpoint)
        self._loaded_epoch = of_this_process(checkpoint.get(_EPOCH)) or {}

    def _go_on(self, pl_module: LightningModule) -> None:
        self._random_numbers.go_on(pl_module.device)
        loaded, self._loaded_epoch = self._loaded_epoch, {}
        for name, heard in loaded.get("temperatures", {}).items():
            if name in self._records:
                self._records[name].load_state_dict(heard)
        if self._engine is not None and loaded.get("losses"):
            self._engine.record.load_state_dict(loaded["losses"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set λ (a run resumed within an epoch has no epoch start), and look at the training's length."""
        if self._engine is not None:
            self._prepare_memories(trainer)
            for method in self._engine.terms.values():
                if message := method.unfinished_warmup(planned_epochs(trainer, self.steps_per_epoch)):
                    self._warn_once(f"warm-up of {type(method).__name__}", message)
        self.on_train_epoch_start(trainer, pl_module)
        if self._learned and (
            message := curriculum_at_zero(trainer, self.curriculum, self.interval, self.steps_per_epoch)
        ):
            self._warn_once("lambda", message)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set λ and the methods' weights of this epoch."""
        if not self.steps_per_epoch:
            self._drive(trainer, trainer.current_epoch)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set λ of this step, if it moves by steps, and go with the optimizers that there are now."""
        if self._optimizer is not None:
            self._optimizer.follow(trainer.optimizers)
        if self.steps_per_epoch:
            batches = trainer.fit_loop.epoch_loop.batch_progress.total.ready - 1
            self._drive(trainer, batches / self.steps_per_epoch)
        elif self.interval == "step":
            self._drive(trainer, trainer.current_epoch + batch_idx / trainer.num_training_batches)

    def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Drop the temperatures' gradients with the student's."""
        if self._optimizer is not None:
            self._optimizer.zero_grad(optimizer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log λ, τ and the distillation losses of the epoch."""
        learned = self._learned  # batch_size: where training_step fetches the batches, Lightning cannot know it
        if learned:
            pl_module.log("ctkd/lambda", next(iter(learned.values())).lambda_, prog_bar=True, batch_size=1)
        collected = {name: record.collect(trainer.strategy) for name, record in self._records.items()}
        asked = [(name, part, found) for name, parts in collected.items() for part, found in parts.items()]
        bases = [record for record in self._records.values() if not isinstance(record.module, RuleTemperature)]
        labels = self._labels()
        # a rule and its base are one, unless both are asked for τ
        several = len(asked) > 1 or len(bases) > 1 or any(part for _, part in labels)
        for name, part, statistics in asked:
            label = labels[name, part]
            suffix = f"/{label}" if several else ""
            for key, value in statistics.items():
                main = key == "" and not suffix
                pl_module.log(f"ctkd/temperature{key}{suffix}", value, prog_bar=main, batch_size=1)
            if name in learned:
                self._check_range(label, learned[name], statistics[""])
        if self._attachment is not None and self._engine is not None:
            self._attachment.check_distilled()
            for name, loss in self._engine.collect().items():
                pl_module.log(f"train/{name}", loss, sync_dist=True, batch_size=1)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the module."""
        if self._engine is not None:
            self._engine.cpu()  # where Lightning leaves the module
            if trainer.is_global_zero:
                self._shared.write_back()
            self._shared.share()
        self._release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let go of the module: a crash skips teardown."""
        self._release()

    def __getstate__(self) -> dict[str, Any]:
        # The optimizer of a training that is over is still known, for a checkpoint saved then.
        running = dict.fromkeys(("_attachment", "_engine", "_detectors", "_optimizer"))
        return {**self.__dict__, "_records": {}, **running}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._shared.share()

    def state_dict(self) -> dict[str, Any]:
        """Temperature and methods that the callback brought, and their optimizer; the module's are the module's."""
        state: dict[str, Any] = {} if self._optimizer is None else {"optimizer": self._optimizer.state_dict()}
        if self.teacher is not None:
            state |= {name: part.state_dict() for name, part in self._brought.items()}
            state |= {"method": self.methods.state_dict()}
            if isinstance(own := self.temperature, GlobalTemperature):
                state["range"] = own.tau_init, own.tau_range
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the temperature, and with what the methods have built as soon as they build it.

        Raises:
            UserError: the checkpoint has a temperature of another kind, or of other teachers.
        """
        if self._optimizer is not None:
            self._optimizer.load_state_dict(state_dict.get("optimizer") or _of_version_0_1(state_dict))
        if self.teacher is None or "temperature" not in state_dict:
            return
        if self.teacher_fusion is None and FUSION in state_dict:
            raise UserError(
                "the checkpoint is of a training with several teachers, and this callback has one: resume with the "
                "teachers of the first run"
            )
        for name, part in self._brought.items():
            try:
                part.load_state_dict(state_dict.get(name, {}))
            except RuntimeError as error:
                found = ", ".join(state_dict.get(name, {})) or "none"
                raise UserError(
                    f"the checkpoint's {name} is another than this {type(part).__name__} (entries: {found}): resume "
                    "with the temperature, method and teachers of the first run"
                ) from error
        if isinstance(self.temperature, GlobalTemperature) and not self._temperature_given:
            self._range_found = True
            self.temperature.tau_init, self.temperature.tau_range = state_dict.get("range", _RANGE_OF_VERSION_0_1)
        self._loaded_methods = dict(state_dict.get("method", {}))
        if self._loaded_methods.keys() <= self.methods.state_dict().keys():
            self._load_methods()

    @property
    def _brought(self) -> dict[str, nn.Module]:
        """What the callback brings that holds temperatures, by name."""
        of_teachers = {} if self.teacher_fusion is None else {FUSION: self.teacher_fusion}
        return {_OWN: self.temperature, **of_teachers}

    @property
    def _learned(self) -> dict[str, LearnedTemperature]:
        return {n: r.module for n, r in self._records.items() if isinstance(r.module, LearnedTemperature)}

    def _labels(self) -> dict[tuple[str, str], str]:
        """What each τ is logged as: a part, as a modality, by its own name, unless another τ would have the same."""
        parts = [(name, part) for name, record in self._records.items() for part in record.parts]
        taken = [part or name for name, part in parts]
        return {
            (name, part): f"{name}.{part}" if part and taken.count(part) > 1 else part or name for name, part in parts
        }

    def _drive(self, trainer: Trainer, epoch: float) -> None:
        temperatures = (record.module for record in self._records.values())
        fraction = training_fraction(trainer)
        drive(temperatures, self.curriculum, epoch, fraction)
        if self._engine is not None:
            for method in self._engine.terms.values():
                method.set_progress(epoch, fraction)

    def _move_engine(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The engine is no part of the module: what a strategy does to that is done to it here."""
        engine = self._engine
        assert engine is not None
        check_same_everywhere(engine.teacher.network, trainer.strategy)
        engine.to(pl_module.device)
        match_precision(engine, trainer.precision_plugin)
        engine.train()
        if self.teacher_cache is not None:
            data: Any = getattr(trainer, "datamodule", None)
            if not all(hasattr(data, name) for name in ("view_fingerprint", "example_image", "teacher_cache")):
                raise UserError(
                    "teacher_cache needs batches that say which sample and view they hold: train with a datamodule of "
                    f"ctkd_lightning.data, found {type(data).__name__}, or leave teacher_cache out"
                )
            example = data.example_image.to(pl_module.device)
            engine.cache_teacher(data, self.teacher_cache, example=example, precision=str(trainer.precision))

    def _prepare_memories(self, trainer: Trainer) -> None:
        """Tell the methods the size of the training set, where it is known."""
        assert self._engine is not None
        size = self.num_samples
        if size is None:
            data: Any = getattr(trainer.train_dataloader, "dataset", None)
            size = len(data) if hasattr(data, "__len__") else None
        if size is not None:
            self._engine.prepare(size)

    def _methods_built(self) -> None:
        """Load and optimise what the methods have made for themselves at the first batch."""
        self._built = True
        self._load_methods()
        if self._optimizer is not None:
            self._optimizer.add({f"method.{name}": value for name, value in self.methods.named_parameters()})

    def _load_methods(self) -> None:
        if self._loaded_methods:
            self.methods.load_state_dict(self._loaded_methods)
            self._loaded_methods = {}

    def _optimize(self, trainer: Trainer, pl_module: LightningModule) -> None:
        optimizer = self._optimizer
        if optimizer is None:  # a hook called without setup
            return
        parameters: dict[str, nn.Parameter] = {}
        for name, record in self._records.items():
            new = {f"{name}.{p}": value for p, value in record.module.named_parameters()}
            known = {id(value) for value in parameters.values()}  # a rule's are its base's
            parameters |= {p: value for p, value in new.items() if id(value) not in known}
        parameters |= {f"method.{name}": value for name, value in self.methods.named_parameters()}
        optimizer.follow(trainer.optimizers)
        optimizer.add(parameters)
        if optimizer.without_optimizer:
            self._warn_once(
                "optimizer",
                f"{', '.join(optimizer.without_optimizer)} will not learn: {type(pl_module).__name__} has no "
                "optimizer; return one from configure_optimizers",
            )

    def _companion(self, trainer: Trainer, pl_module: LightningModule) -> CompanionOptimizer:
        def student() -> Iterable[nn.Parameter]:
            return () if self.teacher is None else find_network(pl_module, self.student).parameters()

        def schedulers() -> list[Any]:
            return [config.scheduler for config in trainer.lr_scheduler_configs]

        return CompanionOptimizer(
            pl_module, student, trainer.strategy, self.learning_rate, self.weight_decay, schedulers
        )

    def _release(self) -> None:
        for record in self._records.values():
            record.close()
        self._records = {}
        if self._optimizer is not None:
            self._optimizer.release()
        if self._attachment is not None:
            self._attachment.release()
        self._attachment = self._engine = self._detectors = None

    def _check_objectives(self, pl_module: LightningModule, found: Mapping[str, Temperature]) -> None:
        if isinstance(getattr(pl_module, "distillation", None), Distillation):  # gives them what they learn from
            return
        for name, temperature in found.items():
            if isinstance(temperature, LearnedTemperature) and temperature.objective == "held_out":
                raise UserError(
                    f"temperature {name!r} has objective='held_out', and {type(pl_module).__name__} has no engine that "
                    "gives it held-out samples: train with DistillationModule, or take another objective"
                )

    def _check_range(self, name: str, temperature: LearnedTemperature, mean: Tensor) -> None:
        low, high = temperature.bounds
        tau = float(mean)
        if temperature.at_end(tau):
            self._warn_once(
                f"{name}:range",
                f"temperature {name!r} sits at an end of its range: {tau:.2f} in [{low:g}, {high:g}], where it hardly "
                "learns; consider another tau_init or tau_range, a smaller λ, or no weight decay on it",
            )

    def _warn_once(self, key: str, message: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            rank_zero_warn(message)


_DEFAULTS = {
    "task": "multiclass",
    "scores": "logits",
    "ignore_index": -100,
    "accumulate_grad_batches": 1,
}


def _given(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are others than the defaults."""
    return {name: value for name, value in settings.items() if value is not None and value != _DEFAULTS.get(name)}


def _check_teacher_given(teacher: nn.Module | None, settings: Mapping[str, Any]) -> None:
    given = _given(settings)
    if teacher is None and given:
        raise UserError(f"{', '.join(given)} say how to distil a teacher: pass teacher= too")


def _weighted(method: Method | Mapping[str, Method] | None, kd_weight: float | None) -> Method | Mapping[str, Method]:
    if method is None:
        return KD() if kd_weight is None else KD(weight=kd_weight)
    if kd_weight is not None:
        name = type(method).__name__ if isinstance(method, Method) else "each of the methods"
        raise UserError(f"kd_weight is the default method's: give {name} its own, as in method={name}(weight=…)")
    return method


def _of_version_0_1(state: dict[str, Any]) -> dict[str, Any]:
    """The optimizers' states in a checkpoint of that version, which kept them by the optimizer's number."""
    kept = [part.get("state", {}) for part in state.get("optimizers", {}).values()]
    return {name: {"state": entry} for part in kept for name, entry in part.items()}


def _named(root: str, module: nn.Module) -> list[tuple[str, Temperature]]:
    """The temperatures in what the callback brings under a name: one, or one for each method."""
    parts = [(f"{root}.{n}" if n else root, part) for n, part in module.named_modules()]
    return [(name, part) for name, part in parts if isinstance(part, Temperature)]


def _find_temperatures(module: nn.Module) -> dict[str, Temperature]:
    found: dict[str, Temperature] = {}
    for name, part in module.named_modules():
        if isinstance(part, Temperature):
            _add_named(found, name.replace("_orig_mod.", ""), part)  # as in the network that was compiled
    return found


def _add_named(found: dict[str, Temperature], name: str, temperature: Temperature) -> None:
    if name in found:
        raise UserError(
            f"two learned temperatures are named {name!r}: rename the module's, or, if one is meant to serve both "
            f"losses, pass it as temperature=module.{name}"
        )
    found[name] = temperature
