"""What temperatures must know of the training set before the training."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ctkd_lightning.data._labelled import LabelledDataModule
from ctkd_lightning.modules.distillation import DistillationModule
from ctkd_lightning.temperature import EnergyTemperature


def fit_temperatures(module: DistillationModule, data: LabelledDataModule) -> None:
    """Give :class:`~ctkd_lightning.temperature.EnergyTemperature` its thresholds, unless it has some.

    The teacher is asked once for each training sample, not augmented; each process asks for itself, so that all have
    the same.
    """
    engine = module.distillation
    without = [t for t in engine.temperatures if isinstance(t, EnergyTemperature) and t.low is None]
    if not without:
        return
    loader = data.plain_training_set()

    @torch.no_grad()
    def logits() -> Iterator[Tensor]:
        for inputs, target, *_ in loader:
            engine.teacher.to(inputs.device)
            found = engine.run_teacher(module.images_in_layout(inputs)).logits
            yield engine.scores.logits(found, "teacher", engine.scores.find_class_dim(found, target))

    first, *others = without
    first.fit(logits())
    for other in others:  # of the same configuration
        other.low, other.high = first.low, first.high
