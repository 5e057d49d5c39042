"""Two gloo processes against one that sees both their batches at once."""

import pytest
import torch
from torch.utils.data import DataLoader

from tests.detection import ddp_script
from tests.detection.small import collated
from tests.processes import launch_two

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return launch_two("tests.detection.ddp_script", tmp_path_factory.mktemp("ddp"))


def alone(kind, folder, **settings):
    return ddp_script.run(kind, folder, DataLoader(ddp_script.samples(), batch_size=2, collate_fn=collated), **settings)


def test_anchors_are_those_of_all_processes_together(results, tmp_path):
    first, second = (result["retinanet"] for result in results)
    assert first == second
    expected = alone("retinanet", tmp_path)
    assert torch.tensor(first["weights"]) == pytest.approx(torch.tensor(expected["weights"]), abs=1e-5)
    assert first["temperature"] == pytest.approx(expected["temperature"], abs=1e-5)
    assert abs(expected["temperature"] - 2.5) > 1e-3
    assert first["losses"] == pytest.approx(expected["losses"], rel=1e-4)


def test_foreground_anchors_are_those_of_all_processes_together(results, tmp_path):
    first, second = (result["ssd"] for result in results)  # whose weights stand still
    assert first == second
    assert first["losses"] == pytest.approx(alone("ssd", tmp_path, rate=0.0)["losses"], rel=1e-5)
    assert first["losses"]["train/boxes"] > 0


def test_proposals_of_each_process(results):
    first, second = (result["rcnn"] for result in results)
    assert first == second
    assert torch.tensor(first["weights"]).isfinite().all()
    assert first["losses"]["train/kd"] > 0
