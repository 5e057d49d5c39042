"""From a configuration to objects, one function a kind: what the commands use, for scripts too.

In a script::

    cfg = build.config("data=cifar100", "model=vgg13_to_vgg8", "teacher.checkpoint=vgg13.pth")
    data = build.data(cfg)
    teacher, student = build.networks(cfg, data)
    module = build.module(cfg, teacher, student, data)
    build.trainer(cfg).fit(module, datamodule=data)
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.callbacks import ProgressBar as AnyBar
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig
from rich.console import Console
from torch import nn

from ctkd_lightning.callbacks import CurriculumTemperatureCallback, EpochLines, FiniteSteps
from ctkd_lightning.data import (
    DetectionDataModule,
    ImageDataModule,
    MultimodalDataModule,
    SegmentationDataModule,
    TokenDataModule,
)
from ctkd_lightning.data._labelled import LabelledDataModule
from ctkd_lightning.detection.output import BOXES
from ctkd_lightning.errors import UserError, suggest
from ctkd_lightning.fusion import ModalityCorruption, TemperatureFusion
from ctkd_lightning.fusion.network import feature_widths
from ctkd_lightning.job.checkpoints import ConfinedPaths, RunCheckpoints, within_epochs
from ctkd_lightning.job.configuration import compose, plain, read_configuration, set_keys
from ctkd_lightning.job.hardware import accelerator_in_use, choose_channels_last, choose_precision
from ctkd_lightning.job.measures import TaskName
from ctkd_lightning.job.stopping import StopOnSigterm
from ctkd_lightning.methods import Method
from ctkd_lightning.models import create_detector, create_language_model, create_model, create_segmenter, load_weights
from ctkd_lightning.modules import (
    ClassifierModule,
    DetectionModule,
    DistillationModule,
    EncodersModule,
    FusionModule,
)
from ctkd_lightning.temperature import Temperature

_STAGES = ("fit", "test")

KD_AT = 4.0
"""A common constant temperature: trainings at others are compared by KD at this one, ``train/kd_at_4``."""


def config(*overrides: str, run: str | Path | None = None) -> DictConfig:
    """The configuration under overrides, as on the command line; or that of an earlier run.

    Args:
        *overrides: ``"data=cifar100"``, ``"seed=2"``.
        run: the folder of a run; overrides are then of single keys. A Trainer that is made from its configuration
            writes into that folder, unless ``run_dir`` is set to another.

    Raises:
        UserError: no run there, or a key that its configuration does not have.
    """
    if run is None:
        return compose(overrides)
    cfg = read_configuration(run)
    set_keys(cfg, overrides)
    return cfg


def accelerator(cfg: DictConfig) -> str:
    """``"cuda"``, ``"cpu"`` or another: what ``trainer.accelerator`` comes to on this machine."""
    return accelerator_in_use(cfg.trainer.accelerator)


def precision(cfg: DictConfig) -> str | int:
    """The training's precision: what ``auto`` comes to on this machine."""
    return choose_precision(cfg.trainer.precision, accelerator(cfg))


def channels_last(cfg: DictConfig) -> bool:
    """Whether images and networks are laid out channels-last: what ``auto`` comes to on this machine."""
    return choose_channels_last(cfg.channels_last, accelerator(cfg), precision(cfg))


TaskData = ImageDataModule | DetectionDataModule | SegmentationDataModule | TokenDataModule
"""What networks of any task are trained on."""


def task(cfg: DictConfig) -> TaskName:
    """What the networks do."""
    found: TaskName = (cfg.get("model") and cfg.model.get("task")) or "classification"
    return found


def task_data(cfg: DictConfig) -> TaskData:
    """The data of the task: :func:`data`, :func:`detection_data`, :func:`segmentation_data` or :func:`token_data`.

    Raises:
        UserError: data of another task.
    """
    if (kind := task(cfg)) == "classification":
        return data(cfg)
    if kind == "detection":
        return detection_data(cfg)
    return segmentation_data(cfg) if kind == "segmentation" else token_data(cfg)


def data_of_teacher(cfg: DictConfig, data: TaskData) -> TaskData:
    """What the teacher is trained on: the data, under the settings of ``teacher.data`` where there are some.

    Raises:
        UserError: settings that the data do not have, or that make other classes of them.
    """
    if not cfg.teacher.get("data"):
        return data
    own = plain(cfg.teacher.data)
    if unknown := sorted(own.keys() - cfg.data.keys()):
        raise UserError(f"teacher.data: {unknown[0]} is no setting of these data: {suggest(unknown[0], cfg.data)}")
    with_own: DictConfig = copy.deepcopy(cfg)
    with_own.data.update(own)
    made = task_data(with_own)
    if made.class_names != data.class_names or getattr(made, "length", None) != getattr(data, "length", None):
        raise UserError(
            f"teacher.data={own}: these data have other classes than the student's, or texts of another length: a "
            "teacher must score what its student does; take settings such as limit_train"
        )
    return made


