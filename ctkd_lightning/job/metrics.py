"""A run's ``metrics.csv``: each row once, whatever stopped the run and however often it went on."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from torch import Tensor

from ctkd_lightning._files import written_whole
from ctkd_lightning._reading import read_text
from ctkd_lightning._words import printable

Series = list[tuple[float, float]]
Row = dict[str, float]

_WHOLE = {"epoch", "step"}
_MOST = 2**30  # bytes
_KEY = "ctkd_lightning.metrics"  # in a checkpoint


def read_rows(path: Path) -> list[Row]:
    """The rows of the file, without their empty cells; none where there is no file.

    Raises:
        ValueError: what is in it is no such table.
        UserError: what is there is no file.
    """
    try:
        rows = csv.DictReader(io.StringIO(read_text(path, _MOST), newline=""))
        return [{printable(key): float(cell) for key, cell in row.items() if cell not in ("", None)} for row in rows]
    except FileNotFoundError:
        return []
    except (csv.Error, TypeError) as error:  # TypeError: more cells than columns
        raise ValueError(str(error)) from error


def read_series(path: Path) -> dict[str, Series]:
    """(epoch, value) pairs of each metric, the epoch counted from 1 as a reader does."""
    series: dict[str, Series] = defaultdict(list)
    for row in read_rows(path):
        for name in row.keys() - {"epoch", "step"}:
            if "epoch" in row:
                series[name].append((row["epoch"] + 1, row[name]))
    return dict(series)


class MetricsFile:
    """Rows in memory and in a file that is whole at any moment.

    Args:
        path: the file; that of an earlier run stays until the first rows are written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics: list[Row] = []  # as Lightning calls them
        self._columns: list[str] = []
        self._written = 0

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Keep a row."""
        row = {name: value.item() if isinstance(value, Tensor) else value for name, value in metrics.items()}
        self.metrics.append(row | {"step": len(self.metrics) if step is None else step})

    def log_hparams(self, params: Mapping[str, Any]) -> None:
        """The configuration is kept elsewhere."""

    def save(self) -> None:
        """Write what is new: behind the other rows, or all of them where a column is."""
        new = self.metrics[self._written :]
        if not new:
            return
        columns = sorted(set(self._columns).union(*new))
        if self._written and columns == self._columns:
            with self.path.open("a", newline="") as file:
                file.write(_text(new, columns))  # in one piece
        else:
            with written_whole(self.path) as partial:
                partial.write_text(_text(self.metrics, columns, header=True), newline="")
        self._columns, self._written = columns, len(self.metrics)

    def begin_with(self, rows: Iterable[Row]) -> None:
        """Take the rows of the earlier part of a run in the place of all others."""
        self.metrics, self._written = [row | {key: int(row[key]) for key in _WHOLE & row.keys()} for row in rows], 0
        self.save()


def _text(rows: list[Row], columns: list[str], *, header: bool = False) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


class MetricsLogger(CSVLogger):
    """Lightning's logger of a CSV file, in a file that a kill leaves whole and a resumed run goes on with.

    Lightning's own removes the earlier file as soon as a run begins, and writes it anew, in place, at each new column.

    Args:
        save_dir: the run directory.
    """

    def __init__(self, save_dir: str | Path) -> None:
        super().__init__(save_dir, name="", version="")

    @property
    @rank_zero_experiment
    def experiment(self) -> MetricsFile:
        """The file."""
        if self._experiment is None:
            self._experiment = MetricsFile(Path(self.log_dir) / "metrics.csv")  # type: ignore[assignment]
        return self._experiment  # type: ignore[return-value]


class KeepRows(Callback):
    """Say in each checkpoint which rows came before it.

    Lightning writes an epoch's last row after the checkpoint of its end: a run that is killed between the two and goes
    on would never have it. So the checkpoint holds that row.

    Args:
        logger: of the run.
    """

    def __init__(self, logger: MetricsLogger) -> None:
        self.logger = logger
        self._at_end = False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here to the next step the epoch's row is to come."""
        self._at_end = True

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """It has come."""
        self._at_end = False

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Likewise."""
        self._at_end = False

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write the rows so far, and tell the checkpoint of them."""
        coming = dict(trainer._logger_connector.metrics["log"]) if self._at_end else {}  # on all processes: it reduces
        if not trainer.is_global_zero:
            return
        file = self.logger.experiment
        file.save()
        pending = {name: float(value) for name, value in coming.items()}
        if pending:
            step = trainer.fit_loop.epoch_loop._batches_that_stepped - 1  # as Lightning counts there
            pending |= {"epoch": trainer.current_epoch, "step": step}
        checkpoint[_KEY] = {"rows": len(file.metrics), "pending": pending}


def rows_before(checkpoint: Mapping[str, Any], path: Path) -> list[Row]:
    """The rows of a run up to a checkpoint.

    Args:
        checkpoint: its content.
        path: the run's file, which may be ahead of it, or lack its last row.
    """
    rows, told = read_rows(path), checkpoint.get(_KEY)
    if not isinstance(told, Mapping):  # of an earlier version
        return [row for row in rows if row.get("epoch", 0) <= checkpoint["epoch"]]
    pending = told["pending"]
    return [*rows[: told["rows"]], *([dict(pending)] if pending else [])]
