"""The number of a run that a search makes the most of, or the least."""

from __future__ import annotations

from ctkd_lightning._reading import read_json
from ctkd_lightning.job.run_directory import RunDirectory


def read_objective(run: RunDirectory, name: str) -> float | None:
    """A number of a run's summary.

    Args:
        run: the run's files.
        name: the keys that lead to it, joined by dots, as ``best.top1`` or ``final.ctkd/temperature``.

    Returns:
        ``None`` where the run has no such number.
    """
    try:
        found = read_json(run.summary)
        for key in name.split("."):
            found = found[key]
        return float(found)
    except (OSError, ValueError, TypeError, KeyError):
        return None
