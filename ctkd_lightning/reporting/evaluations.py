"""What ``evaluate`` has found of the runs: how sure their networks are, how they follow the teacher, what they cost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ctkd_lightning.job.evaluation_summary import Evaluation, NetworkEvaluation, read_evaluation
from ctkd_lightning.reporting.runs import ALONE, ReportedRun
from ctkd_lightning.reporting.tables import NONE, Cell, Column, Table, count, number

_ROLES = {"teacher": "teacher", "student": "student", "baseline": ALONE}


def evaluation_table(runs: list[ReportedRun], named: Mapping[Path, str], missing: list[str]) -> Table | None:
    """A row for each network of each run with an ``evaluation.json``; ``None`` where no run has one.

    Args:
        runs: those that count.
        named: their names on the page.
        missing: is given a line for each file that cannot be read.
    """
    rows, times = [], set()
    for run in runs:
        found, name = read_evaluation(run.files), named[run.files.path]
        if found is None:
            if run.files.evaluation.is_file():
                missing.append(f"{name}: {run.files.evaluation.name} is damaged; evaluate the run again")
            continue
        rows += [_row(f"{name}, {_ROLES.get(role, role)}", network) for role, network in found.networks.items()]
        times.add(_times(found))
    if not rows:
        return None
    words = (
        "ECE is the expected calibration error in 15 bins; agreement is the share of samples with the teacher’s guess, "
        f"KL the divergence from it at τ = 1. Times are medians: {'; '.join(sorted(times))}."
    )
    titles = ("top-1 %", "top-5 %", "NLL", "ECE", "Brier score", "agreement %", "KL", "parameters", "multiply-adds")
    columns = [Column("network", words=True), *map(Column, (*titles, "ms, 1 image", "images/s"))]
    return Table("evaluations", "Networks on the test data", columns, rows, words=words)


def _row(name: str, network: NetworkEvaluation) -> list[Cell]:
    quality, agreement, cost = network.quality, network.agreement, network.cost
    texts = [number(quality.top1), number(quality.top5)]
    texts += [_small(value) for value in (quality.nll, quality.ece, quality.brier)]
    texts += [number(agreement.top1), _small(agreement.kl)] if agreement else [NONE, NONE]
    texts += [count(cost.parameters), count(cost.macs), number(cost.latency_ms), count(cost.images_per_second)]
    return [Cell(name, network.name), *map(Cell, texts)]


def _small(value: float | None) -> str:
    return NONE if value is None else f"{value:.4f}"


def _times(found: Evaluation) -> str:
    where = f"{found.threads} CPU threads" if found.device == "cpu" else found.device
    return f"{where}, {found.batch_size} images at once for images/s"
