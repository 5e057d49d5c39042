"""What all tests share: small commands in this process, nothing outside the test's own folder."""

import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from matplotlib.figure import Figure

if "PYTEST_XDIST_WORKER" in os.environ:  # each worker has one core, not all of them
    torch.set_num_threads(1)

SMALL = [
    "data=fake",
    "data.train_size=64",
    "data.test_size=32",
    "data.image_size=8",
    "data.batch_size=16",
    "data.num_classes=4",
    "data.padding=1",
    "model=resnet56_to_resnet20",
    "model.teacher.name=resnet8",
    "model.student.name=resnet8",
    "teacher.max_epochs=1",
    "teacher.check=false",
    "trainer=cpu",
    "logger=csv",
    "max_epochs=1",
    "report=false",
]
"""Overrides that make the command take a second."""


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Work in the test's folder, with caches of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CTKD_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def command():
    """Run ``python -m ctkd_lightning.run`` with small data and networks in this process."""
    from ctkd_lightning.run import main

    def call(*overrides, small=True, drawn=False):
        call_main(main, *(SMALL if small else []), *overrides, drawn=drawn)

    yield call
    GlobalHydra.instance().clear()


def call_main(main, *overrides, drawn=False):
    """Call a command in this process. The picture of its training is an empty file, unless ``drawn``: it takes a third.

    Another fifth is that Hydra composes all once more for ``hydra.mode``, which an experiment alone has.
    """
    GlobalHydra.instance().clear()
    arguments = sorted(overrides, key=lambda word: not word.startswith("-"))
    with pytest.MonkeyPatch.context() as patched:
        pages = not any(word == "report=false" or word.startswith("experiment=fusion") for word in overrides)
        if not (pages or drawn):
            patched.setattr(Figure, "savefig", lambda self, path, **_: Path(path).touch())
        if not any(word.startswith(("experiment=", "hydra.mode=", "hparams_search=")) for word in overrides):
            patched.setattr(Hydra, "get_mode", lambda *_, **__: None)
        patched.setattr(sys, "argv", ["ctkd", *arguments])
        main()


@pytest.fixture(scope="session")
def small_run(tmp_path_factory):
    """The folder of a run with teacher, student and baseline, and of its cache, made once for all tests."""
    from ctkd_lightning.run import main

    folder = tmp_path_factory.mktemp("small_run")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.setenv("CTKD_CACHE_DIR", str(folder / "cache"))
        call_main(main, *SMALL, "run_dir=run", "with_baseline=true", "data.test_size=40")
    GlobalHydra.instance().clear()
    return folder


@pytest.fixture
def finished_run(small_run):
    """That run as ``run``, with its cache, in the test's folder."""
    shutil.copytree(small_run, ".", dirs_exist_ok=True)
    return Path("run")
