"""The LightningModule that distils a teacher into a student."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from ctkd_lightning.cached_teacher import CachedTeacher, cache_key
from ctkd_lightning.data.base import ImageDataModule
from ctkd_lightning.errors import UserError, check_number
from ctkd_lightning.features import FeatureTap, select_layers
from ctkd_lightning.frozen import FrozenNetwork
from ctkd_lightning.methods import KD, Method
from ctkd_lightning.methods.base import NetworkOutput
from ctkd_lightning.methods.check import check_logits
from ctkd_lightning.supervised import SupervisedModule
from ctkd_lightning.temperature import GlobalTemperature, Temperature


class DistillationModule(SupervisedModule):
    r"""Train a student with a frozen teacher at a temperature that may be learned.

    .. math:: L = w_\mathrm{CE} \cdot \mathrm{CE}(s, y) + \sum_m w_m \cdot L_m(s, t, \tau)

    The teacher is always in eval mode, without gradients, in no optimizer and in no checkpoint. The temperature and
    the methods' own parameters share the student's optimizer, as in the CTKD paper (Li et al., AAAI 2023,
    https://arxiv.org/abs/2211.16231). A learned temperature stands still until λ rises: add
    :class:`~ctkd_lightning.CurriculumTemperatureCallback` to the Trainer.

    Logs ``train/loss``, ``train/ce`` and ``train/<method>`` once an epoch, and loss and accuracy of the student on
    validation and test data.

    Args:
        teacher: images to logits (B, C).
        student: images to logits (B, C).
        method: a term of the loss, or several by name; ``KD()`` by default.
        temperature: one for all methods that soften logits, :class:`~ctkd_lightning.GlobalTemperature` by default; or
            one for each of them, by the method's name.
        ce_weight: w_CE, the paper's γ.
        example_image: (B, 3, H, W), one or more images as they will come; needed by methods that read features. Both
            networks and each method see them once, so that misfits show before the training.
        num_samples: size of the training set, for methods that keep a memory of it.
        student_layers: from feature role to the dotted name of the student's layer, where the default does not serve.
        teacher_layers: the same for the teacher.
        **settings: as in :class:`~ctkd_lightning.supervised.SupervisedModule`: ``optimizer``, ``scheduler``,
            ``channels_last``.

    Raises:
        UserError: no method, or one of a name that the losses have; temperatures by name that are not those of the
            softening methods; a method that reads features, without ``example_image``, of layers that are not there or
            whose shapes do not fit; with ``example_image``, networks that score different classes.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        method: Method | Mapping[str, Method] | None = None,
        temperature: Temperature | Mapping[str, Temperature] | None = None,
        *,
        ce_weight: float = 0.1,
        example_image: Tensor | None = None,
        num_samples: int | None = None,
        student_layers: Mapping[str, str] | None = None,
        teacher_layers: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.teacher = FrozenNetwork(self.network_in_layout(teacher), shared=student)
        self.teacher.freeze()
        self.student = self.network_in_layout(student)
        self.methods = nn.ModuleDict(_by_name(KD() if method is None else method))
        self.temperature = self._check_temperature(GlobalTemperature() if temperature is None else temperature)
        check_number("ce_weight", ce_weight, least=0)
        self.ce_weight = ce_weight
        if not self.uses_temperature:
            self.temperature.requires_grad_(False)  # DDP would wait for gradients that never come
            if temperature is not None:
                rank_zero_warn(
                    f"the temperature has no effect: method {'+'.join(self._methods)} has no softened term; add one "
                    f"with a weight, such as KD (on the command line method=[{','.join(self._methods)},kd])"
                )

        needs = [role for method in self._methods.values() for role in method.needs]
        self.run_teacher = FeatureTap(
            self.teacher, select_layers(teacher, needs, teacher_layers, argument="teacher_layers")
        )
        self.run_student = FeatureTap(
            self.student, select_layers(student, needs, student_layers, argument="student_layers")
        )
        self.cached_teacher: CachedTeacher | None = None
        if num_samples is not None:
            for method in self._methods.values():
                method.prepare(num_samples)
        if example_image is not None:
            self._build_methods(self.images_in_layout(example_image))
        elif needs:
            raise UserError(
                f"method {'+'.join(self._methods)} reads features and must know their shapes: pass example_image, "
                "for example torch.zeros(2, 3, 32, 32)"
            )
        # Each process computes the same memories, statistics and weights: DDP need not send them around in each step.
        self._ddp_params_and_buffers_to_ignore = [f"methods.{name}" for name, _ in self.methods.named_buffers()]

    @property
    def network(self) -> nn.Module:
        """The student."""
        return self.student

    @property
    def uses_temperature(self) -> bool:
        """Whether the temperature acts on any of the methods."""
        return any(method.uses_temperature and method.full_weight > 0 for method in self._methods.values())

    @property
    def _methods(self) -> dict[str, Method]:
        return cast(dict[str, Method], dict(self.methods.items()))

    def _check_temperature(self, temperature: Temperature | Mapping[str, Temperature]) -> nn.Module:
        if isinstance(temperature, Temperature):
            return temperature
        if not isinstance(temperature, Mapping):
            raise UserError(f"temperature must be a Temperature such as FixedTemperature(4.0), found {temperature!r}")
        softened = sorted(name for name, method in self._methods.items() if method.uses_temperature)
        if sorted(temperature) != softened:
            raise UserError(
                f"temperatures are given for {', '.join(sorted(temperature)) or 'no method'}, and the methods that "
                f"soften logits are {', '.join(softened) or 'none'}: give one for each, or one for all"
            )
        return nn.ModuleDict(temperature)

    def _taus(self, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        """τ for each method; those that soften nothing ignore theirs."""
        if not isinstance(self.temperature, nn.ModuleDict):
            return dict.fromkeys(self.methods, self.temperature(student, teacher))
        own = {name: temperature(student, teacher) for name, temperature in self.temperature.items()}
        return dict.fromkeys(self.methods, student.new_ones(())) | own

    @torch.no_grad()
    def _build_methods(self, images: Tensor) -> None:
        """Make the methods' own parts and try each method once: misfits show before the training."""
        modes = {module: module.training for module in self.modules()}
        self.eval()
        student, teacher = self.run_student(images), self.run_teacher(images)
        check_logits(student.logits, teacher.logits)
        first = images.new_zeros(len(images), dtype=torch.int64)
        taus = self._taus(student.logits, teacher.logits)
        for name, method in self._methods.items():
            try:
                method.build(student, teacher)
                method.eval()(student, teacher, first, taus[name], first)
            except UserError:
                raise
            except (RuntimeError, IndexError, ValueError) as error:
                roles = [role for role in student.features if role in teacher.features]
                found = "; ".join(
                    f"{role} {tuple(student.features[role].shape)} and {tuple(teacher.features[role].shape)}"
                    for role in roles
                )
                raise UserError(
                    f"method {name} does not fit the features of student and teacher ({found}): {error}; name other "
                    "layers in student_layers and teacher_layers, or take another method"
                ) from error
            method.train().requires_grad_(method.full_weight > 0)
        for module, training in modes.items():
            module.training = training

    def compile_networks(self) -> None:
        """Train through ``torch.compile`` from now on; validation and test stay as they are."""
        self.run_teacher.compile()
        self.run_student.compile()

    def cache_teacher(self, data: ImageDataModule, folder: str | Path, *, precision: str) -> CachedTeacher:
        """Ask the teacher only once for each view of each training sample, and keep what it gives in a file.

        For data of another kind, whose batches say which samples and views they hold, set ``cached_teacher`` to a
        :class:`~ctkd_lightning.cached_teacher.CachedTeacher` of its own.

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
        example = self.run_teacher(self.images_in_layout(data.example_image))
        images, samples, views = data.view_fingerprint(), len(data.train_targets), data.num_views
        key = cache_key(self.teacher.network, images, precision, views, self.run_teacher.layers)
        cached = CachedTeacher(self.run_teacher, example, folder, key=key, samples=samples, views=views, data=images)
        self.cached_teacher, data.teacher_cache = cached, cached.store
        return cached

    def on_fit_start(self) -> None:
        """Say so where a method's warm-up is longer than the training."""
        for method in self._methods.values():
            if message := method.unfinished_warmup(self.trainer.max_epochs):
                rank_zero_warn(message)

    def on_train_start(self) -> None:
        """Set the methods' weights: a run resumed within an epoch has no epoch start."""
        self.on_train_epoch_start()

    def on_train_epoch_start(self) -> None:
        """Set the methods' weights of this epoch."""
        for method in self._methods.values():
            method.set_epoch(self.current_epoch)

    def losses(self, images: Tensor, batch: tuple[Any, ...]) -> Mapping[str, Tensor]:
        """The total loss, cross-entropy and each method's unweighted term."""
        target = batch[1]
        index = batch[2] if len(batch) > 2 else None
        teacher, student = self._teacher_outputs(images, batch), self.run_student(images)
        taus = self._taus(student.logits, teacher.logits)

        ce = F.cross_entropy(student.logits.float(), target)
        loss, terms = self.ce_weight * ce, {}
        for name, method in self._methods.items():
            if method.full_weight > 0:
                terms[name] = method(student, teacher, target, taus[name], index)
                loss = loss + method.weight * terms[name]
        return {"loss": loss, "ce": ce, **terms}

    def _teacher_outputs(self, images: Tensor, batch: tuple[Any, ...]) -> NetworkOutput:
        return self.run_teacher(images) if self.cached_teacher is None else self.cached_teacher(images, batch)


def _by_name(method: Method | Mapping[str, Method]) -> dict[str, Method]:
    methods = {type(method).__name__.lower(): method} if isinstance(method, Method) else method
    if not isinstance(methods, Mapping):
        raise UserError(f"method must be a Method such as KD(), or several by name, found {methods!r}")
    if not methods:
        raise UserError("method has no terms: pass at least one, for example method=KD()")
    for name, term in methods.items():
        if not isinstance(term, Method):
            raise UserError(f"method {name!r} must be a Method such as KD(), found {term!r}")
        if name in ("loss", "ce") or not str(name).isidentifier():
            raise UserError(
                f"a method is named {name!r}: its loss is logged as train/NAME, so take a word other than loss and ce"
            )
    return dict(methods)
