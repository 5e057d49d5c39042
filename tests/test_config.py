"""Every configuration file is composed, and what it names is made."""

import re
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_object, instantiate
from lightning.pytorch import Trainer
from omegaconf import OmegaConf, open_dict

from ctkd_lightning import build, methods, temperature
from ctkd_lightning._facts import choices
from ctkd_lightning.data import (
    DetectionDataModule,
    ImageDataModule,
    MultimodalDataModule,
    SegmentationDataModule,
    TokenDataModule,
)
from ctkd_lightning.job.configuration import config_dir
from ctkd_lightning.models import create_detector, create_language_model, create_model, create_segmenter
from tests.temperature.settings import GIVEN

CONF = Path(config_dir())
GROUPS = {group.name: sorted(path.stem for path in group.glob("*.yaml")) for group in CONF.iterdir() if group.is_dir()}
PARTS = sorted(path.relative_to(CONF / "optimizer") for path in (CONF / "optimizer").glob("*/*.yaml"))
CHOICES = [(group, choice) for group, choices in GROUPS.items() for choice in choices]
PAIRS = {
    "resnet56_to_resnet20", "resnet110_to_resnet32", "resnet110_to_resnet20", "resnet32x4_to_resnet8x4",
    "wrn40_2_to_wrn16_2", "wrn40_2_to_wrn40_1", "vgg13_to_vgg8", "vgg13_to_mobilenetv2", "resnet50_to_mobilenetv2",
    "resnet50_to_vgg8", "resnet32x4_to_shufflenetv1", "resnet32x4_to_shufflenetv2", "wrn40_2_to_shufflenetv1",
    "resnet34_to_resnet18", "rcnn_small_to_tiny", "rcnn_resnet101_to_resnet18", "rcnn_resnet50_to_mobilenetv2",
    "language_small_to_tiny", "segmenter_small_to_tiny",
}  # fmt: skip
PROMISED = {
    "model": PAIRS,
    "data": {
        "digits",
        "cifar10",
        "cifar100",
        "tiny_imagenet",
        "imagenet",
        "image_folder",
        "fake",
        "digit_views",
        "six_views",
        "watch_sensors",
        "digit_scenes",
        "coco",
        "digit_masks",
        "stdlib_tokens",
        "text_files",
    },
    "method": set(choices(methods, methods.Method)),
    "temperature": {*choices(temperature, temperature.Temperature), "normalized", "standardized", "transformed"},
    "curriculum": {"cosine", "linear", "constant"},
    "optimizer": {"sgd"},
    "trainer": {"auto", "cpu", "gpu", "ddp", "ddp_cpu", "fsdp", "multi_node"},
    "logger": {"csv", "tensorboard", "mlflow", "wandb"},
    "callbacks": {"default"},
    "progress": {"rich", "tqdm", "none"},
    "fusion": {"instance", "global", "fixed"},
    "encoders": {"linear", "vector", "series"},
    "experiment": {
        "cifar100_paper",
        "compare_digits",
        "detection_coco_paper",
        "detection_digits",
        "segmentation_digits",
        "tokens_stdlib",
        "imagenet_paper",
        "fusion_digits",
        "fusion_six_views",
        "fusion_sensors",
        "fusion_student",
    },
}
NEEDS_PACKAGES = {"mlflow", "wandb"}


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides=[*overrides, "run_dir=out"], return_hydra_config=True)
    with open_dict(cfg):
        cfg.hydra.runtime.output_dir = "out"
    HydraConfig.instance().set_config(cfg)
    return cfg


def test_what_was_promised_is_there():
    for group, promised in PROMISED.items():
        assert promised <= set(GROUPS[group])


@pytest.fixture(autouse=True)
def forget_hydra_config():
    yield
    HydraConfig.instance().cfg = None


