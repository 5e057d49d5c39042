import csv
import json
from pathlib import Path

import numpy as np
import pytest

from ctkd_lightning.errors import UserError
from ctkd_lightning.job import RunDirectory
from ctkd_lightning.job.temperatures import SampleTemperatures


def logged(name):
    with Path("run/metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


@pytest.mark.slow
def test_each_epoch_has_its_samples_and_a_resumed_run_goes_on(command):
    settings = ("run_dir=run", "temperature=instance", "curriculum.epochs=1", "data.val_size=0")
    command(*settings, "max_epochs=2")
    first = SampleTemperatures.read(RunDirectory("run"))
    command(*settings, "max_epochs=4", "resume=auto")
    kept = SampleTemperatures.read(RunDirectory("run"))
    assert list(kept.counts) == [1, 2, 3, 4]
    centres = np.sqrt(kept.edges[1:] * kept.edges[:-1])
    for epoch, mean, low, high in zip(
        kept.counts, *(logged(f"ctkd/temperature{key}") for key in ("", "_min", "_max")), strict=True
    ):
        counts = kept.counts[epoch]
        assert counts.sum() == 64  # the training set
        assert np.average(centres, weights=counts) == pytest.approx(mean, rel=0.006)  # half a bin
        filled = counts.nonzero()[0]
        assert kept.edges[filled[0]] <= low * 1.001
        assert kept.edges[filled[-1] + 1] >= high * 0.999
    assert all((kept.counts[epoch] == first.counts[epoch]).all() for epoch in (1, 2))


def test_none_where_one_serves_all(command):
    Path("run").mkdir()
    Path("run/temperatures.json").write_text("of another run in this folder")
    command("run_dir=run")
    assert SampleTemperatures.read(RunDirectory("run")) is None


def test_written_and_read(tmp_path):
    run, edges = RunDirectory(tmp_path), np.geomspace(0.1, 10, 5)
    SampleTemperatures(edges, {1: np.array([0, 3, 0, 1]), 2: np.zeros(4, int)}).write(run)
    assert json.loads(run.temperatures.read_text())["epochs"]["1"] == {"first_bin": 1, "counts": [3, 0, 1]}
    kept = SampleTemperatures.read(run)
    assert kept.edges == pytest.approx(edges)
    assert {epoch: counts.tolist() for epoch, counts in kept.counts.items()} == {1: [0, 3, 0, 1], 2: [0, 0, 0, 0]}


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"low": 1, "high": 2, "bins": 1, "epochs": {"1": {}}}'])
def test_damaged(tmp_path, text):
    run = RunDirectory(tmp_path)
    run.temperatures.write_text(text)
    with pytest.raises(UserError, match="is damaged"):
        SampleTemperatures.read(run)
