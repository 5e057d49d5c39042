"""ONNX: runs without Python."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ctkd_lightning.errors import UserError
from ctkd_lightning.exporting.as_program import traced
from ctkd_lightning.models import StudentDescription
from ctkd_lightning.models._student import assembled

INPUT, OUTPUT = "image", "logits"


class Onnx:
    """For ONNX Runtime and others; the description is the model's ``metadata_props``."""

    def check(self) -> None:
        """Look for the packages.

        Raises:
            UserError: one is missing.
        """
        missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if find_spec(name) is None]
        if missing:
            raise UserError(
                f'format=onnx needs {", ".join(missing)}, which is not installed: pip install "ctkd-lightning[onnx]"'
            )

    def write(self, network: nn.Module, description: StudentDescription, path: Path) -> None:
        """Trace the network and write its graph, weights inside."""
        program = torch.onnx.export(
            traced(assembled(network, description), description),
            dynamo=True,  # the default of later releases of torch
            input_names=[INPUT],
            output_names=[OUTPUT],
            verbose=False,
        )
        assert program is not None  # with dynamo it is there
        path.write_bytes(described(program.model_proto, description))

    def load(self, path: Path) -> Callable[[Tensor], Tensor]:
        """A session of ONNX Runtime, on the CPU and with torch's number of threads."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])

        def run(image: Tensor) -> Tensor:
            return torch.from_numpy(session.run([OUTPUT], {INPUT: image.numpy()})[0])

        return run


def described(model: Any, description: StudentDescription) -> bytes:
    """A model with its description, and without what the exporter noted of this machine's paths."""
    import onnx

    for part in (model.graph, *model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info):
        part.ClearField("metadata_props")
    for initializer in model.graph.initializer:
        initializer.ClearField("metadata_props")
    onnx.helper.set_model_props(model, description.metadata())
    return model.SerializeToString()
