import logging
import os
import socket
import threading
import time
from contextlib import ExitStack
from functools import partial

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from safetensors.torch import load_file
from scipy.stats import binom

from ctkd_lightning import build
from ctkd_lightning._files import owned
from ctkd_lightning.data import Fake
from ctkd_lightning.errors import UserError
from ctkd_lightning.job.teacher import _training_settings, check_beats_chance, teacher_key, train_once
from ctkd_lightning.models import create_model, save_weights
from ctkd_lightning.modules.classifier import ClassifierModule
from tests.processes import FORK


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


@pytest.mark.parametrize(("devices", "batch", "total"), [(2, 8, False), (2, 16, True), (1, 16, True)])
def test_the_images_of_a_step_count_whatever_the_processes(devices, batch, total):
    def settings(devices, batch, total):
        node = ["data=fake", f"data.batch_size={batch}", f"data.batch_size_is_total={total}"]
        cfg = build.config(*node, f"trainer.devices={devices}")
        return _training_settings(cfg, build.data(cfg))

    assert settings(devices, batch, total) == settings(1, 16, False) != settings(2, 16, False)


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


def test_another_run_that_trains_it_is_waited_for(train, caplog, tmp_path, monkeypatch):
    caplog.set_level(logging.INFO, "ctkd_lightning")
    monkeypatch.setattr("ctkd_lightning.job.teacher._PATIENCE", 0.1)
    other = train("other").read_bytes()
    folder = tmp_path / "shared"
    with ExitStack() as held:
        held.enter_context(owned(folder))

        def finish():
            (folder / "teacher.safetensors").write_bytes(other)
            held.close()

        end = threading.Timer(1.0, finish)
        end.start()
        found = train("shared")
        end.join()
    assert f"Waiting for another run, which has the teacher in {folder}" in caplog.text
    assert f"Teacher found: {found}" in caplog.text
    assert [path.name for path in folder.iterdir()] == ["teacher.safetensors"]


def _launched(rank, port, folder):
    """One of two processes as torchrun starts them. The second looks first, and finds nothing."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "x", "GROUP_RANK": "0"}
    torch.set_num_threads(1)
    data = Fake(train_size=32, test_size=16, image_size=8, batch_size=16, num_classes=4, padding=1)
    settings = {"accelerator": "cpu", "devices": 2, "strategy": "ddp", "logger": False, "enable_progress_bar": False}
    module = ClassifierModule(create_model("resnet8", num_classes=4))
    if rank == 0:
        time.sleep(2)
        save_weights(module.network, folder / "teacher.safetensors")  # another run's, at the last moment
    train_once(module, data, folder, {}, partial(Trainer, **settings), max_epochs=2)
    save_weights(module.network, folder / f"of{rank}.safetensors")


def test_processes_do_not_part_over_what_another_run_has_just_made(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = [FORK.Process(target=_launched, args=(rank, port, tmp_path), daemon=True) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(60)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    assert equal(tmp_path / "of0.safetensors", tmp_path / "of1.safetensors")
    assert not (tmp_path / "settings.json").exists()  # nothing was trained
