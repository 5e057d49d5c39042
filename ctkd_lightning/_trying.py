"""Networks and methods are tried on an example: what does not fit is told in a line, before the training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ctkd_lightning._across_processes import processes
from ctkd_lightning._scores.batches import tensors_of
from ctkd_lightning._term_inputs import TermInputs
from ctkd_lightning.errors import UserError
from ctkd_lightning.features.outputs import NetworkOutput, Step
from ctkd_lightning.methods import Method
from ctkd_lightning.temperature import Softening


def tried(role: str, run: Callable[..., NetworkOutput], *args: Any, **kwargs: Any) -> NetworkOutput:
    """Run a network on an example; what it cannot take is told in a line."""
    try:
        return run(*args, **kwargs)
    except UserError:
        raise
    except Exception as error:
        shapes = ", ".join(str(tuple(x.shape)) for x in tensors_of([*args, kwargs]))
        message = " ".join(str(error).split())
        raise UserError(
            f"the {role} cannot take inputs of shape {shapes or 'none'} ({type(error).__name__}: {message}): take the "
            f"image size that it was made for, as with image_size= of the data, or another {role}"
        ) from error


def build_method(name: str, method: Method, inputs: TermInputs, student: NetworkOutput, teacher: NetworkOutput) -> None:
    """Let a method make what it needs of an example, and try it.

    Raises:
        UserError: it does not fit what the networks gave.
    """
    try:
        method.build(student, teacher)
        method.to(student.logits.device).eval()
        term_of(method, inputs.for_method(name, method))
    except UserError:
        raise
    except (RuntimeError, IndexError, ValueError) as error:
        found = "; ".join(
            f"{who}'s {role} {tuple(feature.shape)}"
            for who, output in (("student", student), ("teacher", teacher))
            for role, feature in output.features.items()
        )
        raise UserError(
            f"method {name} does not fit the features of student and teacher ({found}): {error}; name other layers in "
            "student_layers and teacher_layers, or take another method"
        ) from error
    method.train().requires_grad_(method.full_weight > 0)


def term_of(method: Method, inputs: tuple[NetworkOutput, NetworkOutput, Step, Softening]) -> Tensor:
    """A method's loss; zero, with gradients, where no sample is left."""
    student = inputs[0].logits
    if student.numel() or processes() > 1:  # others may have samples, and wait for this process's gradients
        return method(*inputs)
    return 0.0 * student.sum()  # the mask keeps nothing
