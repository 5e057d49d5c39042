"""The weights, with all that is needed to build the network again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from ctkd_lightning.models import StudentDescription, load_student, save_student


class Safetensors:
    """For :func:`ctkd_lightning.models.load_student`."""

    def check(self) -> None:
        """It is always there."""

    def write(self, network: nn.Module, description: StudentDescription, path: Path) -> None:
        """Write weights and description."""
        save_student(network, path, description)

    def load(self, path: Path) -> Callable[[Tensor], Tensor]:
        """Build the network again."""
        return torch.no_grad()(load_student(path))