def data(cfg: DictConfig, *, test_only: bool = False) -> ImageDataModule:
    """The images, downloaded and read: what is wrong with them shows here.

    Args:
        cfg: the configuration.
        test_only: leave the training images unread until they are asked for.

    Raises:
        UserError: data of several modalities.
    """
    made = unread_data(cfg)
    _read(made, ("test",) if test_only else _STAGES)
    return made


def unread_data(cfg: DictConfig) -> ImageDataModule:
    """The images, not read yet: their settings.

    Raises:
        UserError: as :func:`data`.
    """
    kind = get_class(cfg.data._target_)
    if issubclass(kind, TokenDataModule):
        raise UserError(
            "these data are texts, and the networks take images: take language models, such as "
            "model=language_small_to_tiny or experiment=tokens_stdlib"
        )
    if issubclass(kind, SegmentationDataModule):
        raise UserError(
            "these data have a class a pixel, and the networks are classifiers: take segmenters, such as "
            "model=segmenter_small_to_tiny or experiment=segmentation_digits"
        )
    if issubclass(kind, DetectionDataModule):
        raise UserError(
            "these data have boxes, and the networks are classifiers: take detectors, such as model=rcnn_small_to_tiny "
            "or experiment=detection_digits"
        )
    if "channels_last" not in cfg.data:
        raise UserError(
            "a distillation takes images, and these data have several modalities: fuse them, with experiment=fusion_"
            "digits, fusion_six_views or fusion_sensors, or with fusion=instance encoders=vector"
        )
    made: ImageDataModule = instantiate(cfg.data, channels_last=channels_last(cfg), _convert_="all")
    return made


def multimodal_data(cfg: DictConfig) -> MultimodalDataModule:
    """Data of several modalities, likewise.

    Raises:
        UserError: images.
    """
    made = instantiate(cfg.data, _convert_="all")
    if not isinstance(made, MultimodalDataModule):
        raise UserError(
            "a fusion takes data of several modalities, found images: take data=digit_views, six_views or watch_sensors"
        )
    _read(made, _STAGES)
    return made


def detection_data(cfg: DictConfig) -> DetectionDataModule:
    """Images with boxes, likewise.

    Raises:
        UserError: data without boxes.
    """
    take = "data=digit_scenes or data=coco data.root=DIR"
    made: DetectionDataModule = _data_of(cfg, DetectionDataModule, "a detector", lacking="no boxes", take=take)
    return made


def segmentation_data(cfg: DictConfig) -> SegmentationDataModule:
    """Images with a class a pixel, likewise.

    Raises:
        UserError: data without such classes.
    """
    lacking, take = "no class a pixel", "data=digit_masks"
    made: SegmentationDataModule = _data_of(cfg, SegmentationDataModule, "a segmenter", lacking=lacking, take=take)
    return made


def token_data(cfg: DictConfig) -> TokenDataModule:
    """Texts, likewise.

    Raises:
        UserError: data without texts.
    """
    lacking, take = "no texts", "data=stdlib_tokens"
    made: TokenDataModule = _data_of(cfg, TokenDataModule, "a language model", lacking=lacking, take=take)
    return made


def _data_of(cfg: DictConfig, kind: type, network: str, *, lacking: str, take: str) -> Any:
    """The data of a kind, read; of another one, say what the network lacks in them."""
    if not issubclass(get_class(cfg.data._target_), kind):
        raise UserError(
            f"{cfg.model.student.name} is {network}, and these data have {lacking}: take {take}, or another model"
        )
    made = instantiate(cfg.data, _convert_="all")
    _read(made, _STAGES)
    return made


def _read(data: TaskData | MultimodalDataModule, stages: Sequence[str]) -> None:
    data.prepare_data()
    for stage in stages:
        data.setup(stage)


def encoders(cfg: DictConfig, data: MultimodalDataModule) -> dict[str, nn.Module]:
    """An encoder for each modality, after the seed: equal configurations give equal networks."""
    seed_everything(cfg.seed, workers=True, verbose=False)
    return {
        name: instantiate(cfg.encoders, shape=shape, num_classes=data.num_classes, _convert_="all")
        for name, shape in data.modalities.items()
    }


