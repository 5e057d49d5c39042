"""Post-training quantisation of an ONNX model to int8, by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from ctkd_lightning.exporting.as_onnx import INPUT, described
from ctkd_lightning.models import StudentDescription


def quantize(
    source: Path, description: StudentDescription, path: Path, calibration: Iterable[Tensor] | None = None
) -> None:
    """Write an int8 copy of a float32 model.

    With ``calibration`` (static) weights are int8, convolutions' channel by channel, and activations int8 in the ranges
    that the images showed. Without it (dynamic) both are uint8, weights in one range a layer, activations in those of
    each batch, which needs no images and is slower.

    Args:
        source: the float32 model.
        description: of it.
        path: the copy.
        calibration: batches of images as the model takes them.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with TemporaryDirectory() as folder:
        prepared, result = Path(folder, "prepared.onnx"), Path(folder, "int8.onnx")
        quant_pre_process(source, prepared)
        if calibration is None:
            # ONNX Runtime has no convolution of int8 weights with the uint8 activations of the dynamic scheme
            quantize_dynamic(prepared, result, weight_type=QuantType.QUInt8)
        else:
            quantize_static(prepared, result, _Reader(calibration), per_channel=True)
        path.write_bytes(described(onnx.load(result), replace(description, precision="int8")))


class _Reader:
    """Batches of images as ONNX Runtime asks for them: its ``CalibrationDataReader``."""

    def __init__(self, batches: Iterable[Tensor]) -> None:
        self._batches: Iterator[Tensor] = iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch.numpy()}
