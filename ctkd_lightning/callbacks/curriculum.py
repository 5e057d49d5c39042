"""The callback that drives learned temperatures, and distils any training."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor, nn

from ctkd_lightning.callbacks.attach import Attachment, find_network
from ctkd_lightning.callbacks.distiller import Distiller, Pickers
from ctkd_lightning.callbacks.distributions import Callback
from ctkd_lightning.callbacks.plugin.optimizer import CompanionOptimizer
from ctkd_lightning.callbacks.plugin.shared_values import SharedValues
from ctkd_lightning.callbacks.teacher import check_same_everywhere, check_separate, check_strategy, load_teacher
from ctkd_lightning.callbacks.temperature_record import TemperatureRecord
from ctkd_lightning.curriculum import CosineCurriculum, Curriculum
from ctkd_lightning.errors import UserError, check_number
from ctkd_lightning.frozen import FrozenNetwork
from ctkd_lightning.methods import KD, Method
from ctkd_lightning.temperature import GlobalTemperature, LearnedTemperature, Temperature

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

_NEAR_END = 0.05  # of the range: where the sigmoid's slope has fallen to a fifth of its peak
_CE_WEIGHT = 0.1  # the CTKD paper's
_OWN = "temperature"  # the name of the temperature that the callback brings

_NOTHING_TO_DO = """\
{module} holds no temperature, and the callback has no teacher. Either its loss uses a temperature, or the callback \
brings the loss:
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

    Where the step calls the student several times, KD is the mean over the calls that have gradients. Validation, test
    and prediction stay as they are. The teacher is in no optimizer and in no checkpoint, the temperature in the
    callback's part of the checkpoint: the module's part is that of the module alone, and loads with or without the
    callback. After fit, and after an exception, the module is as it was.

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
        teacher: takes what the student takes; a module, or the path of its weights with ``teacher_model``. It is
            frozen and put into eval mode.
        student: dotted name of the network whose call is distilled, such as ``"model"`` or ``"net.head"``; by default
            the module itself, be it called as ``self(x)`` or ``self.forward(x)``.
        interval: ``"epoch"``: λ is set at the start of each epoch, as in the CTKD paper; ``"step"``: at each step, of
            the epoch's fraction that has passed.
        temperature: of the distillation with a teacher; :class:`~ctkd_lightning.GlobalTemperature` by default.
        method: a term that reads logits alone, with its weight; ``KD()`` by default.
        ce_weight: w_CE, factor of the step's own loss, the paper's γ.
        kd_weight: w_KD, factor of the default method, the paper's α: 0.9.
        learning_rate: of the temperatures, in the place of the rate that the optimizer was made with: a schedule moves
            both alike. By default they share the student's settings.
        weight_decay: of the temperatures. With one of the two given, temperatures in the module's optimizers are
            taken over too.
        class_dim: where the logits have their classes: 1 for maps (B, C, H, W).
        student_logits: from the student's output to its logits, where that is neither a tensor nor has ``.logits``.
        teacher_logits: the same for the teacher.
        target: from the batch to the class indices, for methods that need them and batches that have them elsewhere
            than in their second entry or under ``labels``, ``label``, ``targets``, ``target`` or ``y``.
        mask: from the batch to the positions that count: the logits' shape without the classes, false or 0 for padding
            and ignored positions. With other methods than KD the kept rows are gathered, which waits for the device.
        teacher_model: the network for a teacher that is a path.

    Raises:
        UserError: settings that do not go together; at the start of fit, a module without any temperature and no
            teacher, a student that is not there, a teacher that shares trained parameters with the module or differs
            between processes, a strategy that shards parameters; in training, a student that is not called, outputs
            without logits, logits of different shapes, a teacher whose logits are not finite.
    """

    def __init__(
        self,
        curriculum: Curriculum | None = None,
        teacher: nn.Module | str | Path | None = None,
        student: str | None = None,
        *,
        interval: Literal["epoch", "step"] = "epoch",
        temperature: Temperature | None = None,
        method: Method | None = None,
        ce_weight: float = _CE_WEIGHT,
        kd_weight: float | None = None,
        learning_rate: float | None = None,
        weight_decay: float | None = None,
        class_dim: int = -1,
        student_logits: Callable[[Any], Tensor] | None = None,
        teacher_logits: Callable[[Any], Tensor] | None = None,
        target: Callable[[Any], Any] | None = None,
        mask: Callable[[Any], Any] | None = None,
        teacher_model: nn.Module | None = None,
    ) -> None:
        if interval not in ("epoch", "step"):
            raise UserError(f"the curriculum's interval is 'epoch' or 'step', found {interval!r}")
        check_number("ce_weight", ce_weight, least=0)
        self.curriculum = CosineCurriculum() if curriculum is None else curriculum
        self.interval = interval
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.teacher = load_teacher(teacher, teacher_model)
        self.student, self.ce_weight = student, ce_weight
        self.pickers = Pickers(student_logits, teacher_logits, target, mask, class_dim)
        about_teacher = (student, temperature, method, ce_weight, kd_weight, self.pickers)
        if self.teacher is None and about_teacher != (None, None, None, _CE_WEIGHT, None, Pickers()):
            raise UserError(
                "student, temperature, method, ce_weight, kd_weight, class_dim, target, mask and the logits' callables "
                "say how to distil a teacher: pass teacher= too"
            )
        self.method = _weighted(method, kd_weight)
        self.temperature = GlobalTemperature() if temperature is None else temperature
        self._records: dict[str, TemperatureRecord] = {}
        self._warned: set[str] = set()
        self._attachment: Attachment | None = None
        self._optimizer: CompanionOptimizer | None = None
        self._shared = SharedValues(self.temperature, self.method)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Attach the teacher, early enough that the strategy moves and synchronises the temperature."""
        if stage != "fit":
            return
        self._release()
        self._optimizer = self._companion(trainer, pl_module)
        check_strategy(trainer.strategy, _find_temperatures(pl_module).values(), None)
        if self.teacher is not None:
            check_separate(self.teacher, pl_module)
            check_strategy(trainer.strategy, (), self.temperature)
            if not self._shared.detach():
                self._warn_once("shared", "this machine shares no memory: the temperature stays in the child processes")
            distiller = Distiller(FrozenNetwork(self.teacher), self.temperature, self.method, self.pickers)
            self._attachment = Attachment(pl_module, distiller, self.student, self.ce_weight)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the temperatures, and have them optimised."""
        found = _find_temperatures(pl_module)
        if self.teacher is not None:
            find_network(pl_module, self.student)
            check_same_everywhere(self.teacher, trainer.strategy)
            if not any(module is self.temperature for module in found.values()):
                _add_named(found, _OWN, self.temperature)
        if not found:
            raise UserError(_NOTHING_TO_DO.format(module=type(pl_module).__name__))
        self._records = {name: TemperatureRecord(module) for name, module in found.items()}
        self._set_epoch(trainer.current_epoch)
        self._optimize(trainer, pl_module)
        if self._learned:
            self._check_curriculum(trainer)
        if self.teacher is not None and (message := self.method.unfinished_warmup(trainer.max_epochs)):
            self._warn_once("warm-up", message)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set λ: a run resumed within an epoch has no epoch start."""
        self._set_epoch(trainer.current_epoch)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set λ of this epoch."""
        self._set_epoch(trainer.current_epoch)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set λ of this step, if it moves by steps, and go with the optimizers that there are now."""
        if self._optimizer is not None:
            self._optimizer.follow(trainer.optimizers)
            if not pl_module.automatic_optimization:
                self._optimizer.forget_stale()
        if self.interval == "step":
            self._set_lambda(trainer.current_epoch + batch_idx / trainer.num_training_batches)

    def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Drop the temperatures' gradients with the student's."""
        if self._optimizer is not None:
            self._optimizer.zero_grad(optimizer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log λ, τ and the distillation loss of the epoch."""
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
        if self._attachment is not None:
            self._attachment.check_distilled()
            loss = self._attachment.distiller.collect()
            if loss is not None:
                pl_module.log(f"train/{type(self.method).__name__.lower()}", loss, sync_dist=True)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the module."""
        if self._attachment is not None:
            self._attachment.distiller.cpu()  # where Lightning leaves the module
            if trainer.is_global_zero:
                self._shared.write_back()
            self._shared.share()
        self._release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let go of the module: a crash skips teardown."""
        self._release()

    def __getstate__(self) -> dict[str, Any]:
        # The optimizer of a training that is over is still known, for a checkpoint saved then.
        return {**self.__dict__, "_records": {}, "_attachment": None, "_optimizer": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._shared.share()

    def state_dict(self) -> dict[str, Any]:
        """The temperature that the callback brought, and the optimizer's state; one in the module is the module's."""
        state: dict[str, Any] = {} if self._optimizer is None else {"optimizer": self._optimizer.state_dict()}
        if self.teacher is not None:
            state |= {"temperature": self.temperature.state_dict(), "method": self.method.state_dict()}
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the temperature.

        Raises:
            UserError: the checkpoint has one of another kind.
        """
        if self._optimizer is not None:
            self._optimizer.load_state_dict(state_dict.get("optimizer") or _of_version_0_1(state_dict))
        try:
            if self.teacher is not None and "temperature" in state_dict:
                self.temperature.load_state_dict(state_dict["temperature"])
                self.method.load_state_dict(state_dict["method"])
        except RuntimeError as error:
            found = ", ".join(state_dict["temperature"]) or "none"
            raise UserError(
                f"the checkpoint's temperature is another than this {type(self.temperature).__name__} (entries: "
                f"{found}): resume with the temperature and method of the first run"
            ) from error

    @property
    def _learned(self) -> dict[str, LearnedTemperature]:
        return {n: r.module for n, r in self._records.items() if isinstance(r.module, LearnedTemperature)}

    def _set_epoch(self, epoch: int) -> None:
        self._set_lambda(epoch)
        self.method.set_epoch(epoch)

    def _set_lambda(self, epoch: float) -> None:
        value = self.curriculum(epoch)
        for temperature in self._learned.values():
            temperature.lambda_.fill_(value)

    def _optimize(self, trainer: Trainer, pl_module: LightningModule) -> None:
        parameters = {f"{n}.{p}": value for n, t in self._learned.items() for p, value in t.named_parameters()}
        if self.teacher is not None:
            parameters |= {f"method.{name}": value for name, value in self.method.named_parameters()}
        optimizer = self._optimizer
        if optimizer is None:  # a hook called without setup
            return
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

        return CompanionOptimizer(pl_module, student, trainer.strategy, self.learning_rate, self.weight_decay)

    def _release(self) -> None:
        for record in self._records.values():
            record.close()
        self._records = {}
        if self._optimizer is not None:
            self._optimizer.release()
        if self._attachment is not None:
            self._attachment.release()
        self._attachment = None

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


def _weighted(method: Method | None, kd_weight: float | None) -> Method:
    if method is None:
        return KD() if kd_weight is None else KD(weight=kd_weight)
    name = type(method).__name__
    if kd_weight is not None:
        raise UserError(f"kd_weight is the default method's: give {name} its own, as in method={name}(weight=…)")
    if method.needs:
        raise UserError(
            f"{name} reads features ({', '.join(method.needs)}), and the callback sees logits alone: take KD or "
            "another method of logits, or train with DistillationModule"
        )
    return method


def _of_version_0_1(state: dict[str, Any]) -> dict[str, Any]:
    """The optimizers' states in a checkpoint of that version, which kept them by the optimizer's number."""
    kept = [part.get("state", {}) for part in state.get("optimizers", {}).values()]
    return {name: {"state": entry} for part in kept for name, entry in part.items()}


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