def fusion(cfg: DictConfig, encoders: Mapping[str, nn.Module], data: MultimodalDataModule) -> TemperatureFusion:
    """The fusion of the encoders' scores; where it reads features, it takes their widths from an example."""
    node = cfg.fusion.network
    reads = node.joint or node.context
    widths = feature_widths(encoders, data.example) if reads else {}
    made: TemperatureFusion = instantiate(
        node,
        num_classes=data.num_classes,
        modalities=list(encoders),
        joint=widths if node.joint else None,
        context=widths if node.context else None,
        _convert_="all",
    )
    return made


def fusion_module(cfg: DictConfig, encoders: Mapping[str, nn.Module], fusion: TemperatureFusion) -> FusionModule:
    """The module that trains encoders and fusion, or the fusion alone."""
    return FusionModule(
        encoders,
        fusion,
        frozen=cfg.fusion.frozen,
        corruption=instantiate(cfg.fusion.corruption, _convert_="all"),
        expert_weight=cfg.fusion.expert_weight,
        **_optimization(cfg.optimizer),
    )


def encoders_module(cfg: DictConfig, encoders: Mapping[str, nn.Module]) -> EncodersModule:
    """The module that trains each encoder by itself."""
    return EncodersModule(encoders, **_optimization(cfg.fusion.encoder_training))


def student_alone(cfg: DictConfig, student: nn.Module) -> ClassifierModule | DetectionModule:
    """The module that trains a student on the labels alone; a detector also under :func:`detector_distillation`."""
    return _alone(cfg, student, cfg.optimizer)


def encoder_alone(cfg: DictConfig, encoder: nn.Module, modality: str) -> ClassifierModule:
    """The module that trains the encoder of one modality, whose name in the batches is given."""
    return ClassifierModule(encoder, student_input=itemgetter(modality), **_optimization(cfg.optimizer))


def methods_of_fusion(cfg: DictConfig) -> dict[str, Method]:
    """The terms of the loss, where a fused network is the teacher.

    Raises:
        UserError: a method that reads features, which the fused network has not.
    """
    terms = methods(cfg)
    for term, method in terms.items():
        if method.needs or method.needs_of_teacher():
            raise UserError(
                f"method {term} reads features of the teacher, and a fusion has those of several networks: take "
                "methods of logits, such as method=kd, dkd or dist"
            )
    return terms


def student_of_fusion(
    cfg: DictConfig, teacher: nn.Module, student: nn.Module, name: str, data: MultimodalDataModule
) -> DistillationModule:
    """The module that distils a fused network, which is given all modalities, into an encoder of one.

    Raises:
        UserError: a method that reads features, which the fused network has not.
    """
    terms = methods_of_fusion(cfg)
    made = DistillationModule(
        teacher,
        student,
        method=terms,
        temperature=temperature(cfg, terms, data.num_classes),
        ce_weight=cfg.method.ce_weight,
        student_input=itemgetter(name),
        teacher_input=lambda batch: (batch,),
        num_samples=len(data.train_targets),
        **_optimization(cfg.optimizer),
    )
    _check_held_out(made, data)
    return made


def conditions(cfg: DictConfig) -> dict[str, ModalityCorruption | None]:
    """Under which the test is repeated, by name; the first, ``clean``, is none.

    Raises:
        UserError: one that is no corruption.
    """
    nodes = {} if cfg.fusion.conditions is None else cfg.fusion.conditions
    if not isinstance(nodes, Mapping):
        raise UserError(
            f"fusion.conditions must be corruptions by name, as in {{dead: {{kinds: [drop]}}}}, found {nodes}"
        )
    made: dict[str, ModalityCorruption | None] = {"clean": None}
    for name, node in nodes.items():
        if node is None:
            continue
        key = f"fusion.conditions.{name}"
        if name in made:
            raise UserError(f"{key}: the test on clean samples has this name; take another")
        if not isinstance(node, Mapping):
            raise UserError(f"{key} must be a corruption's settings, as in {{kinds: [drop]}}, found {node}")
        try:
            made[str(name)] = ModalityCorruption(**plain(node))
        except TypeError as error:
            raise UserError(f"{key}: {error}") from error
    return made


def networks(cfg: DictConfig, data: TaskData) -> tuple[nn.Module, nn.Module]:
    """Teacher and student. The teacher has the weights of ``teacher.checkpoint`` or the library's pretrained ones.

    Where it has neither, :func:`ctkd_lightning.job.ready_teacher` finds or trains them. Seeds everything, with
    ``teacher.seed`` and then with ``seed``: equal configurations give equal networks.

    Raises:
        UserError: a network that there is not, or weights that do not fit.
    """
    return teacher(cfg, data), student(cfg, data)


