"""Batches of several modalities, all in the training device's memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ctkd_lightning.data._loading.loader import Loader
from ctkd_lightning.data._loading.sampler import EpochSampler
from ctkd_lightning.data._samples import Samples


class MultimodalLoader(Loader[dict[str, Tensor]]):
    """Gathers whole batches on the device, without a wait of the host for the device within an epoch.

    Args:
        samples: moved to the device, for all loaders that share them.
        sampler: the order; its views mean nothing here.
        device: where the batches shall be.
    """

    def __init__(self, samples: Samples, sampler: EpochSampler, device: torch.device) -> None:
        super().__init__(sampler)
        self.samples = samples
        self.device = device

    def _batches(self) -> Iterator[dict[str, Tensor]]:
        samples = self.samples.to(self.device)
        order, _ = self.sampler.order()
        order = order.to(self.device)
        for part in self.sampler.slices():
            index = order[part]
            batch = {name: values.index_select(0, index) for name, values in samples.values.items()}
            yield {**batch, "target": samples.targets.index_select(0, index), "index": index}
