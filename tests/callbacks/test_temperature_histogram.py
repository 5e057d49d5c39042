from types import SimpleNamespace

import numpy as np
import torch

from ctkd_lightning.callbacks._temperature_histogram import BINS, HIGH, LOW, TemperatureHistogram
from ctkd_lightning.temperature import FixedTemperature, Temperature

EDGES = np.geomspace(LOW, HIGH, BINS + 1)
ALONE = SimpleNamespace(all_gather=lambda tensor: tensor)


class Given(Temperature):
    def forward(self, student_logits, teacher_logits):
        return student_logits[:, :1]


def test_counts_over_many_steps_and_several_processes():
    parts = (torch.randn(2, 600, 4, 1, generator=torch.Generator().manual_seed(0)) * 2).exp()  # processes, steps
    counts = []

    def all_gather(tensor):
        counts.append(tensor)
        return torch.stack(counts)

    for process in parts:
        histogram = TemperatureHistogram(Given())
        for step in process:
            histogram.module(step, None)
        assert len(histogram._taus) < 300
        found = histogram.counts(SimpleNamespace(all_gather=all_gather))
    assert found[:, 0].tolist() == np.histogram(parts.double().numpy().clip(LOW, HIGH), EDGES)[0].tolist()
    assert histogram.counts(ALONE) is None


def test_what_is_beyond_the_bins_or_missing():
    histogram = TemperatureHistogram(Given())
    histogram.module(torch.tensor([[0.0], [1e-5], [1e6], [torch.inf], [torch.nan]]), None)
    found = histogram.counts(ALONE)[:, 0]
    assert (found[0], found[-1], found.sum()) == (2, 1, 3)


def test_one_for_all_samples_has_none():
    histogram = TemperatureHistogram(FixedTemperature(3.0))
    histogram.module(None, None)
    assert histogram.counts(ALONE) is None
    assert histogram.counts(ALONE) is None
