"""The engine: from what both networks gave to the named losses of a step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ctkd_lightning._across_processes import processes, samples_of_all, shares, weighed
from ctkd_lightning._default_temperature import default_temperature
from ctkd_lightning._given import frozen, named_methods, named_temperatures, weight_of_task
from ctkd_lightning._held_out import HeldOutDirection, with_gradients
from ctkd_lightning._loss_record import LossRecord
from ctkd_lightning._masks import entries, masked
from ctkd_lightning._modes import evaluating
from ctkd_lightning._scores.batches import tensors_of
from ctkd_lightning._scores.checks import (
    NOT_FINITE,
    check_finite,
    check_kind,
    check_one_class,
    check_same_shapes,
    check_target_values,
    tell_worse_than_chance,
)
from ctkd_lightning._scores.ignored import IgnoredTargets, fit_mask
from ctkd_lightning._scores.scores import Kind, Scores, Task, same_places
from ctkd_lightning._scores.task_loss import task_loss as cross_entropy
from ctkd_lightning._term_inputs import TermInputs
from ctkd_lightning._trying import build_method, term_of, tried
from ctkd_lightning._vectors import (
    POOLED,
    check_keeps,
    check_vector_methods,
    check_vectors,
    vector_rows,
    vector_task_loss,
)
from ctkd_lightning.curriculum import Curriculum
from ctkd_lightning.errors import UserError
from ctkd_lightning.features._asking import AskTeacher, StudentCall, TeacherInput
from ctkd_lightning.features.frozen import check_complete
from ctkd_lightning.features.outputs import NetworkOutput, Pick, Step, at_least_float32, is_integer, pick_logits
from ctkd_lightning.features.tap import FeatureTap, select_layers
from ctkd_lightning.features.teachers import Teacher, named_teachers
from ctkd_lightning.fusion.fusion import TemperatureFusion
from ctkd_lightning.fusion.teachers import (
    FUSION,
    TeacherFusion,
    check_each,
    fuse,
    fusion_loss,
    fusion_of,
    learns,
    refuse_features,
)
from ctkd_lightning.methods import KD, Method, kd_loss
from ctkd_lightning.methods._chunked_kd import at_once
from ctkd_lightning.teacher_cache.cached import CachedTeacher, ViewedData, cache_for
from ctkd_lightning.temperature import LearnedTemperature, Temperature
from ctkd_lightning.temperature._base import learning
from ctkd_lightning.temperature._driving import drive, reads_target
from ctkd_lightning.temperature._softening import bounded_below
from ctkd_lightning.token_store._stored import StoredTokens
from ctkd_lightning.token_store.cached import CachedTexts
from ctkd_lightning.token_store.store import TokenStore
from ctkd_lightning.token_store.teacher import Key, StoredTeacher, check_logits_alone, stored_teacher


class Distillation(nn.Module):
    r"""Distil a frozen teacher into a student, in any training loop.

    .. math:: L = w_\mathrm{CE} \cdot L_\mathrm{task} + \sum_m w_m \cdot L_m(s, t, \tau)

    Of several teachers t is what they say together, fused with a temperature each (``teacher_fusion``). Learned ones
    have a loss of their own, which is added: the cross-entropy of the fused teachers with the target. No other loss
    reaches them, and it reaches nothing else, so that neither does the student pull its teachers nor they it.

    It knows nothing of Lightning: :class:`~ctkd_lightning.DistillationModule` and
    :class:`~ctkd_lightning.CurriculumTemperatureCallback` are thin around it. In a loop of one's own::

        distillation = Distillation(student, teacher, curriculum=CosineCurriculum(epochs=10))
        optimizer = torch.optim.SGD(distillation.parameters(), lr=0.05)   # student and temperature; not the teacher
        for epoch in range(epochs):
            distillation.progress(epoch, epoch / epochs)
            for x, y in loader:
                losses = distillation(x, target=y)
                losses["loss"].backward()
                ...
            print(distillation.collect())

    Where the student runs elsewhere, leave it out and pass what it gave to :meth:`losses`. Temperatures with
    ``objective="held_out"`` need it here, and before each step a batch that is not trained on: :meth:`hold_out`.

    Args:
        student: the network that is trained; ``None`` where it runs elsewhere.
        teacher: takes what the student takes, unless ``teacher_input`` or ``ask_teacher`` say otherwise. It is frozen,
            always in eval mode, and in no ``parameters()`` and no ``state_dict()``. Several by name, ``{"a": …, "b":
            …}``, are each asked the same, and must score the same classes; methods of logits alone can use them.
        method: a term of the loss, or several by name; ``KD()`` by default.
        temperature: one for all methods that soften logits, :class:`~ctkd_lightning.GlobalTemperature` by default, of
            a student that scores a vocabulary in a range of its own (``GlobalTemperature.for_tokens()``); or one for
            each of them, by the method's name.
        curriculum: λ(epoch) of the learned temperatures, set in :meth:`progress`; ``None`` where somebody else does.
        ce_weight: w_CE: by default the CTKD paper's γ, 0.1; 0, and nothing else, beside a method that brings the
            cross-entropy itself.
        task: what the scores say: one class out of several (``"multiclass"``), or whether something is there
            (``"binary"``, ``"multilabel"``); ``"vectors"``, where they are no scores but embeddings, or what is
            regressed: see :class:`~ctkd_lightning._scores.scores.Scores`.
        scores: ``"logits"`` or ``"probabilities"``, for both networks or by role: ``{"teacher": "probabilities"}``.
        class_dim: where the classes are; told from the target's shape by default.
        ignore_index: the target that leaves its position out of every term.
        student_logits: from the student's output to its scores, where that is neither a tensor nor has ``.logits``.
        teacher_logits: the same for the teacher.
        student_layers: from feature role to the dotted name of the student's layer, where the default does not serve.
        teacher_layers: the same for the teacher.
        teacher_input: from the batch, or from the batch and the student's call, to the teacher's arguments: see
            :class:`~ctkd_lightning.features._asking.TeacherInput`.
        ask_teacher: from the teacher and the student's call (``call.args``, ``call.kwargs``, ``call.output``) to the
            teacher's output, where that is not one forward pass.
        num_samples: size of the training set, for methods that keep a memory of it.
        shared: a module that may have frozen parts in common with the teacher, and may be completed until the first
            step; the student as it is by default.
        teacher_fusion: how several teachers are fused: ``"instance"``, the default, with a learned temperature for each
            teacher and sample, which turns a teacher down where it is wrong; ``"global"``, one for each teacher; both
            need targets, in every step. ``"fixed"``: their geometric mean. Or a
            :class:`~ctkd_lightning.TemperatureFusion` of these teachers. See
            :func:`~ctkd_lightning.fusion.teachers.fusion_of`.
        sum_labels: under ``multilabel``, whether the terms of logits are sums over the labels, the scores' last
            dimension, and means over what is left, as detectors' losses are: L times their means over all scores.
        roles_of_outputs: feature roles that the outputs of both networks bring themselves, as
            :class:`~ctkd_lightning.methods.NetworkOutput` has them, so that no layer is read.
        teacher_store: a :class:`~ctkd_lightning.token_store.TokenStore` or its folder, asked in the teacher's place:
            there is no teacher then. The student's token ids must be the store's text.
        key: from the batch to its documents in the store, one a row; or to a pair (documents, offsets) where the rows
            do not begin at position 0.

    Attributes:
        methods: the terms by name.
        record: of the losses since the last :meth:`collect`.
        cached_teacher: asked in the teacher's place, if it is set.
        teacher_fusion: of several teachers; ``None`` for one.

    Raises:
        UserError: no teacher, or one whose weights are not there; no method, or one of a name that the losses have;
            temperatures by name that are not those of the softening methods; a layer that is not there; other settings
            out of range; a temperature that learns from held-out samples without a student. In use: scores that cannot
            be what they were announced as, shapes that differ, a teacher whose logits are not finite.
    """

    def __init__(
        self,
        student: nn.Module | None = None,
        teacher: Teacher | None = None,
        method: Method | Mapping[str, Method] | nn.ModuleDict | None = None,
        temperature: Temperature | Mapping[str, Temperature] | nn.ModuleDict | None = None,
        *,
        curriculum: Curriculum | None = None,
        ce_weight: float | None = None,
        task: Task = "multiclass",
        scores: Kind | Mapping[str, Kind] = "logits",
        class_dim: int | None = None,
        ignore_index: int = -100,
        student_logits: Pick | None = None,
        teacher_logits: Pick | None = None,
        student_layers: Mapping[str, str] | None = None,
        teacher_layers: Mapping[str, str] | None = None,
        teacher_input: Callable[..., Any] | None = None,
        ask_teacher: AskTeacher | None = None,
        num_samples: int | None = None,
        shared: nn.Module | None = None,
        teacher_fusion: TeacherFusion | None = None,
        sum_labels: bool = False,
        roles_of_outputs: Iterable[str] = (),
        teacher_store: TokenStore | str | Path | None = None,
        key: Key | None = None,
    ) -> None:
        super().__init__()
        if teacher_store is not None or key is not None:
            asked_otherwise = {"teacher": teacher, "teacher_input": teacher_input, "ask_teacher": ask_teacher}
            teacher, teacher_input = stored_teacher(teacher_store, key, asked_otherwise, task)
            class_dim = -1 if class_dim is None else class_dim
        teacher = named_teachers(teacher)
        self.curriculum = curriculum
        self.scores = Scores(task, scores, class_dim)
        self.methods = nn.ModuleDict(named_methods(KD() if method is None else method))
        self.ce_weight = weight_of_task(self.terms.values(), ce_weight)
        temperature = default_temperature(student) if temperature is None else temperature
        self.temperature = named_temperatures(self.methods, temperature)
        self._still_without_use()
        self._check_task()
        check_complete(teacher)
        check_logits_alone(teacher, [name for name, method in self.terms.items() if method.needs_of_teacher()])
        self.teacher_fusion: TemperatureFusion | None = fusion_of(teacher, teacher_fusion, self.scores)
        if self.teacher_fusion is not None:
            refuse_features([n for n, method in self.terms.items() if method.needs_of_teacher()], teacher_layers)
            self.scores = self.scores.with_logits_of("teacher")
        brought = {*roles_of_outputs, *([POOLED] if self.scores.vectors else [])}
        self._sum_labels, self._roles_of_outputs = sum_labels, frozenset(brought)
        if sum_labels and task != "multilabel":
            raise UserError(f"sum_labels is for task='multilabel', found {task!r}: leave it out")
        self.teacher = frozen(teacher, ask_teacher, student if shared is None else shared, teacher_logits)
        if shared is None:
            self.teacher.freeze()
        self.student = student
        self._asks, self._teacher_input = ask_teacher is not None, TeacherInput(teacher_input)
        self.student_logits, self._student_layers = student_logits, student_layers
        layers = select_layers(
            self.teacher, self._of_layers(self.teacher_needs), teacher_layers, argument="teacher_layers"
        )
        pick = teacher_logits if self.teacher_fusion is None else None
        self.run_teacher = FeatureTap(self.teacher, layers, pick=pick, role="teacher")
        self.run_student: FeatureTap | None = None
        if student is not None:
            self.run_student = FeatureTap(student, self.layers_of(student), pick=student_logits, role="student")
        self.cached_teacher: CachedTeacher | CachedTexts | None = None
        self._held_out: HeldOutDirection | None = None
        if self.learns_from_held_out:
            self._held_out = HeldOutDirection(self._student_for_held_out())
        self._held_out_batch: tuple[StudentCall, Step] | None = None
        self._ends: tuple[Any, Any, Tensor] | None = None
        self.record = LossRecord()
        self._ignored = IgnoredTargets(ignore_index)
        self._looked = False
        if num_samples is not None:
            self.prepare(num_samples)

    def _still_without_use(self) -> None:
        """Turn the gradients of temperatures off that act on nothing: DDP would wait for them."""
        own = self.temperature
        used = (
            [own[name] for name, method in self.terms.items() if name in own and method.full_weight > 0]
            if isinstance(own, nn.ModuleDict)
            else [own] * self.uses_temperature
        )
        kept = {id(p) for temperature in used for p in temperature.parameters()}
        for parameter in own.parameters():
            parameter.requires_grad_(parameter.requires_grad and id(parameter) in kept)

    def _student_for_held_out(self) -> nn.Module:
        if self.student is None:
            raise UserError(
                "objective='held_out' runs the student on samples that it does not train on, and there is none here: "
                "pass student= to Distillation, or train with DistillationModule; the callback cannot"
            )
        for name in self._terms_from_held_out:
            if self.terms[name].needs:
                raise UserError(
                    f"objective='held_out' follows the student's logits, and method {name} softens and reads features "
                    "too: give it a temperature of its own with another objective"
                )
        return self.student

    def _check_task(self) -> None:
        if self.scores.vectors:
            check_vector_methods(self.terms)
        for temperature in self.temperature.modules():
            if self.scores.single and isinstance(temperature, Temperature) and temperature.needs_classes:
                raise UserError(
                    f"{type(temperature).__name__} compares the scores of classes of which one is true, found task="
                    f"{self.scores.task!r}, where each score stands for itself: take another temperature, such as "
                    "GlobalTemperature()"
                )

    @property
    def ignore_index(self) -> int:
        """The target that leaves its position out."""
        return self._ignored.index

    @property
    def terms(self) -> dict[str, Method]:
        """The methods by name."""
        return cast(dict[str, Method], dict(self.methods.items()))

    @property
    def needs(self) -> list[str]:
        """The student's feature roles that the methods read."""
        return [role for method in self.terms.values() for role in method.needs]

    @property
    def teacher_needs(self) -> list[str]:
        """Those that they read of the teacher."""
        return [role for method in self.terms.values() for role in method.needs_of_teacher()]

    @property
    def picks_teacher_input(self) -> bool:
        """Whether ``teacher_input`` says what the teacher is given."""
        return self._teacher_input.pick is not None

    @property
    def asks_otherwise(self) -> bool:
        """Whether the teacher is asked in another way than with the student's arguments."""
        return self._asks or self.picks_teacher_input

    @property
    def has_store(self) -> bool:
        """Whether a store of tokens is asked in the teacher's place."""
        return isinstance(self.cached_teacher, CachedTexts) or isinstance(self.teacher.network, StoredTeacher)

    @property
    def has_not_looked(self) -> bool:
        """Whether no batch has been checked yet."""
        return not self._looked

    @property
    def needs_target(self) -> bool:
        """Whether a method or its temperature reads the target, or the teachers' fusion learns from it."""
        if learns(self.teacher_fusion):
            return True
        temperature = self.temperature
        softened = temperature if isinstance(temperature, nn.ModuleDict) else dict.fromkeys(self.terms, temperature)
        return any(
            method.needs_target or (method.uses_temperature and reads_target(softened[name]))
            for name, method in self.terms.items()
            if method.full_weight > 0
        )

    @property
    def uses_temperature(self) -> bool:
        """Whether the temperature acts on any of the methods."""
        return any(method.uses_temperature and method.full_weight > 0 for method in self.terms.values())

    @property
    def no_effect(self) -> str:
        """What to say of a temperature that acts on no method."""
        names = "+".join(self.terms)
        return (
            f"the temperature has no effect: method {names} has no softened term; add one with a weight, such as KD "
            f"(on the command line method=[{names.replace('+', ',')},kd])"
        )

    @property
    def temperatures(self) -> list[Temperature]:
        """All of them, those within others and of the teachers' fusion too."""
        roots = [self.temperature] if self.teacher_fusion is None else [self.temperature, self.teacher_fusion]
        return [part for root in roots for part in root.modules() if isinstance(part, Temperature)]

    @property
    def _from_held_out(self) -> list[LearnedTemperature]:
        """Those that learn from held-out samples, and act on a term."""
        learned = [part for part in self.temperature.modules() if isinstance(part, LearnedTemperature)]
        return [t for t in learned if t.objective == "held_out" and any(p.requires_grad for p in t.parameters())]

    @property
    def _terms_from_held_out(self) -> dict[str, Method]:
        """The methods that these soften."""
        own, found = self.temperature, set(self._from_held_out)
        return {
            name: method
            for name, method in self.terms.items()
            if method.uses_temperature
            and method.full_weight > 0
            and not found.isdisjoint((own[name] if isinstance(own, nn.ModuleDict) else own).modules())
        }

    @property
    def learns_from_held_out(self) -> bool:
        """Whether a temperature learns from samples that the student does not train on: see :meth:`hold_out`."""
        return bool(self._from_held_out)

    def layers_of(self, student: nn.Module) -> dict[str, str]:
        """The student's layers that the methods read, by role.

        Raises:
            UserError: a role for which there is none.
        """
        return select_layers(student, self._of_layers(self.needs), self._student_layers, argument="student_layers")

    def _of_layers(self, roles: list[str]) -> list[str]:
        return [role for role in roles if role not in self._roles_of_outputs]

    def run(self, *args: Any, **kwargs: Any) -> NetworkOutput:
        """The student's output, with the features that the methods read.

        Raises:
            UserError: there is no student; in training, a temperature learns from held-out samples and there are none.
        """
        if self.run_student is None:
            raise UserError(
                "this Distillation has no student: pass student=, or what the student gave to losses(student, teacher)"
            )
        if self._held_out is not None and self._training:
            self._ends = self._held_out.ends(StudentCall(args, kwargs), *self._take_held_out())  # before θ and x change
        return self.run_student(*args, **kwargs)

    def hold_out(self, *args: Any, target: Tensor, mask: Tensor | None = None, **kwargs: Any) -> None:
        """Give the samples from which temperatures learn in the next step, which must not be in any training batch.

        For temperatures with ``objective="held_out"``. The step that follows costs a forward and a backward pass on
        these samples and two forward passes on its own more, all in float32; it trains the student as any other.

        Args:
            *args: what the student takes.
            target: as for :meth:`losses`.
            mask: likewise.
            **kwargs: what the student takes by name.

        Raises:
            UserError: no temperature learns from them.
        """
        if self._held_out is None:
            raise UserError(
                "hold_out() is for temperatures with objective='held_out', and no method is softened by one: leave it "
                "out, or set the objective"
            )
        self._held_out_batch = StudentCall(args, kwargs), Step(target, mask=mask)

    def compile_networks(self) -> None:
        """Run both networks through ``torch.compile`` from now on in :meth:`run` and :meth:`ask`."""
        self.run_teacher.compile()
        if self.run_student is not None:
            self.run_student.compile()

    def cache_teacher(self, data: ViewedData, folder: str | Path, *, example: Tensor, precision: str) -> CachedTeacher:
        """Ask the teacher only once for each view of each training sample, and keep what it gives in a file.

        Args:
            data: what the student trains on; its loaders ask the cache from now on.
            folder: of the file.
            example: images as they will come.
            precision: that of the training, which decides the teacher's values.

        Raises:
            UserError: a method reads feature maps; the teacher is not asked for the images themselves; the folder
                cannot be written, or the disk cannot hold the file.
        """
        if self.asks_otherwise:
            raise UserError(
                "the teacher cache keeps what the teacher gives for the student's images, and teacher_input= or "
                "ask_teacher= gives it something else: leave those or the cache out"
            )
        cached = cache_for(self.run_teacher, self.run_teacher(example), data, folder, precision=precision)
        self.cached_teacher, data.teacher_cache = cached, cached.store
        return cached

    def prepare(self, num_samples: int) -> None:
        """Create the memories that hold an entry for each sample of the training set."""
        for method in self.terms.values():
            method.prepare(num_samples)

    @torch.no_grad()
    def build(self, *args: Any, batch: Any = None, **kwargs: Any) -> None:
        """Run both networks on an example and make the methods' own parts: before the optimizer is made.

        Args:
            *args: what the student takes.
            batch: what ``teacher_input`` reads.
            **kwargs: what the student takes by name.

        Raises:
            UserError: a network that cannot take the example, or a method that does not fit their outputs.
        """
        with evaluating(self):
            student = tried("student", self.run, *args, **kwargs)
            teacher = tried("teacher", lambda *a, **k: self.ask(StudentCall(a, k), batch), *args, **kwargs)
            self.build_methods(student, teacher)

    @torch.no_grad()
    def build_methods(
        self, student: NetworkOutput, teacher: NetworkOutput, step: Step | None = None, batch: Any = None
    ) -> None:
        """Make the methods' own parts for such outputs and try each method once: misfits show before the training.

        Args:
            student: what the student gave for an example, or for the first batch.
            teacher: what the teacher gave.
            step: of the first batch; any for an example.
            batch: as for :meth:`losses`.
        """
        if step is None:
            self._looked = True  # at real batches alone: what networks make of an example says nothing
        example = self._example_step(student.logits) if step is None else step
        with evaluating(*self.temperatures):  # what listens to them hears steps alone
            student, teacher, canonical = self._canonical(student, teacher, example, batch)
            inputs = self._inputs(student, teacher, canonical, example)
            for name, method in self.terms.items():
                build_method(name, method, inputs, student, teacher)
        self._looked = step is not None

    def progress(self, epoch: float, fraction: float | None = None) -> None:
        """Set λ, the methods' warm-ups and phases and what else follows the training.

        Args:
            epoch: epochs that have passed, from 0; with the fraction of the current one where it is called by steps.
            fraction: share of the whole training that has passed, where its length is known.
        """
        drive(self.temperatures, self.curriculum, epoch, fraction)
        for method in self.terms.values():
            method.set_progress(epoch, fraction)

    def forward(
        self,
        *args: Any,
        target: Tensor | None = None,
        index: Tensor | None = None,
        mask: Tensor | None = None,
        batch: Any = None,
        task_loss: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Tensor]:
        """Run both networks and give the step's losses.

        Args:
            *args: what the student takes.
            target: as for :meth:`losses`.
            index: (B,) the samples' positions in the training set, for methods with a memory.
            mask: as for :meth:`losses`.
            batch: what ``teacher_input`` reads.
            task_loss: as for :meth:`losses`.
            **kwargs: what the student takes by name.

        Returns:
            As :meth:`losses`.
        """
        # before the student, which may write into its input
        teacher = self.ask(StudentCall(args, kwargs, None), batch) if not self._asks else None
        student = self.run(*args, **kwargs)
        if teacher is None:
            teacher = self.ask(StudentCall(args, kwargs, student), batch)
        losses = self.losses(student, teacher, Step(target, index, mask), task_loss)
        self.record.add(losses, self.samples(student))
        return losses

    def ask(self, call: StudentCall, batch: Any = None) -> NetworkOutput:
        """The teacher's output for a call of the student, without gradients; of M teachers their scores (B, M, …).

        Args:
            call: the student's arguments (and its output, for ``ask_teacher``).
            batch: what ``teacher_input`` and the cached teacher read.
        """
        if self.cached_teacher is not None:
            return self.cached_teacher(call.args[0], batch)
        if self._asks:
            return self.run_teacher(call)
        args, kwargs = self._teacher_input.arguments(batch, call)
        return self.run_teacher(*args, **kwargs)

    def stored(self, call: StudentCall, batch: Any = None) -> StoredTokens | None:
        """What a store has of a batch, whose logits need not exist; ``None`` where no store is asked."""
        if isinstance(self.cached_teacher, CachedTexts):
            return self.cached_teacher.stored(call.args[0], batch)
        if isinstance(self.teacher.network, StoredTeacher):
            args, kwargs = self._teacher_input.arguments(batch, call)
            return self.teacher.network.stored(*args, **kwargs)
        return None

    def losses(
        self, student: Any, teacher: Any, step: Step | None = None, task_loss: Tensor | None = None, batch: Any = None
    ) -> dict[str, Tensor]:
        """The losses of a step, by name.

        Args:
            student: what the student gave: a :class:`~ctkd_lightning.methods.NetworkOutput`, or its output itself.
            teacher: what the teacher gave, as :meth:`ask` does.
            step: target, index and mask. The target has a class index for each position (under ``binary`` and
                ``multilabel`` 1 or 0), or probabilities in the scores' shape; the mask an entry for each position, or
                for each sample.
            task_loss: the task's own loss; by default cross-entropy, under ``binary`` and ``multilabel`` binary
                cross-entropy, of the target if there is one.
            batch: where else a multi-hot target may be, to see in the first step whether the task is the right one.

        In training, ``"loss"`` has a term of the value 0 for temperatures that learn from held-out samples.

        With several processes, in training, the mean of each loss over them is that of all their samples together: a
        process's mean counts as often as it has samples, and ``task_loss`` as it is given.

        Returns:
            ``"loss"``, the weighted sum to minimise; ``"ce"``, the task's loss; each method's unweighted term; and with
            several teachers whose fusion learns ``"teacher_fusion"``, its loss.
        """
        given = Step() if step is None else step
        student, teacher, canonical = self._canonical(self._output(student), self._output(teacher), given, batch)
        terms, share = self._terms(student, teacher, canonical, given)
        loss = self.weigh(terms)
        if task_loss is None and given.target is not None:
            own = self._task_loss(student, given.target, canonical)
            task_loss = own if share is None else weighed(own, share)
        if self._held_out is not None and self._training:
            loss = loss + self._held_out_term(student, teacher, canonical, given)
        if task_loss is None:
            return {"loss": loss, **terms}
        return {"loss": self.ce_weight * task_loss + loss, "ce": task_loss, **terms}

    def look(self, student: NetworkOutput, teacher: NetworkOutput, step: Step) -> None:
        """Check scores and targets, as :meth:`losses` does with the first batch."""
        self._looked = False
        self._canonical(student, teacher, step)

    def _task_loss(self, student: NetworkOutput, target: Tensor, canonical: Step) -> Tensor:
        if self.scores.vectors:
            return vector_task_loss(student, canonical.target, target)
        return cross_entropy(self.scores, student.logits, target, canonical.target, canonical.mask)

    def terms_of(
        self, student: NetworkOutput, teacher: NetworkOutput, step: Step, batch: Any = None
    ) -> dict[str, Tensor]:
        """Each method's unweighted term, and the loss of the teachers' fusion, as in :meth:`losses`."""
        return self._terms(*self._canonical(student, teacher, step, batch), step)[0]

    @torch.no_grad()
    def kd_at(self, tau: float, student: NetworkOutput, teacher: NetworkOutput, step: Step) -> Tensor:
        """KD at a constant temperature, to compare trainings at different ones: it is no part of any loss.

        Args:
            tau: the temperature.
            student: what it gave.
            teacher: likewise.
            step: as for :meth:`losses`.
        """
        if self.scores.vectors:
            raise UserError("kd_at() compares scores of classes, and with task='vectors' there are none: leave it out")
        own, guide, canonical = self._canonical(student, teacher, step)
        loss = kd_loss(own.logits, guide.logits, tau, mask=canonical.mask)
        if not self._together:
            return loss
        return weighed(loss, *shares(entries(canonical.mask, own.logits.shape[:-1], loss.device)))

    def samples(self, student: NetworkOutput) -> int | Tensor:
        """The number of samples that the student was given, on all processes together."""
        count = len(student.logits)
        return samples_of_all(count, student.logits.device) if self.methods.training else count

    def weigh(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of the terms; the loss of the teachers' fusion counts as it is."""
        total: Tensor | None = None
        for name, term in terms.items():
            weighted = cast(Method, self.methods[name]).weight * term if name in self.methods else term
            total = weighted if total is None else total + weighted
        return torch.zeros(()) if total is None else total

    def collect(self) -> dict[str, Tensor]:
        """The means of the losses since the last call, by name; waits for the device.

        Raises:
            UserError: a term is not finite.
        """
        means = self.record.means()
        self.record.reset()
        self._ignored.look()
        broken = [name for name in self.terms if name in means and not means[name].isfinite()]
        if broken:
            parameters = self.teacher.network.parameters()
            if not all(p.isfinite().all() for p in parameters if p.is_floating_point()):
                raise UserError(NOT_FINITE)
            raise UserError(
                f"the distillation loss {broken[0]} is {float(means[broken[0]])}: logits of the student or the teacher "
                "were NaN or infinite; lower the learning rate or the term's weight, or look for broken inputs and, "
                "under float16, for the range of the logits (precision='bf16-mixed' has that of float32)"
            )
        return means

    def _output(self, output: Any) -> NetworkOutput:
        if isinstance(output, NetworkOutput):
            return output
        return NetworkOutput(pick_logits(output, self.student_logits, "student"))

    @property
    def _together(self) -> bool:
        return self.methods.training and processes() > 1  # in evaluations they may have other numbers of batches

    def _terms(
        self, student: NetworkOutput, teacher: NetworkOutput, step: Step, given: Step
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """The terms, and the share of a mean over the positions if there are several processes."""
        of_fusion = {}
        if learns(self.teacher_fusion):
            of_fusion[FUSION] = fusion_loss(self.scores, teacher.logits, given, step)
            teacher = NetworkOutput(teacher.logits.detach())
        methods = {name: method for name, method in self.terms.items() if method.full_weight > 0}
        found, share = self._terms_of_methods(methods, student, teacher, step, given)
        return found | {n: loss if share is None else weighed(loss, share) for n, loss in of_fusion.items()}, share

    def _terms_of_methods(
        self, methods: Mapping[str, Method], student: NetworkOutput, teacher: NetworkOutput, step: Step, given: Step
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        inputs = self._inputs(student, teacher, step, given)
        found = {name: term_of(method, inputs.for_method(name, method)) for name, method in methods.items()}
        if self._sum_labels:
            labels = student.logits.shape[-2]
            found = {name: loss if methods[name].needs else labels * loss for name, loss in found.items()}
        if not self._together:
            return found, None
        positions = entries(step.mask, student.logits.shape[:-1], student.logits.device)
        of_positions, *of_terms = shares(positions, *(inputs.entries(method) for method in methods.values()))
        own = dict(zip(methods, of_terms, strict=True))
        return {name: weighed(loss, own[name]) for name, loss in found.items()}, of_positions

    @property
    def _training(self) -> bool:
        return self.methods.training and torch.is_grad_enabled()

    def _take_held_out(self) -> tuple[StudentCall, Callable[[Any], Tensor]]:
        """The held-out samples of this step, and what makes the task's loss of the student's output for them."""
        given, self._held_out_batch = self._held_out_batch, None
        if given is None:
            raise UserError(
                "objective='held_out' learns from samples that the student does not train on: call hold_out(x, "
                "target=y) before each training step"
            )
        call, step = given

        def loss(output: Any) -> Tensor:
            logits = self._student_logits(output, step)
            mask = self.mask_of(step, logits.shape[:-1])
            classes = self.scores.classes(step.target, logits.shape[:-1])
            return cross_entropy(self.scores, masked(logits, mask), cast(Tensor, step.target), classes, mask)

        return call, loss

    def _student_logits(self, output: Any, step: Step) -> Tensor:
        raw = pick_logits(output, self.student_logits, "student")
        return self.scores.logits(raw, "student", self.scores.find_class_dim(raw, step.target))

    def _held_out_term(self, student: NetworkOutput, teacher: NetworkOutput, step: Step, given: Step) -> Tensor:
        """0, with the gradient of the temperatures that learn from held-out samples: see LearnedTemperature."""
        ends, self._ends = self._ends, None
        if ends is None:
            raise UserError(
                "objective='held_out' must see the student's run: pass losses() what run() of the same engine gave, "
                "once for each run"
            )
        methods = self._terms_from_held_out
        for name, method in methods.items() if self._together else ():
            if method.of_all_processes:  # whose gradients between the processes have no second derivative
                raise UserError(
                    f"objective='held_out' does not go with method {name}, which relates the samples of all processes: "
                    "give the method gather=False, or train in one process"
                )
        above, below = (bounded_below(masked(self._student_logits(x, given), step.mask)) for x in ends[:2])
        logits = at_least_float32(student.logits.detach()).requires_grad_()
        own, guide = NetworkOutput(logits), NetworkOutput(teacher.logits.detach())
        temperatures = self._from_held_out
        with learning(temperatures), at_once(), evaluating(*temperatures):  # what listens to them hears a step once
            terms, _ = self._terms_of_methods(methods, own, guide, step, given)
            (pull,) = torch.autograd.grad(self.weigh(terms), logits, create_graph=True)
        aligned = (pull * (above - below) / ends[2]).sum()
        parameters = [p for temperature in temperatures for p in temperature.parameters() if p.requires_grad]
        parameters = list(dict.fromkeys(parameters))
        return with_gradients(
            parameters, torch.autograd.grad(aligned, parameters, allow_unused=True, materialize_grads=True)
        )

    def _inputs(self, student: NetworkOutput, teacher: NetworkOutput, step: Step, given: Step) -> TermInputs:
        leaves_out = given.mask is not None or self._ignored.seen
        return TermInputs(self.temperature, student, teacher, step, leaves_out=leaves_out)

    def _canonical(
        self, student: NetworkOutput, teacher: NetworkOutput, step: Step, batch: Any = None
    ) -> tuple[NetworkOutput, NetworkOutput, Step]:
        """Scores as logits with the classes last, the target as class indices, the mask as one entry a position."""
        if self.scores.vectors:
            return self._canonical_vectors(student, teacher, step)
        raw, teacher = teacher.logits, self._fused(teacher)
        own, guide = student.logits, teacher.logits
        if self._looked and self.scores.as_they_are(own, guide, step) and self.mask_of(step, own.shape[:1]) is None:
            return student, teacher, step  # the usual case, made cheap
        if self.scores.single and same_places(guide.shape, own.shape):
            guide = guide.reshape(own.shape)  # (B,) and (B, 1)
        class_dim = self.scores.find_class_dim(own, step.target)
        check_same_shapes(own, guide, class_dim)
        s, t = (self.scores.logits(x, role, class_dim) for x, role in ((own, "student"), (guide, "teacher")))
        positions = s.shape[:-1]
        mask = self.mask_of(step, positions)
        if not self._looked:
            self._looked = True
            check_finite(s.detach(), t, mask)
            check_kind(self.scores, "student", own, mask, class_dim)
            if self.teacher_fusion is None:
                check_kind(self.scores, "teacher", guide, mask, class_dim)
            else:
                check_each(self.teacher_fusion, raw, mask, class_dim)
            entries = tensors_of(batch) if step.target is None else [step.target]
            check_one_class(self.scores, own.shape, class_dim, entries)
            check_target_values(self.scores, step.target, s.shape, mask)
            tell_worse_than_chance(t, self.scores.classes(step.target, positions), mask)
        target = self.scores.classes(step.target, positions)
        s, t = masked(s, mask), masked(t, mask)
        return (
            NetworkOutput(s, student.features, student.classifier),
            NetworkOutput(t, teacher.features, teacher.classifier),
            Step(target, step.index, mask),
        )

    def _canonical_vectors(
        self, student: NetworkOutput, teacher: NetworkOutput, step: Step
    ) -> tuple[NetworkOutput, NetworkOutput, Step]:
        positions = student.logits.shape[:-1]
        check_vectors(student.logits, teacher.logits)
        check_keeps(step.mask)
        labels = step.target is not None and is_integer(step.target)  # what is regressed may be any number
        mask = self.mask_of(step if labels else Step(mask=step.mask), positions)
        if not self._looked:
            self._looked = True
            if not (teacher.logits if mask is None else teacher.logits[mask != 0]).isfinite().all():
                raise UserError(NOT_FINITE)
        return vector_rows(student, teacher, step, mask)

    def _fused(self, teacher: NetworkOutput) -> NetworkOutput:
        """The teacher's output; of several teachers what they say together."""
        return teacher if self.teacher_fusion is None else NetworkOutput(fuse(self.teacher_fusion, teacher.logits))

    def mask_of(self, step: Step, positions: torch.Size) -> Tensor | None:
        """The positions that count, by the step's mask and by ignored targets; ``None`` for all."""
        masks = []
        if step.mask is not None:
            masks.append(fit_mask(step.mask, positions))
        if step.target is not None and same_places(step.target.shape, positions):
            kept = self._ignored.mask(step.target)
            if kept is not None:
                masks.append(kept.reshape(positions))
        return masks[0] if len(masks) == 1 else masks[0] * masks[1] if masks else None

    def _example_step(self, scores: Tensor) -> Step:
        """Any target and index that fit, to try the methods with."""
        target = torch.zeros_like(scores, dtype=torch.int64)
        if not self.scores.single and scores.ndim > 1:
            dim = 1 if self.scores.class_dim is None else self.scores.class_dim
            target = target.select(dim % scores.ndim, 0)
        return Step(target, torch.zeros(len(scores), dtype=torch.int64, device=scores.device))
