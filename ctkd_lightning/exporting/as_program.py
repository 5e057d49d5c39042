"""A program of ``torch.export``: runs without this package."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ctkd_lightning.models import StudentDescription
from ctkd_lightning.models._student import assembled

METADATA = "metadata.json"
"""The extra file with the description."""


class TorchExport:
    """For ``torch.export.load``; the description is the extra file :data:`METADATA`."""

    def check(self) -> None:
        """It is always there."""

    def write(self, network: nn.Module, description: StudentDescription, path: Path) -> None:
        """Trace the network and write the program."""
        content = io.BytesIO()
        program = traced(assembled(network, description), description)
        torch.export.save(program, content, extra_files={METADATA: json.dumps(description.metadata(), indent=2)})
        path.write_bytes(content.getvalue())

    def load(self, path: Path) -> Callable[[Tensor], Tensor]:
        """Load the program."""
        run: Any = torch.export.load(io.BytesIO(path.read_bytes())).module()
        return torch.no_grad()(run)


def traced(network: nn.Module, description: StudentDescription) -> ExportedProgram:
    """The network's program, for any batch size."""
    size = description.image_size
    example = torch.zeros(2, len(description.mean), size, size)
    with torch.no_grad():
        program = torch.export.export(network, (example,), dynamic_shapes=({0: Dim("batch")},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of the machine that exports are nobody else's business
    return program
