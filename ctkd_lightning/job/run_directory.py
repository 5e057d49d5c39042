"""The files of a run, by name."""

from __future__ import annotations

import os
from pathlib import Path

from ctkd_lightning.errors import UserError


class RunDirectory:
    """Where a run keeps what it makes.

    Args:
        path: the folder; it need not exist yet.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self.configuration = self.path / ".hydra" / "config.yaml"
        self.summary = self.path / "summary.json"
        self.metrics = self.path / "metrics.csv"
        self.student = self.path / "student.safetensors"
        self.figures = self.path / "figures"
        self.checkpoints = self.path / "checkpoints"
        self.last, self.best = self.checkpoints / "last.ckpt", self.checkpoints / "best.ckpt"

    def __str__(self) -> str:
        """The folder."""
        return str(self.path)

    def write(self, path: Path, text: str) -> None:
        """Write a file of the run, whole or not at all.

        Raises:
            UserError: the folder cannot be written.
        """
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished.write_text(text)
            unfinished.replace(path)
        except OSError as error:
            raise UserError(
                f"cannot write {path}: {error.strerror}; make room or set run_dir to a folder that can be written"
            ) from error

    def resume_from(self, resume: str | None) -> Path | None:
        """The checkpoint to go on from.

        Args:
            resume: a file; or ``"auto"``, the run's last checkpoint where there is one.
        """
        if resume != "auto":
            return Path(resume).expanduser() if resume else None
        return self.last if self.last.is_file() else None
