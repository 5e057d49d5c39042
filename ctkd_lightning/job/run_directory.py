"""The files of a run, by name."""

from __future__ import annotations

from pathlib import Path

from ctkd_lightning._files import PARTIAL, user_path, written_whole
from ctkd_lightning.errors import UserError


class RunDirectory:
    """Where a run keeps what it makes.

    Args:
        path: the folder; it need not exist yet.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = user_path(path)
        self.configuration = self.path / ".hydra" / "config.yaml"
        self.summary = self.path / "summary.json"
        self.metrics = self.path / "metrics.csv"
        self.student = self.path / "student.safetensors"
        self.fused = self.path / "fused.safetensors"
        self.encoders = self.path / "encoders.safetensors"
        self.test_outputs = self.path / "test_outputs.safetensors"
        self.temperatures = self.path / "temperatures.json"
        self.evaluation, self.report = self.path / "evaluation.json", self.path / "report.html"
        self.figures = self.path / "figures"
        self.checkpoints = self.path / "checkpoints"
        self.last, self.best = self.checkpoints / "last.ckpt", self.checkpoints / "best.ckpt"

    def __str__(self) -> str:
        """The folder."""
        return str(self.path)

    def evaluation_on(self, data: str) -> Path:
        """Of the evaluation on other data than the run's own."""
        return self.path / f"evaluation_{data}.json"

    def clear(self) -> None:
        """Remove what an earlier run here has left and this one may not write anew; its checkpoints are replaced."""
        made = [self.metrics, self.test_outputs, self.temperatures, self.evaluation, self.report]
        made += [*self.path.glob("evaluation_*.json"), *self.figures.glob("*.svg"), *self.figures.glob("*.png")]
        for path in made:
            if not path.is_dir():
                path.unlink(missing_ok=True)

    def remove_partial(self) -> None:
        """Remove files that a killed run was about to write; nobody else writes here now."""
        for folder in (self.path, self.checkpoints, self.figures):
            for path in folder.glob(f".*{PARTIAL}"):
                path.unlink(missing_ok=True)

    def write(self, path: Path, text: str) -> None:
        """Write a file of the run, whole or not at all.

        Raises:
            UserError: the folder cannot be written.
        """
        try:
            with written_whole(path) as partial:
                partial.write_text(text)
        except OSError as error:
            raise UserError(
                f"cannot write {path}: {error.strerror}; make room or set run_dir to a folder that can be written"
            ) from error

    def resume_from(self, resume: str | None) -> Path | None:
        """The checkpoint to go on from.

        Args:
            resume: a file; or ``"auto"``, the run's last checkpoint where there is one.

        Raises:
            UserError: neither.
        """
        if resume is not None and not isinstance(resume, str):
            raise UserError(f"resume must be auto or a checkpoint's file, found {resume}")
        if resume != "auto":
            return user_path(resume) if resume else None
        return self.last if self.last.is_file() else None
