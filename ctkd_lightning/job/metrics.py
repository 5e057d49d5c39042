"""Read a run's ``metrics.csv``, and carry it over into a resumed run."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger

Series = list[tuple[float, float]]


def read_rows(path: Path) -> list[dict[str, float]]:
    """The rows of the file, without their empty cells; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [
            {key: float(cell) for key, cell in row.items() if cell not in ("", None)} for row in csv.DictReader(file)
        ]


def read_series(path: Path) -> dict[str, Series]:
    """(epoch, value) pairs of each metric, the epoch counted from 1 as a reader does."""
    series: dict[str, Series] = defaultdict(list)
    for row in read_rows(path):
        for name in row.keys() - {"epoch", "step"}:
            if "epoch" in row:
                series[name].append((row["epoch"] + 1, row[name]))
    return dict(series)


def carry_over(rows: list[dict[str, float]], logger: CSVLogger, before_epoch: int) -> None:
    """Give a new logger the rows of the epochs before a resumed one: Lightning's logger starts its file anew."""
    logger.experiment.metrics.extend(row for row in rows if row.get("epoch", 0) < before_epoch)
