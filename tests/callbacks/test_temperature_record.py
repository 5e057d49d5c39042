from types import SimpleNamespace

import pytest
import torch

from ctkd_lightning.callbacks._temperature_record import TemperatureRecord
from ctkd_lightning.temperature import FixedTemperature, Temperature


class Given(Temperature):
    def forward(self, student_logits, teacher_logits):
        return student_logits[:, :1]


ALONE = SimpleNamespace(all_gather=lambda tensor: tensor)


def test_many_steps_over_several_processes():
    parts = torch.rand(2, 600, 4, 1) * 5 + 1  # 2 processes, 600 steps: more than are kept uncompacted

    moments = []

    def all_gather(tensor):
        moments.append(tensor)
        return torch.stack(moments)

    pair = SimpleNamespace(all_gather=all_gather)
    for process in parts:
        record = TemperatureRecord(Given())
        for step in process:
            record.module(step, None)
        assert len(record._taus) < 300
        statistics = record.collect(pair)[""]
    assert {k: v.item() for k, v in statistics.items()} == pytest.approx(
        {
            "": parts.mean().item(),
            "_std": parts.std(correction=0).item(),
            "_min": parts.min().item(),
            "_max": parts.max().item(),
        },
        rel=1e-5,
    )


def test_each_epoch_starts_anew_and_evaluation_does_not_count():
    record = TemperatureRecord(Given())
    record.module(torch.full((2, 3), 2.0), None)
    assert record.collect(ALONE)[""][""] == 2.0
    record.module.eval()(torch.full((2, 3), 9.0), None)
    assert record.collect(ALONE) == {}
    record.module.train()(torch.full((2, 3), 4.0), None)
    assert record.collect(ALONE)[""]["_max"] == 4.0


def test_scalar_gives_the_latest_and_close_stops_listening():
    record = TemperatureRecord(FixedTemperature(3.0))
    record.module(None, None)
    assert record.collect(ALONE) == {"": {"": 3.0}}
    record.close()
    record.module(None, None)
    assert record.collect(ALONE) == {}


class Several(Temperature):
    names = ("image", "audio", "text")

    def forward(self, student_logits, teacher_logits):
        return student_logits


def test_parts_of_which_some_are_missing_over_several_processes():
    taus = torch.rand(2, 5, 4, 3) * 5 + 1  # processes, steps, samples, parts
    missing = torch.rand(2, 5, 4, 3, generator=torch.Generator().manual_seed(0)) < 0.5
    missing[..., 2] = True  # in all samples
    missing[0, ..., 1] = True  # in one process
    taus[missing] = torch.inf
    moments = []

    def all_gather(tensor):
        moments.append(tensor)
        return torch.stack(moments)

    for process in taus:
        record = TemperatureRecord(Several())
        for step in process:
            record.module(step, None)
        found = record.collect(SimpleNamespace(all_gather=all_gather))
    assert list(found) == ["image", "audio"]
    for part, name in enumerate(found):
        kept = taus[..., part][~missing[..., part]]
        assert {k: v.item() for k, v in found[name].items()} == pytest.approx(
            {
                "": kept.mean().item(),
                "_std": kept.std(correction=0).item(),
                "_min": kept.min().item(),
                "_max": kept.max().item(),
            },
            rel=1e-5,
        )


def test_parts_that_are_the_same_for_all_samples():
    record = TemperatureRecord(Several())
    record.module(torch.tensor([9.0, 9.0, 9.0]), None)
    record.module(torch.tensor([1.0, 2.0, 3.0]), None)
    found = record.collect(ALONE)
    assert {part: value[""].item() for part, value in found.items()} == {"image": 1.0, "audio": 2.0, "text": 3.0}
    assert record.collect(ALONE) == {}
