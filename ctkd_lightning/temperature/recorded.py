"""The temperature that another run had."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from ctkd_lightning._facts import TemperatureFacts
from ctkd_lightning._files import user_path
from ctkd_lightning._reading import read_text
from ctkd_lightning.errors import UserError
from ctkd_lightning.temperature._given import GivenTemperature


class RecordedTemperature(GivenTemperature):
    r"""τ of each epoch as another run logged it: the path of a learned temperature without its adversary.

    A run logs τ at the end of each epoch (of one a sample its mean); here it holds from the epoch's start. An epoch
    without a value has that of the one before, and so have all after the last. Ours, a control.

    Args:
        run: the other run's folder, or its ``metrics.csv``.
        name: of the column.

    Raises:
        UserError: no such file, or no τ in it.

    Example:
        >>> import torch
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "metrics.csv").write_text("epoch,ctkd/temperature\n0,15.0\n1,12.0\n")
        ...     temperature = RecordedTemperature(folder)
        >>> temperature.set_progress(epoch=1)
        >>> temperature(torch.zeros(2, 10), torch.zeros(2, 10))
        tensor(12.)
    """

    facts = TemperatureFacts(
        paper="ours, after Li, AAAI 2023 (CTKD)",
        url="https://arxiv.org/abs/2211.16231",
        what="a constant in each epoch, which another run logged",
        needs="the metrics.csv of another run",
        breaks="a longer training than the recorded one stays at its last τ",
    )

    def __init__(self, run: str | Path | None = None, name: str = "ctkd/temperature") -> None:
        super().__init__()
        if run is None:
            raise UserError(
                "RecordedTemperature replays the τ of another run, found none: pass run=DIR (on the command line "
                "temperature.run=DIR)"
            )
        self.run = user_path(run)
        self.taus = _read(self.run / "metrics.csv" if self.run.is_dir() else self.run, name)
        self.tau.fill_(self.at(0))

    def at(self, epoch: float) -> float:
        """τ of the epoch, counted from 0; of those before the first that has one, its."""
        known = [logged for logged in self.taus if logged <= epoch]
        return self.taus[max(known) if known else min(self.taus)]

    def set_progress(self, epoch: float, fraction: float | None = None) -> None:
        """Go on to the epoch's τ."""
        self.tau.fill_(self.at(epoch))

    def extra_repr(self) -> str:
        """Whose τ it is."""
        return f"run={str(self.run)!r}, tau={float(self.tau):.4g}"


def _read(path: Path, name: str) -> dict[int, float]:
    """τ by epoch; where an epoch has several rows, the last, which is of the part that went on."""
    try:
        table = csv.DictReader(io.StringIO(read_text(path), newline=""))
        rows = [(row.get("epoch"), row.get(name)) for row in table]
        found = {int(float(epoch)): float(tau) for epoch, tau in rows if epoch and tau}
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a run's metrics.csv ({error}): give a run's folder") from error
    columns = [column for column in table.fieldnames or () if column.startswith("ctkd/temperature")]
    if not found:
        raise UserError(
            f"{path} has no {name} of any epoch; its temperatures: {', '.join(columns) or 'none'}: give the folder of "
            "a run that softens logits, and the column with name="
        )
    if not all(0 < tau < float("inf") for tau in found.values()):
        raise UserError(f"{path} has a {name} that is no positive number: give another run")
    return found
