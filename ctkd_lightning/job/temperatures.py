"""The temperatures of the training samples, epoch by epoch, where each sample has its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray

from ctkd_lightning._reading import read_json
from ctkd_lightning._resuming import of_all_processes, of_this_process
from ctkd_lightning.callbacks._temperature_histogram import BINS, HIGH, LOW, TemperatureHistogram
from ctkd_lightning.errors import UserError
from ctkd_lightning.job.run_directory import RunDirectory
from ctkd_lightning.temperature import Temperature

_KEY = "ctkd_lightning.sample_temperatures"  # in a checkpoint
_MOST_BINS = 10_000


@dataclass
class SampleTemperatures:
    """Histograms of τ, ``temperatures.json`` of a run.

    Attributes:
        edges: (bins + 1,), of the bins, at equal distances in log τ.
        counts: from each epoch, counted from 1, to the samples in each bin, (bins,).
    """

    edges: NDArray[np.float64]
    counts: dict[int, NDArray[np.int64]]

    def write(self, run: RunDirectory) -> None:
        """Write the run's file; of each epoch the bins from the first to the last that is not empty.

        Raises:
            UserError: the file cannot be written.
        """
        epochs = {}
        for epoch, counts in self.counts.items():
            filled = counts.nonzero()[0]
            first, last = (int(filled[0]), int(filled[-1])) if len(filled) else (0, -1)
            epochs[epoch] = {"first_bin": first, "counts": counts[first : last + 1].tolist()}
        content = {"low": self.edges[0], "high": self.edges[-1], "bins": len(self.edges) - 1, "epochs": epochs}
        run.write(run.temperatures, json.dumps(content) + "\n")

    @classmethod
    def read(cls, run: RunDirectory) -> SampleTemperatures | None:
        """Those of a run; ``None`` where it has none.

        Raises:
            UserError: a damaged file.
        """
        if not run.temperatures.is_file():
            return None
        try:
            content = read_json(run.temperatures)
            bins = content["bins"]
            if not isinstance(bins, int) or not 0 < bins <= _MOST_BINS:
                raise ValueError(f"{bins} bins")
            counts = {}
            for epoch, found in content["epochs"].items():
                counts[int(epoch)] = np.zeros(bins, dtype=np.int64)
                first = found["first_bin"]
                counts[int(epoch)][first : first + len(found["counts"])] = found["counts"]
            return cls(np.geomspace(content["low"], content["high"], bins + 1), counts)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{run.temperatures} is damaged ({error}): delete it, or train the run anew") from error


class KeepTemperatures(Callback):
    """Write ``temperatures.json`` of a run, after each epoch; nothing where τ is one for all samples.

    A resumed run goes on with the file, as it does with ``metrics.csv``.

    Args:
        run: its files.
    """

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self._histogram: TemperatureHistogram | None = None
        self._kept = SampleTemperatures(np.geomspace(LOW, HIGH, BINS + 1), {})
        self._loaded: Mapping[str, Any] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen to the module's temperature; of an earlier part keep the epochs that it finished."""
        temperature = getattr(pl_module, "temperature", None)
        if isinstance(temperature, Temperature) and not temperature.names:
            self._histogram = TemperatureHistogram(temperature)
            if self._loaded is not None:
                self._histogram.load_state_dict(self._loaded)
                self._loaded = None
        if not trainer.is_global_zero:
            return
        try:
            earlier = SampleTemperatures.read(self.run) if trainer.current_epoch else None
        except UserError:  # the training matters more
            earlier = None
        if earlier is not None and len(earlier.edges) == BINS + 1:
            self._kept.counts = {e: counts for e, counts in earlier.counts.items() if e <= trainer.current_epoch}
        else:
            self.run.temperatures.unlink(missing_ok=True)  # of another run in this folder

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep what was heard since the epoch began."""
        if self._histogram is not None:
            checkpoint[_KEY] = of_all_processes(self._histogram.state_dict())

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep it until there is something to listen to."""
        self._loaded = of_this_process(checkpoint.get(_KEY))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the epoch's histogram."""
        counts = self._histogram.counts(trainer.strategy) if self._histogram is not None else None
        if counts is not None and trainer.is_global_zero:
            self._kept.counts[trainer.current_epoch + 1] = counts[:, 0].cpu().numpy()
            self._kept.write(self.run)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stop listening."""
        if self._histogram is not None:
            self._histogram.close()
            self._histogram = None
