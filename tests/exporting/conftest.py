"""A run that was never trained, and the command that exports it, in this process."""

import sys

import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from ctkd_lightning.export import main
from ctkd_lightning.job import RunDirectory, Summary
from ctkd_lightning.job.configuration import compose
from ctkd_lightning.job.summary import NetworkSummary
from ctkd_lightning.models import create_model, save_weights
from tests.conftest import SMALL
from tests.models.reference import fill_by_formula

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@pytest.fixture
def run(tmp_path):
    """The folder of a run of small data, whose student has weights filled by a formula."""
    files = RunDirectory(tmp_path / "run")
    files.configuration.parent.mkdir(parents=True)
    settings = compose([*SMALL, f"data.mean={MEAN}", f"data.std={STD}"])
    OmegaConf.save(settings, files.configuration)
    summary = Summary(
        model="small",
        data="fake",
        method="kd",
        temperature="global",
        curriculum="cosine",
        seed=1,
        teacher=NetworkSummary("resnet8"),
        student=NetworkSummary("resnet8"),
        status="complete",
        stage="test",
        final={"ctkd/lambda": 1.0, "ctkd/temperature": 3.25},
    )
    summary.write(files)
    save_weights(filled("resnet8", 4), files.student)
    return files.path


def filled(name, num_classes):
    """A network in eval mode, whose weights are the same on every machine."""
    network = create_model(name, num_classes=num_classes)
    fill_by_formula(network)
    return network.eval()


@pytest.fixture
def export(monkeypatch):
    """Call the command; returns what it exits with, ``None`` where it goes well."""

    def call(*overrides):
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["ctkd-export", *overrides])
        try:
            main()
        except SystemExit as stopped:
            return stopped.code
        return None

    yield call
    GlobalHydra.instance().clear()
