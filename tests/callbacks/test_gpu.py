"""What only a GPU can show: float16 with loss scaling, the teacher's device, sharding."""

import pytest
import torch

from ctkd_lightning import CurriculumTemperatureCallback, FixedTemperature, LinearCurriculum
from tests.callbacks import foreign

pytestmark = pytest.mark.gpu
CURRICULUM = LinearCurriculum(epochs=4, start=0.5)


def distil(tmp_path, **settings):
    temperature = settings.pop("temperature", None) or foreign.temperature()
    added = CurriculumTemperatureCallback(CURRICULUM, foreign.teacher(), temperature=temperature)
    module = foreign.Plain()
    foreign.trainer(tmp_path, added, **({"accelerator": "gpu"} | settings)).fit(module, foreign.loader())
    return module.cpu(), added


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("32-true", 1e-5), ("16-mixed", 0.02), ("bf16-mixed", 0.1), ("bf16-true", 0.2)]
)
def test_precisions(tmp_path, precision, tolerance):
    module, added = distil(tmp_path, precision=precision)
    net, value = foreign.by_hand(CURRICULUM)
    assert foreign.difference(module.net, net) <= tolerance
    assert added.temperature.value.item() == pytest.approx(value.item(), abs=tolerance)
    assert added.temperature.value.dtype == torch.float32
    assert {p.device.type for p in (*added.teacher.parameters(), added.temperature.value)} == {"cpu"}  # given back


def test_fsdp_with_a_fixed_temperature(tmp_path):
    module, _ = distil(tmp_path, strategy="fsdp", temperature=FixedTemperature(2.0))
    plain, _ = distil(tmp_path, temperature=FixedTemperature(2.0))
    assert foreign.difference(module.net, plain.net) <= 1e-5
