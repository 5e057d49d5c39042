"""What ``evaluate`` has found of the runs: how sure their networks are, how they follow the teacher, what they cost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ctkd_lightning._words import cpu_threads
from ctkd_lightning.job.evaluation_summary import Evaluation, NetworkEvaluation, read_evaluation_file
from ctkd_lightning.job.quality import BINS, percent
from ctkd_lightning.job.run_directory import RunDirectory
from ctkd_lightning.reporting.runs import ALONE, ReportedRun
from ctkd_lightning.reporting.tables import NONE, Cell, Column, Table, count, number

_ROLES = {"teacher": "teacher", "student": "student", "baseline": ALONE}


def evaluation_table(runs: list[ReportedRun], named: Mapping[Path, str], missing: list[str]) -> Table | None:
    """A row for each network of each evaluation of each run; ``None`` where no run has one.

    Args:
        runs: those that count.
        named: their names on the page.
        missing: is given a line for each file that cannot be read.
    """
    rows, times = [], set()
    for run in runs:
        name = named[run.files.path]
        for path in _evaluations(run.files):
            found = read_evaluation_file(path)
            if found is None:
                missing.append(f"{name}: {path.name} is damaged; evaluate the run again")
                continue
            data = _data(found, path, run.files)
            rows += [
                _row(f"{name}, {_ROLES.get(role, role)}", data, network) for role, network in found.networks.items()
            ]
            times.add(_times(found))
    if not rows:
        return None
    words = (
        "Data are the run’s own test samples, or others on which it was evaluated. ECE is the expected calibration "
        f"error in {BINS} bins; agreement is the share of samples with the teacher’s guess, KL the divergence from it "
        f"at τ = 1. Times are medians: {'; '.join(sorted(times))}."
    )
    titles = ("top-1 %", "top-5 %", "NLL", "ECE %", "Brier score", "agreement %", "KL", "parameters", "multiply-adds")
    columns = [Column("network", words=True), Column("data", words=True)]
    columns += map(Column, (*titles, "ms, 1 image", "images/s"))
    return Table("evaluations", "Networks on test data", columns, rows, words=words)


def _evaluations(files: RunDirectory) -> list[Path]:
    """Of a run's own test data first, then of others by name."""
    others = sorted(files.path.glob(files.evaluation_on("*").name))
    return [path for path in (files.evaluation, *others) if path.is_file()]


def _data(found: Evaluation, path: Path, files: RunDirectory) -> Cell:
    samples = f"{count(found.samples)} samples"
    return Cell(found.data, samples if path == files.evaluation else f"not the run’s own; {samples}")


def _row(name: str, data: Cell, network: NetworkEvaluation) -> list[Cell]:
    quality, agreement, cost = network.quality, network.agreement, network.cost
    texts = [number(quality.top1), number(quality.top5), _small(quality.nll), number(percent(quality.ece))]
    texts += [_small(quality.brier)]
    texts += [number(agreement.top1), _small(agreement.kl)] if agreement else [NONE, NONE]
    texts += [count(cost.parameters), count(cost.macs), number(cost.latency_ms), count(cost.images_per_second)]
    return [Cell(name, network.name), data, *map(Cell, texts)]


def _small(value: float | None) -> str:
    return NONE if value is None else f"{value:.4f}"


def _times(found: Evaluation) -> str:
    where = cpu_threads(found.threads) if found.device == "cpu" else found.device
    return f"{where}, {found.batch_size} images at once for images/s"
