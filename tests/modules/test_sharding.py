"""FSDP2 in two gloo processes ends as one process with the whole batch; on a CPU in float32 only."""

import pytest
import torch

from tests.modules.sharded import train
from tests.processes import launch_two


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_student_teacher_and_a_learned_temperature(tmp_path):
    found = launch_two("tests.modules.sharded", tmp_path)
    assert found[0] == found[1]  # the temperature too, which is whole on each
    assert found[0]["teacher"] == found[0]["student"] == ["DTensor"]
    module, _ = train(tmp_path, 16)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    for name, value in module.named_parameters():
        torch.testing.assert_close(torch.tensor(found[0]["weights"][name]), value.detach(), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(saved[name], value.detach(), rtol=1e-4, atol=1e-6)
    assert abs(float(module.temperature.value) - 1.0) > 1e-5  # it has learned
