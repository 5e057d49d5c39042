import logging
from functools import partial

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from safetensors.torch import load_file
from scipy.stats import binom

from ctkd_lightning.data import Fake
from ctkd_lightning.errors import UserError
from ctkd_lightning.job.teacher import check_beats_chance, teacher_key, train_once
from ctkd_lightning.models import create_model
from ctkd_lightning.modules.classifier import ClassifierModule


@pytest.mark.parametrize(("classes", "samples"), [(10, 100), (100, 5000), (2, 50), (1000, 50000)])
def test_a_guesser_is_refused_and_a_teacher_is_not(classes, samples):
    lucky = 100 * binom.ppf(0.99, samples, 1 / classes) / samples
    with pytest.raises(UserError, match="teacher t is no better than chance: top-1"):
        check_beats_chance(lucky, classes, samples, "t")
    check_beats_chance(min(300 / classes, 90.0) if classes > 2 else 90.0, classes, samples, "t")


def test_nan_is_refused():
    with pytest.raises(UserError, match="no better than chance"):
        check_beats_chance(float("nan"), 10, 100, "t")


def test_key_depends_on_the_settings_and_not_on_their_order():
    assert teacher_key({"a": 1, "b": [2.0]}) == teacher_key({"b": [2.0], "a": 1})
    assert teacher_key({"a": 1}) != teacher_key({"a": 2})


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Train a small teacher in a folder of that name."""
    monkeypatch.setattr(logging.getLogger("ctkd_lightning"), "propagate", True)  # for caplog

    def call(name):
        seed_everything(1, verbose=False)
        data = Fake(train_size=32, test_size=16, image_size=8, batch_size=16, num_classes=4, padding=1)
        make_trainer = partial(
            Trainer, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False
        )
        module = ClassifierModule(create_model("resnet8", num_classes=4))
        train_once(module, data, tmp_path / name, {}, make_trainer, max_epochs=2)
        return tmp_path / name / "teacher.safetensors"

    return call


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def fill_with_zeros(path):
    path.write_bytes(bytes(path.stat().st_size))


def empty(path):
    path.write_bytes(b"")


def equal(first, second):
    first, second = load_file(first), load_file(second)
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("damage", [cut, fill_with_zeros, empty])
def test_damaged_weights_are_trained_anew(train, caplog, damage):
    whole = train("whole")
    weights = train("damaged")
    damage(weights)
    train("damaged")
    assert f"{weights} is empty, truncated or damaged; the teacher is trained anew" in caplog.text
    assert equal(weights, whole)


@pytest.mark.parametrize("damage", [cut, flip, fill_with_zeros, empty])
def test_a_damaged_checkpoint_of_an_interrupted_training_is_left_aside(train, caplog, monkeypatch, damage):
    whole = train("whole")
    with monkeypatch.context() as patch:
        patch.setattr("ctkd_lightning.job.teacher.save_weights", None)
        with pytest.raises(TypeError):
            train("stopped")
    last = whole.parent.with_name("stopped") / "last.ckpt"
    damage(last)
    assert equal(train("stopped"), whole)
    assert f"{last} is empty, truncated or damaged; the teacher is trained from the start" in caplog.text
    assert not last.exists()
