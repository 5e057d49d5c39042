"""Values and gradients of the methods' reference implementations, on inputs that a formula gives, in float64."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

_FILE = json.loads(Path(__file__).with_name("golden.json").read_text())

CASES: dict[str, dict] = _FILE["cases"]
TARGET = torch.tensor(_FILE["target"])


def _fill(shape: tuple[int, ...], seed: int, scale: float = 1.0) -> Tensor:
    """An integer hash of the position, spread over [-scale, scale], row-major."""
    values = []
    for j in range(math.prod(shape)):
        q = (j * 2654435761 + seed * 40503) % 2**32
        q ^= q >> 15
        q = (q * 2246822519) % 2**32
        values.append((2 * q / 2**32 - 1) * scale)
    return torch.tensor(values, dtype=torch.float64).reshape(shape)


STUDENT_LOGITS = torch.tensor(_FILE["student_logits"], dtype=torch.float64)
TEACHER_LOGITS = torch.tensor(_FILE["teacher_logits"], dtype=torch.float64)
STUDENT_VECTOR, TEACHER_VECTOR = _fill((8, 64), 11), _fill((8, 96), 12)
STUDENT_MAP, TEACHER_MAP = _fill((8, 6, 8, 8), 13).abs(), _fill((8, 12, 4, 4), 14).abs()
TEACHER_MAP_SAME = _fill((8, 6, 8, 8), 16).abs()


def fill_weights(module: nn.Module) -> nn.Module:
    """Give each matrix or kernel the weights of the golden runs; vectors keep their initial value."""
    module = module.double()
    for i, value in enumerate(module.state_dict().values()):
        if value.ndim >= 2:
            value.copy_(_fill(tuple(value.shape), i, math.sqrt(1.5 / (value.numel() / len(value)))))
    return module


def check(case: str, loss: Callable[[Tensor], Tensor], student: Tensor, rtol: float = 1e-6) -> None:
    """Compare a loss of the student's output, and its gradient there, with a golden case."""
    golden = CASES[case]
    student = student.clone().requires_grad_()
    value = loss(student)
    value.backward()
    assert value.item() == pytest.approx(golden["loss"], rel=rtol)
    assert student.grad.norm().item() == pytest.approx(golden["grad_student_norm"], rel=rtol)
    if "grad_student_first_row" in golden:
        row = torch.tensor(golden["grad_student_first_row"], dtype=torch.float64)
        torch.testing.assert_close(student.grad[0], row, rtol=rtol, atol=1e-10)
