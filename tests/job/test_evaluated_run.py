import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ctkd_lightning import build
from ctkd_lightning.data import Fake
from ctkd_lightning.errors import UserError
from ctkd_lightning.job.configuration import compose
from ctkd_lightning.job.evaluated_run import check_classes, of_run


def folder_of(cfg_of, root="shifted", names=None):
    """The run's test images as files, in a folder without training images."""
    data = build.data(cfg_of)
    images = data.split_images("test")
    for number, (pixels, target) in enumerate(zip(images.pixels, images.targets, strict=True)):
        folder = Path(root, "test", (names or data.class_names)[int(target)])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())).save(folder / f"{number:03}.png")


def test_other_data_are_seen_as_the_own_were(finished_run):
    own = build.config(run="run")
    folder_of(own)
    node = compose(["data=image_folder", "data.root=shifted"]).data
    subject = of_run("run", "cpu", node, ["data=image_folder"], recompute=False)
    seen = build.unread_data(own)
    assert (subject.data.image_size, subject.data.mean, subject.data.std) == (8, seen.mean, seen.std)
    assert subject.kept is None
    assert (subject.data_name, subject.file.name) == ("shifted", "evaluation_shifted.json")
    node.mean = [0.1, 0.2, 0.3]
    subject = of_run("run", "cpu", node, ["data.mean=[0.1,0.2,0.3]"], recompute=False)
    assert list(subject.data.mean) == [0.1, 0.2, 0.3]
    assert subject.data.std == seen.std


def test_other_names_are_refused(finished_run):
    folder_of(build.config(run="run"), names=["class 0", "class 1", "class 2", "z"])
    node = compose(["data=image_folder", "data.root=shifted"]).data
    with pytest.raises(UserError, match="class 3 of data= is 'z', and the run's networks know 'class 3'"):
        of_run("run", "cpu", node, recompute=False)


def test_another_number_of_classes_is_refused():
    with pytest.raises(UserError, match="has 4 classes, and the run's networks know 3"):
        check_classes(Fake(num_classes=4), ["0", "1", "2"])


def test_test_data_that_have_changed(finished_run, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("ctkd_lightning"), "propagate", True)  # for caplog
    path = finished_run / ".hydra/config.yaml"
    path.write_text(path.read_text().replace("test_size: 40", "test_size: 24"))
    subject = of_run("run", "cpu", recompute=False)
    assert subject.kept is None
    assert subject.keep_in is None
    assert "The test data have changed since the run" in caplog.text


def test_a_fusion_has_no_student(finished_run):
    path = finished_run / "summary.json"
    path.write_text(
        '{"data": "digit_views", "temperature": "global", "curriculum": "cosine", "seed": 1, "status": "complete", '
        '"stage": "test", "encoders": "linear", "fusion": "global"}'
    )
    with pytest.raises(UserError, match="is a fusion and has no student"):
        of_run("run", "cpu", recompute=False)


def test_the_trainer_is_one_process(finished_run):
    path = finished_run / ".hydra/config.yaml"
    path.write_text(path.read_text().replace("devices: 1", "devices: 2").replace("strategy: auto", "strategy: ddp"))
    trainer = of_run("run", "cpu", recompute=False).cfg.trainer
    assert (trainer.devices, trainer.strategy, trainer.accelerator, trainer.precision) == (1, "auto", "cpu", "32-true")
