"""Two gloo processes against the loop by hand, which sees both their batches at once."""

import pytest
import torch
from torch.nn.utils import parameters_to_vector

from ctkd_lightning import Distillation, InstanceTemperature, LinearCurriculum, TemperatureFusion
from tests.callbacks import foreign
from tests.processes import launch_two

pytestmark = pytest.mark.slow
CURRICULUM = LinearCurriculum(epochs=4, start=0.5)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    return launch_two("tests.callbacks.ddp_script", folder)


def flat(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


@pytest.mark.parametrize(
    "case",
    [
        "way 1",
        "way 2",
        "way 2, part",
        "way 1, find_unused_parameters",
        "way 2, find_unused_parameters",
        "way 1, manual",
        "way 2, manual",
        "way 2, accumulation",
        "way 2, compiled",
        "module",
        "module without a callback",
        "engine in a loop",
    ],
)
def test_equals_a_loop_by_hand(results, case):
    first, second = (result[case] for result in results)
    assert first == second
    net, value = foreign.by_hand(CURRICULUM, batch_size=16, accumulate=2 if "accumulation" in case else 1)
    assert torch.tensor(first["weights"]) == pytest.approx(flat(net), abs=1e-6)
    assert first["temperature"] == pytest.approx([value.item()], abs=1e-6)
    assert abs(value.item()) > 0.02
    if case != "module without a callback":
        assert {"ctkd/lambda", "ctkd/temperature"} <= set(first["logged"])


def test_temperature_starts_from_the_first_process(results):
    first, second = (result["way 2, per sample"] for result in results)
    assert first == second
    torch.manual_seed(0)
    start = flat(InstanceTemperature(3, hidden=4))
    assert 0 < (torch.tensor(first["temperature"]) - start).abs().max() < 0.5  # it moved, from there


@pytest.mark.parametrize("case", ["way 2, several teachers", "module, several teachers"])
def test_the_fusion_of_several_teachers_is_that_of_one_process_that_sees_both_batches(results, case):
    first, second = (result[case] for result in results)
    assert first == second
    torch.manual_seed(0)
    teachers = {"good": foreign.teacher(), "other": foreign.network(3)}
    fusion = TemperatureFusion(None, list(teachers), "instance", normalize=True)
    start = parameters_to_vector(fusion.parameters()).detach().clone()
    engine = Distillation(
        foreign.student(),
        teachers,
        temperature=foreign.temperature(),
        curriculum=CURRICULUM,
        teacher_fusion=fusion,
    )
    optimizer = torch.optim.SGD(engine.parameters(), lr=foreign.LEARNING_RATE, momentum=foreign.MOMENTUM)
    for epoch in range(foreign.EPOCHS):
        engine.progress(epoch)
        for x, y in zip(*(part.split(16) for part in foreign.samples()), strict=True):
            optimizer.zero_grad()
            engine(x, target=y)["loss"].backward()
            optimizer.step()
    expected = parameters_to_vector(fusion.parameters()).detach()
    assert (expected - start).abs().max() > 0.01
    assert torch.tensor(first["fusion"]) == pytest.approx(expected, abs=1e-5)
    assert torch.tensor(first["weights"]) == pytest.approx(flat(engine.student), abs=1e-5)
    assert {"ctkd/temperature/good", "ctkd/temperature/other", "train/teacher_fusion"} <= set(first["logged"])


def test_teachers_that_differ(results):
    assert all("weights differ between the processes" in result["way 2, teachers differ"] for result in results)
