"""The code in docs/detection.md runs, on small networks in the place of the reader's."""

import re
from pathlib import Path

from torch import nn

from ctkd_lightning import CurriculumTemperatureCallback
from ctkd_lightning.methods import AT, KD
from tests.detection.small import Detecting, loader, made
from tests.quiet import quiet_trainer

DOCS = Path(__file__).resolve().parents[2] / "docs" / "detection.md"
WHOLE, LEVELS, ASKED = re.findall(r"```python\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)
PUBLIC = {"AT": AT, "KD": KD, "CurriculumTemperatureCallback": CurriculumTemperatureCallback}


class Scorer(nn.Module):
    """Takes images and places."""

    def __init__(self, detector):
        super().__init__()
        self.detector = nn.ModuleList([detector.backbone, detector.roi_heads])

    def forward(self, images, places):
        backbone, heads = self.detector
        sizes = [tuple(image.shape[-2:]) for image in images]
        pooled = heads.box_roi_pool({"0": backbone(images)}, places, sizes)
        return heads.box_predictor(heads.box_head(pooled))[0]


def run(code, **names):
    exec(compile(code, str(DOCS), "exec"), names)
    return names


def losses(tmp_path, code, **names):
    added = run(code, **names)["distil"]
    trainer = quiet_trainer(tmp_path, callbacks=[added], max_steps=1)
    trainer.fit(Detecting(made("rcnn", 1)), loader())
    return trainer.logged_metrics


def test_one_callback(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = WHOLE.replace("callbacks=[distil], ", "callbacks=[distil], logger=False, enable_checkpointing=False, ")
    found = run(code, task=Detecting(made("rcnn", 1)), teacher=made("rcnn", 2), loader=loader())
    temperature = found["distil"].temperature
    assert 1.0 < temperature(None, None) < 5.0
    assert temperature.lambda_ == 1.0


def test_the_levels_of_a_pyramid(tmp_path):
    code = LEVELS.replace("fpn.layer_blocks.0", "1").replace("fpn.layer_blocks.1", "3")
    found = losses(tmp_path, code, teacher=made("rcnn", 2), **PUBLIC)
    assert found["train/at"] > 0


def test_another_teacher_is_asked(tmp_path):
    found = losses(tmp_path, ASKED, network=Scorer(made("rcnn", 2)), **PUBLIC)
    assert found["train/kd"] > 0
