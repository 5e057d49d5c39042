"""The formats by name, and what each must do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from ctkd_lightning.exporting.as_onnx import Onnx
from ctkd_lightning.exporting.as_program import TorchExport
from ctkd_lightning.exporting.as_safetensors import Safetensors
from ctkd_lightning.models import StudentDescription


class Format(Protocol):
    """A kind of file that a network can be written to."""

    def check(self) -> None:
        """Look for what the format needs.

        Raises:
            UserError: it is not installed.
        """

    def write(self, network: nn.Module, description: StudentDescription, path: Path) -> None:
        """Write a network in eval mode, behind its normalisation where ``description`` says so, for any batch size."""

    def load(self, path: Path) -> Callable[[Tensor], Tensor]:
        """Load a file as its users will: from images (B, C, H, W) to logits (B, classes)."""
        ...


FORMATS: dict[str, Format] = {"onnx": Onnx(), "torch_export": TorchExport(), "safetensors": Safetensors()}
