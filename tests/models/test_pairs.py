"""The teacher-student pairs of conf/model."""

from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from ctkd_lightning.job.configuration import compose, config_dir
from ctkd_lightning.models import available_models
from ctkd_lightning.models.detectors import available_detectors

ALL = sorted(path.stem for path in Path(config_dir(), "model").glob("*.yaml"))
DETECTORS = [name for name in ALL if name.startswith("rcnn")]
PAIRS = [name for name in ALL if name not in DETECTORS and not name.startswith(("language", "segmenter"))]
SMALL = ("MobileNetV2", "ShuffleV1", "ShuffleV2")


def test_the_pairs_are_those_of_the_papers():
    assert set(PAIRS) == {
        "resnet56_to_resnet20",
        "resnet110_to_resnet32",
        "resnet110_to_resnet20",
        "resnet32x4_to_resnet8x4",
        "wrn40_2_to_wrn16_2",
        "wrn40_2_to_wrn40_1",
        "vgg13_to_vgg8",
        "vgg13_to_mobilenetv2",
        "resnet50_to_mobilenetv2",
        "resnet50_to_vgg8",
        "resnet32x4_to_shufflenetv1",
        "resnet32x4_to_shufflenetv2",
        "wrn40_2_to_shufflenetv1",
        "resnet34_to_resnet18",
    }


def test_pairs_of_detectors_are_made_by_name():
    GlobalHydra.instance().clear()
    for name in DETECTORS:
        pair = compose([f"model={name}"]).model
        assert pair.task == "detection"
        for side in (pair.teacher, pair.student):
            assert side.name in available_detectors() or side.name.startswith("torchvision/")


@pytest.mark.parametrize("name", PAIRS)
def test_a_pair_names_models_and_rates(name):
    GlobalHydra.instance().clear()
    pair = compose([f"model={name}"]).model
    assert {pair.teacher.name, pair.student.name} <= set(available_models())
    teacher, student = (
        side.name.lower().removeprefix("torchvision/").replace("_", "").replace("shufflev", "shufflenetv")
        for side in (pair.teacher, pair.student)
    )
    assert name.replace("_", "") == f"{teacher}to{student}"
    cifar_rate = 0.01 if pair.student.name in SMALL else 0.05
    assert pair.learning_rate == (0.1 if "torchvision" in pair.student.name else cifar_rate)
