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


def test_anchors_are_those_of_all_processes_together(results, tmp_path):
    first, second = (result["retinanet"] for result in results)
    assert first == second
    alone = ddp_script.run("retinanet", tmp_path, DataLoader(ddp_script.samples(), batch_size=2, collate_fn=collated))
    assert torch.tensor(first["weights"]) == pytest.approx(torch.tensor(alone["weights"]), abs=1e-5)
    assert first["temperature"] == pytest.approx(alone["temperature"], abs=1e-5)
    assert abs(alone["temperature"] - 2.5) > 1e-3
    assert first["losses"] == pytest.approx(alone["losses"], rel=1e-4)


@pytest.mark.parametrize("kind", ["rcnn", "ssd"])
def test_both_end_with_the_same(results, kind):
    first, second = (result[kind] for result in results)
    assert first == second
    assert torch.tensor(first["weights"]).isfinite().all()
    assert first["losses"]["train/kd"] > 0