@pytest.mark.parametrize(("group", "choice"), CHOICES, ids=["=".join(pair) for pair in CHOICES])
def test_composes_and_instantiates(group, choice, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = composed(f"{group}={choice}")
    for key in OmegaConf.missing_keys(cfg.data):  # of data sets whose place the user must say
        OmegaConf.update(cfg, key, "somewhere")
    for node in (cfg.teacher, cfg.optimizer, *([cfg[group]] if group in cfg else [])):
        OmegaConf.to_container(node, resolve=True, throw_on_missing=True)  # every interpolation
    if group == "model":
        create, data = {
            "classification": (create_model, {"num_classes": 7}),
            "detection": (create_detector, {"num_classes": 7}),
            "segmentation": (create_segmenter, {"num_classes": 7}),
            "language": (create_language_model, {"vocabulary": 7, "length": 5}),
        }[build.task(cfg)]
        for side in ("teacher", "student"):
            downloads = [key for key in ("pretrained", "pretrained_backbone") if key in cfg.model[side]]
            settings = {**cfg.model[side], **dict.fromkeys(downloads, False)}
            assert sum(p.numel() for p in create(**settings, **data).parameters()) > 3_000
    elif group == "trainer":
        here = {"accelerator": "cpu", "devices": 1, "strategy": "auto", "num_nodes": 1, "precision": "32-true"}
        assert isinstance(instantiate(cfg.trainer, **here), Trainer)
    elif group == "experiment":
        expected = {
            "classification": ImageDataModule, "detection": DetectionDataModule,
            "segmentation": SegmentationDataModule, "language": TokenDataModule,
        }[build.task(cfg)]  # fmt: skip
        assert isinstance(instantiate(cfg.data), MultimodalDataModule if "fusion" in cfg else expected)
        for node in (cfg.method.terms, cfg.curriculum, cfg.optimizer, cfg.teacher):
            instantiate(node)
        if "fusion" in cfg:
            check_fusion(cfg)
    elif group == "fusion":
        check_fusion(cfg)
    elif group == "encoders":
        shape = (3, 40)
        assert instantiate(cfg.encoders, shape=shape, num_classes=7).eval()(torch.zeros(2, *shape)).shape == (2, 7)
    elif group == "temperature":
        per_data = {"num_classes": 7} if "num_classes" in cfg.temperature else {}
        instantiate(cfg.temperature, **per_data, **GIVEN.get(choice, {}))
    elif group in cfg and choice not in NEEDS_PACKAGES:
        instantiate(cfg[group])


def check_fusion(cfg):
    """The fusion, its corruption, its conditions and the encoders' training can be made."""
    widths = {"a": 4, "b": 5}
    seen = {key: widths if cfg.fusion.network[key] else None for key in ("joint", "context")}
    fusion = instantiate(cfg.fusion.network, num_classes=7, modalities=["a", "b"], **seen)
    assert fusion.names == ("a", "b", "joint")[: 3 if cfg.fusion.network.joint else 2]
    instantiate(cfg.fusion.corruption, _convert_="all")
    assert next(iter(build.conditions(cfg).items())) == ("clean", None)
    optimizer = instantiate(cfg.fusion.encoder_training.optimizer)([torch.nn.Parameter(torch.zeros(1))])
    assert instantiate(cfg.fusion.encoder_training.scheduler)(optimizer).T_max == cfg.fusion.encoder_epochs


@pytest.mark.parametrize("part", PARTS, ids=str)
def test_parts_of_an_optimizer_make_one(part):
    parameter = torch.nn.Parameter(torch.zeros(1))
    node, name = part.parts[0], part.stem
    target = OmegaConf.load(CONF / "optimizer" / part)._target_
    wholes = [composed(f"optimizer={choice}").optimizer for choice in GROUPS["optimizer"]]
    wholes = [whole for whole in wholes if whole[node]._target_ == target]
    assert wholes, "no optimizer= takes it"
    wholes.append(composed(f"optimizer/{node}={name}").optimizer)
    assert wholes[-1][node]._target_ == target
    for whole in map(instantiate, wholes):
        optimizer = whole.optimizer([parameter])
        assert optimizer.param_groups[0]["lr"] > 0
        assert whole.scheduler(optimizer).optimizer is optimizer


def test_no_setting_of_the_optimizer_is_said_twice():
    student, teacher = composed().optimizer, composed().teacher
    for part in ("optimizer", "scheduler"):
        own = {"lr", "max_epochs"}  # the teacher's, which stand in config.yaml
        assert {k: v for k, v in student[part].items() if k not in own} == {
            k: v for k, v in teacher[part].items() if k not in own
        }
    cfg = composed("model.teacher_learning_rate=0.3", "teacher.max_epochs=5", "max_epochs=7")
    assert (cfg.teacher.optimizer.lr, cfg.teacher.scheduler.max_epochs) == (0.3, 5)
    assert (cfg.optimizer.optimizer.lr, cfg.optimizer.scheduler.max_epochs) == (0.05, 7)


def test_cifar100_paper_is_the_recipe():
    rates = {"wrn40_2_to_wrn16_2": 0.05, "vgg13_to_mobilenetv2": 0.01, "wrn40_2_to_shufflenetv1": 0.01}
    for model, rate in rates.items():
        cfg = composed("experiment=cifar100_paper", f"model={model}")
        assert cfg.max_epochs == cfg.teacher.max_epochs == 240
        assert cfg.trainer.precision == "32-true"
        assert (cfg.data.batch_size, cfg.data.val_size, cfg.data.padding) == (64, 0, 4)
        assert cfg.data.mean == [0.5071, 0.4867, 0.4408]
        assert cfg.data.std == [0.2675, 0.2565, 0.2761]
        sgd = cfg.optimizer.optimizer
        assert (sgd._target_, sgd.lr, sgd.momentum, sgd.weight_decay) == ("torch.optim.SGD", rate, 0.9, 5e-4)
        assert cfg.optimizer.scheduler.milestones == [150, 180, 210]
        assert cfg.optimizer.scheduler.gamma == 0.1
        assert (cfg.method.ce_weight, cfg.method.terms.kd.weight) == (0.1, 0.9)
        assert (cfg.temperature.tau_init, cfg.temperature.tau_range, cfg.temperature.initial_value) == (1, 20, 1)
        assert (cfg.curriculum.epochs, cfg.curriculum.start, cfg.curriculum.end) == (10, 0, 1)
    assert composed("experiment=cifar100_paper", "temperature=fixed").temperature.tau == 4


def test_imagenet_paper_is_the_recipe():
    cfg = composed("experiment=imagenet_paper")
    assert (cfg.model.teacher.name, cfg.model.student.name) == ("torchvision/resnet34", "torchvision/resnet18")
    assert cfg.model.teacher.pretrained
    assert cfg.trainer.precision == "32-true"
    assert (cfg.max_epochs, cfg.data.batch_size, cfg.curriculum.epochs) == (120, 256, 5)
    data = instantiate(cfg.data)
    assert [data._batch_of_a_process(processes) for processes in (1, 2, 8)] == [256, 128, 32]
    sgd = cfg.optimizer.optimizer
    assert (sgd.lr, sgd.momentum, sgd.weight_decay) == (0.1, 0.9, 1e-4)
    assert cfg.optimizer.scheduler.milestones == [30, 60, 90]
    assert (cfg.method.ce_weight, cfg.method.terms.kd.weight) == (1.0, 1.0)


def test_detection_coco_paper_is_the_recipe():
    cfg = composed("experiment=detection_coco_paper", "data.root=DIR")
    assert (cfg.model.teacher.name, cfg.model.student.name) == ("faster_rcnn_resnet101", "faster_rcnn_resnet18")
    assert cfg.model.student.pretrained_backbone
    assert cfg.model.student.min_size == [640, 672, 704, 736, 768, 800]
    assert (cfg.trainer.max_steps, cfg.max_epochs * 117_266 // 8 > 180_000) == (180_000, True)
    assert (cfg.data.batch_size, cfg.data.batch_size_is_total, cfg.data.val_size, cfg.data.flip) == (8, True, 0, True)
    sgd, dkd = cfg.optimizer.optimizer, cfg.method.terms.dkd
    assert (sgd._target_, sgd.lr, sgd.momentum, sgd.weight_decay) == ("torch.optim.SGD", 0.01, 0.9, 1e-4)
    assert (dkd.weight, dkd.alpha, dkd.beta, dkd.warmup_epochs, cfg.method.ce_weight) == (1.0, 1.0, 0.25, 0, 1.0)
    assert cfg.temperature.tau == 1
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    share = instantiate(cfg.optimizer.scheduler)(optimizer).lr_lambdas[0]
    steps = (0, 500, 1_000, 119_999, 120_000, 159_999, 160_000, 179_999)
    assert [share(step) for step in steps] == pytest.approx([1e-3, 0.5005, 1, 1, 0.1, 0.1, 0.01, 0.01])
    learned = composed("experiment=detection_coco_paper", "data.root=DIR", "temperature=global_near_one")
    assert instantiate(learned.temperature)(torch.zeros(1, 2), torch.zeros(1, 2)).item() == pytest.approx(1.0)


def test_detection_digits_takes_other_methods_and_temperatures():
    cfg = composed("experiment=detection_digits", "method=kd", "temperature=fixed", "temperature.tau=2")
    instantiate(cfg.method.terms)
    assert instantiate(cfg.temperature)(torch.zeros(1, 2), torch.zeros(1, 2)).item() == 2
    assert (cfg.method.ce_weight, cfg.objective, cfg.callbacks.best.monitor) == (0.1, "best.map", "val/map")
    texts = composed("experiment=tokens_stdlib")
    assert (texts.objective, texts.callbacks.best.monitor, texts.callbacks.best.mode) == (
        "best.nats",
        "val/loss",
        "min",
    )
    assert (composed().objective, composed().callbacks.best.monitor) == ("best.top1", "val/top1")


@pytest.mark.parametrize("name", ["class_scaled", "dynamic", "lskd", "normkd", "spherical", "ttm", "wttm"])
def test_a_rule_takes_a_learned_base(name):
    target = "temperature.base._target_=ctkd_lightning.temperature.GlobalTemperature"
    cfg = build.config(f"temperature={name}", target, "~temperature.base.tau")
    made = build.temperature(cfg, build.methods(cfg), 10)
    assert isinstance(made.base, temperature.GlobalTemperature)
    assert made.base.bounds == (1, 21)


def test_defaults():
    cfg = composed()
    choices = cfg.hydra.runtime.choices
    assert (choices.model, choices.data, choices.method) == ("wrn40_2_to_wrn16_2", "digits", "kd")
    assert (choices.temperature, choices.curriculum, choices.trainer) == ("global", "cosine", "auto")


@pytest.mark.parametrize("names", [("pkt", "kd"), ("kd", "pkt")])
def test_methods_merge_in_any_order(names):
    cfg = composed(f"method=[{','.join(names)}]")
    assert list(cfg.method.terms) == list(names)
    assert (cfg.method.ce_weight, cfg.method.terms.kd.weight, cfg.method.terms.pkt.weight) == (0.1, 0.9, 30000)
    assert composed("method=pkt").method.ce_weight == 1


def test_settings_by_pair_follow_the_networks_that_are_trained():
    assert composed("method=dkd", "model=resnet56_to_resnet20").method.terms.dkd.beta == 2
    networks = ("model.teacher.name=vgg13", "model.student.name=vgg8")
    assert composed("method=dkd", "model=resnet56_to_resnet20", *networks).method.terms.dkd.beta == 6
    other = composed("method=dkd", "model=resnet56_to_resnet20", "model.student.name=timm/resnet18.a1_in1k")
    assert other.method.terms.dkd.beta == 8


def test_layers_can_be_named():
    cfg = composed("student_layers={stage1: block1, pooled: 'fc:input'}")
    assert cfg.student_layers == {"stage1": "block1", "pooled": "fc:input"}


# Names that saved configurations have: later versions must find them too. Add to them; none may go.
TARGETS = {
    "ctkd_lightning": {"ModalityCorruption", "TemperatureFusion"},
    "ctkd_lightning.callbacks": {"CurriculumTemperatureCallback", "ProgressBar", "TQDMBar"},
    "ctkd_lightning.callbacks.progress": {"ProgressBar"},  # of version 0.1
    "ctkd_lightning.curriculum": {"ConstantCurriculum", "CosineCurriculum", "LinearCurriculum"},
    "ctkd_lightning.data": {
        "CIFAR10", "CIFAR100", "Coco", "DigitMasks", "DigitScenes", "DigitViews", "Digits", "Fake", "ImageFolder",
        "ImageNet", "SixViews", "StdlibTokens", "TextFiles", "TinyImageNet", "WatchSensors",
    },
    "ctkd_lightning.detection": {"BoxKD"},
    "ctkd_lightning.job": {"MetricsLogger", "RunOwner", "SweepJobs", "mlflow_logger"},
    "ctkd_lightning.methods": {
        "AB", "AT", "AnnealingKD", "CC", "CRD", "CWD", "DIST", "DKD", "FSP", "FT", "FitNet", "KD", "KDSVD", "LSKD",
        "MLKD", "NST", "NormKD", "OFD", "PKT", "RKD", "ReviewKD", "SP", "SRRL", "TTM", "VID", "VectorKD", "WTTM",
    },
    "ctkd_lightning.models": {"SeriesEncoder", "VectorEncoder"},
    "ctkd_lightning.reporting": {"SweepReport"},
    "ctkd_lightning.schedule": {"cosine_with_warmup", "step_decay", "step_decay_with_warmup"},
    "ctkd_lightning.temperature": {
        "AsymmetricTemperature", "ClassScaledTemperature", "DynamicBatchTemperature", "DynamicTemperature",
        "EnergyTemperature", "FixedTemperature", "GlobalTemperature", "InstanceTemperature", "LSKDTemperature",
        "NormKDTemperature", "PerClassTemperature", "RecordedTemperature", "ScheduledTemperature",
        "SphericalTemperature", "TTMTemperature", "WTTMTemperature",
    },
}  # fmt: skip


def test_names_in_saved_configurations_stay():
    for module, names in TARGETS.items():
        for name in names:
            assert callable(get_object(f"{module}.{name}"))
    used = re.findall(r"_target_: ([\w.]+)", "\n".join(path.read_text() for path in CONF.rglob("*.yaml")))
    ours = {name for name in used if name.startswith("ctkd_lightning")}
    known = {f"{module}.{name}" for module, names in TARGETS.items() for name in names}
    assert ours <= known, "a configuration names what TARGETS does not hold for ever"
    assert not {name for name in ours if name.count(".") > 2}, "a name that is no package's"