def teacher(cfg: DictConfig, data: TaskData) -> nn.Module:
    """The teacher of :func:`networks`."""
    seed_everything(cfg.teacher.seed, workers=True, verbose=False)
    network = _network(cfg, "teacher", data)
    if cfg.teacher.checkpoint:
        load_weights(network, cfg.teacher.checkpoint)
    return network


def student(cfg: DictConfig, data: TaskData) -> nn.Module:
    """The student, after the seed: its start does not depend on whether there is a teacher.

    Raises:
        UserError: a network that there is not.
    """
    seed_everything(cfg.seed, workers=True, verbose=False)
    return _network(cfg, "student", data)


def _network(cfg: DictConfig, role: str, data: TaskData) -> nn.Module:
    settings = plain(cfg.model[role])
    if isinstance(data, TokenDataModule):
        return create_language_model(**settings, vocabulary=data.num_classes, length=data.length)
    if isinstance(data, SegmentationDataModule):
        return create_segmenter(**settings, num_classes=data.num_classes)
    create = create_detector if isinstance(data, DetectionDataModule) else create_model
    return create(**settings, num_classes=data.num_classes)


def methods(cfg: DictConfig) -> dict[str, Method]:
    """The terms of the loss by name."""
    made: dict[str, Method] = instantiate(cfg.method.terms, _convert_="all")
    return made


def temperature(
    cfg: DictConfig, methods: Mapping[str, Method], num_classes: int
) -> Temperature | dict[str, Temperature]:
    """One temperature; with ``temperature_per_method`` one for each method that softens logits."""
    per_data = {"num_classes": num_classes} if "num_classes" in cfg.temperature else {}
    softened = [name for name, method in methods.items() if method.uses_temperature]
    if cfg.temperature_per_method and softened:
        return {name: instantiate(cfg.temperature, **per_data) for name in softened}
    made: Temperature = instantiate(cfg.temperature, **per_data)
    return made


def module(
    cfg: DictConfig,
    teacher: nn.Module,
    student: nn.Module,
    data: ImageDataModule | SegmentationDataModule | TokenDataModule,
) -> DistillationModule:
    """The module that distils the one into the other; detectors have :func:`detector_distillation`.

    Raises:
        UserError: a method that does not fit the two networks; a temperature that would learn from the test samples.
    """
    terms = methods(cfg)
    made = DistillationModule(
        teacher,
        student,
        method=terms,
        temperature=temperature(cfg, terms, data.num_classes),
        ce_weight=cfg.method.ce_weight,
        example_image=data.example_text if isinstance(data, TokenDataModule) else data.example_image,
        student_layers=cfg.student_layers,
        teacher_layers=cfg.teacher_layers,
        num_samples=len(data.train_targets),
        kd_at=KD_AT if isinstance(data, ImageDataModule) else None,
        fuse_heads=cfg.get("fuse_heads", "auto"),
        **_optimization(cfg.optimizer),
        **layout(cfg),
    )
    _check_held_out(made, data)
    return made


def _check_held_out(module: DistillationModule, data: LabelledDataModule) -> None:
    """Tell before the teacher's training that a temperature would learn from the test samples."""
    if module.distillation.learns_from_held_out:
        data.check_held_out()


def detector_distillation(
    cfg: DictConfig, teacher: nn.Module, data: DetectionDataModule
) -> CurriculumTemperatureCallback:
    """The callback that distils a detector into that of a :class:`~ctkd_lightning.modules.DetectionModule`.

    It is the configured one of the curriculum, with a teacher.

    Raises:
        UserError: a method that reads features, of layers that are not named.
    """
    terms = methods(cfg)
    for term, method in terms.items():
        own, theirs = ({*needed} - {BOXES} for needed in (method.needs, method.needs_of_teacher()))
        if (own and not cfg.student_layers) or (theirs and not cfg.teacher_layers):
            raise UserError(
                f"method {term} reads features, and a detector does not say which of its layers have them: name them "
                "in student_layers and teacher_layers, or take a method of scores, such as method=kd_detection"
            )
    made: CurriculumTemperatureCallback = instantiate(
        cfg.callbacks.curriculum,
        teacher=teacher,
        student="network",
        method=terms,
        temperature=temperature(cfg, terms, data.num_classes + 1),  # and the background
        ce_weight=cfg.method.ce_weight,
        student_layers=cfg.student_layers and plain(cfg.student_layers),
        teacher_layers=cfg.teacher_layers and plain(cfg.teacher_layers),
        _convert_="all",
    )
    return made


