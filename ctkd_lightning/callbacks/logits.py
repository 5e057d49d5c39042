"""Pick logits, targets and masks out of what foreign code hands around."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from torch import Tensor

from ctkd_lightning.errors import UserError

_TARGET_KEYS = ("labels", "label", "targets", "target", "y")


def pick_logits(output: Any, picker: Callable[[Any], Tensor] | None, who: str) -> Tensor:
    """The logits in a network's output.

    Args:
        output: a tensor; a mapping or an object with ``logits``; or anything, if there is a picker.
        picker: from the output to the logits.
        who: ``"student"`` or ``"teacher"``, for the message.

    Returns:
        The logits, in whatever shape they are.

    Raises:
        UserError: there is no tensor to be found.

    Example:
        >>> import torch
        >>> pick_logits({"loss": None, "logits": torch.zeros(2, 10)}, None, "student").shape
        torch.Size([2, 10])
    """
    logits: Any
    if picker is not None:
        logits, found = picker(output), "what {who}_logits picked is a {type}"
    elif isinstance(output, Tensor):
        return output
    else:
        logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
        found = "{who} gave a {output} without a tensor of logits"
    if not isinstance(logits, Tensor):
        found = found.format(who=who, type=type(logits).__name__, output=type(output).__name__)
        raise UserError(
            f"{found}: expected a tensor, or an output with .logits; pick them with {who}_logits=lambda output: …"
        )
    return logits


def pick_from_batch(batch: Any, picker: Callable[[Any], Any], what: str, calls: int) -> list[Tensor]:
    """What a callable finds in the batch, one tensor for each of the student's calls in the step.

    Args:
        batch: the first argument of ``training_step``.
        picker: from the batch to a tensor, or to a list of them where the step calls the student several times.
        what: its argument's name, for the message.
        calls: how often the student was called.

    Raises:
        UserError: no tensor, or not one for each call.
    """
    found = picker(batch)
    entries = list(found) if isinstance(found, list | tuple) else [found]
    if len(entries) != calls or not all(isinstance(entry, Tensor) for entry in entries):
        raise UserError(
            f"{what} picked {len(entries)} × {type(entries[0]).__name__ if entries else 'nothing'} from the batch, and "
            f"the step called the student {calls} time(s): return a tensor, or a list with one for each call"
        )
    return entries


def find_target(batch: Any, logits: Tensor, class_dim: int) -> Tensor | MissingTarget:
    """The class indices in a batch, by their usual place: the second entry, or under ``labels`` or ``target``.

    Only integers with one entry for each position of the logits count. Where there are none, a stand-in that says so
    as soon as a method asks for it.
    """
    if isinstance(batch, Mapping):
        candidate = next((batch[key] for key in _TARGET_KEYS if key in batch), None)
    else:
        candidate = batch[1] if isinstance(batch, list | tuple) and len(batch) > 1 else None
    positions = logits.movedim(class_dim, -1).shape[:-1]
    if isinstance(candidate, Tensor) and not candidate.is_floating_point() and candidate.shape == positions:
        return candidate
    return MissingTarget()


class MissingTarget:
    """Stands for a target that was not found: most methods do not need it, and the others learn of it here."""

    def __getattr__(self, name: str) -> NoReturn:
        raise UserError(
            "the method needs the class indices, and the batch has none in a usual place (its second entry, "
            f"{', '.join(_TARGET_KEYS)}): pick them with target=lambda batch: …"
        )