def teacher_module(cfg: DictConfig, teacher: nn.Module) -> ClassifierModule | DetectionModule:
    """The module that trains the teacher."""
    return _alone(cfg, teacher, cfg.teacher)


def _alone(cfg: DictConfig, network: nn.Module, node: DictConfig) -> ClassifierModule | DetectionModule:
    """The module that trains a network without another, with the optimizer of a node."""
    if task(cfg) == "detection":
        return DetectionModule(network, **_optimization(node))
    return ClassifierModule(network, **_optimization(node), **layout(cfg))


def layout(cfg: DictConfig) -> dict[str, Any]:
    """How the modules read what networks take and give."""
    if (kind := task(cfg)) == "language":
        return {"class_dim": -1}
    maps = {"class_dim": 1, "miou": True} if kind == "segmentation" else {}
    return {"channels_last": channels_last(cfg), **maps}


def _optimization(node: DictConfig) -> dict[str, Any]:
    """What makes optimizer and scheduler, as the modules take it."""
    return {"optimizer": instantiate(node.optimizer), "scheduler": instantiate(node.scheduler)}


def callbacks(cfg: DictConfig, curriculum: Callback | None = None) -> list[Callback]:
    """The configured callbacks, and how the training shows how far it is.

    Args:
        cfg: the configuration.
        curriculum: in the place of the configured one.
    """
    left_out = [] if _chosen(cfg.logger) else ["learning_rate"]  # which needs a logger
    if cfg.method.get("alone"):
        left_out.append("curriculum")  # which needs a temperature
    chosen = _chosen(cfg.callbacks)
    made = [
        curriculum if name == "curriculum" and curriculum else instantiate(node, _convert_="all")
        for name, node in chosen.items()
        if name not in left_out
    ]
    made += within_epochs(cfg)
    return [*made, *progress_bar(cfg)]  # last: a line of an epoch tells what the others log


def progress_bar(cfg: DictConfig) -> list[Callback]:
    """The configured bar alone, for a Trainer of another purpose; none where there is none.

    Where the output is no terminal, a line an epoch takes the bar's place.
    """
    node = cfg.get("progress")  # of version 0.1 the bar is one of the callbacks
    if node is None or node.get("_target_") is None:
        return []
    return [instantiate(node) if Console().is_interactive or Console().is_jupyter else EpochLines()]


def loggers(cfg: DictConfig) -> list[Logger]:
    """The configured loggers.

    Raises:
        UserError: one whose package is not installed.
    """
    return [_logger(name, node) for name, node in _chosen(cfg.logger).items()]


def _logger(name: str, node: DictConfig) -> Logger:
    try:
        made: Logger = instantiate(node, _convert_="all")
    except (InstantiationException, ModuleNotFoundError) as error:
        missing = error if isinstance(error, ModuleNotFoundError) else error.__cause__
        if not isinstance(missing, ModuleNotFoundError):
            raise
        raise UserError(f"logger={name} needs a package that is not installed: pip install {name}") from error
    return made


def _chosen(group: DictConfig | None) -> dict[str, DictConfig]:
    """The parts of a group that are not switched off, as with ``logger.csv=null``."""
    return {str(name): node for name, node in (group or {}).items() if node is not None}


def trainer(cfg: DictConfig, **settings: Any) -> Trainer:
    """The Trainer of the student's training.

    Args:
        cfg: the configuration.
        **settings: of the Trainer, in the place of those of the configuration; ``callbacks`` and ``logger`` too.
    """
    if "callbacks" not in settings:
        settings["callbacks"] = callbacks(cfg)
    if "logger" not in settings:
        settings["logger"] = loggers(cfg)
    checkpoints = any(isinstance(callback, ModelCheckpoint) for callback in settings["callbacks"])
    bar = any(isinstance(callback, AnyBar) for callback in settings["callbacks"])
    defaults = {
        "precision": precision(cfg),
        "enable_checkpointing": checkpoints,
        "enable_progress_bar": bar,
        "default_root_dir": cfg.run_dir,
    }
    checkpoints_of_run = RunCheckpoints()
    if not cfg.trainer.get("plugins") and "deepspeed" not in str(cfg.trainer.strategy):  # which writes its own way
        defaults["plugins"] = [checkpoints_of_run]
    guards = [ConfinedPaths(checkpoints_of_run), FiniteSteps(cfg.get("on_nan", "stop"))]
    settings["callbacks"] = [*guards, *settings["callbacks"], StopOnSigterm()]
    made: Trainer = instantiate(cfg.trainer, **defaults | settings, _convert_="all")
    checkpoints_of_run.allow(made.checkpoint_callbacks)
    return made
