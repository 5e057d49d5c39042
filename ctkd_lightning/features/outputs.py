"""What one network gave for a batch, and what the batch says of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ctkd_lightning.errors import UserError

Pick = Callable[[Any], Tensor]


@dataclass
class NetworkOutput:
    """What one network gave for a batch.

    Attributes:
        logits: (..., C), the classes last: (B, C) for a classifier, (B, H, W, C) for maps, (B, T, C) for sequences,
            (B, L, 2) for L labels of which each is there or not.
        features: feature tensors by their role: ``pooled`` is the vector (B, D) before the classifier, ``last`` the
            last map (B, D, H, W), ``stage1``, ``stage2``, … the maps at the end of each stage, and ``stage1_preact``,
            ``stage2_preact``, … the same before the activation that ends the stage.
        classifier: from pooled features to logits, for the methods that read it.
    """

    logits: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)
    classifier: Callable[[Tensor], Tensor] | None = None

    def feature(self, role: str) -> Tensor:
        """The feature in one role.

        Raises:
            UserError: naming the roles that there are.
        """
        if role not in self.features:
            found = ", ".join(self.features) or "none"
            raise UserError(f"the method needs the feature {role!r}, found {found}: tap a layer for this role")
        return self.features[role]

    @property
    def stages(self) -> list[Tensor]:
        """The stages' maps, from the image to the classifier.

        Raises:
            UserError: there are none.
        """
        roles = sorted(filter(is_stage, self.features), key=stage_number)
        return [self.features[role] for role in roles] or [self.feature("stage1")]

    @property
    def preacts(self) -> list[Tensor]:
        """The stages' maps before the activation, from the image to the classifier.

        Raises:
            UserError: there are none.
        """
        roles = sorted(filter(is_preact, self.features), key=stage_number)
        return [self.features[role] for role in roles] or [self.feature("stage1_preact")]


def brought_features(output: Any) -> Mapping[str, Tensor]:
    """The features that a network's output brings itself, being a :class:`NetworkOutput`; none of any other."""
    return output.features if isinstance(output, NetworkOutput) else {}


def is_stage(role: str) -> bool:
    """Whether a role is one of the maps ``stage1``, ``stage2`` and so on."""
    return re.fullmatch(r"stage\d+", role) is not None


def is_preact(role: str) -> bool:
    """Whether a role is one of the maps ``stage1_preact``, ``stage2_preact`` and so on."""
    return role.endswith("_preact") and is_stage(role.removesuffix("_preact"))


def stage_number(role: str) -> int:
    """The number in a stage's role, or in that of its map before the activation."""
    return int(role.removeprefix("stage").removesuffix("_preact"))


@dataclass(frozen=True)
class Step:
    """What the batch says of the networks' scores.

    The *positions* are the logits' shape without the classes: (B,), (B, H, W), (B, T), (B, L).

    Attributes:
        target: class indices, one a position; ``None`` where the batch has none.
        index: (B,) the samples' positions in the training set.
        mask: one entry a position: false or 0 leaves it out of every term; a mask of floating type weights the others.
    """

    target: Tensor | None = None
    index: Tensor | None = None
    mask: Tensor | None = None


def at_least_float32(x: Tensor) -> Tensor:
    """Widen half precision to float32; leave float32 and float64 alone."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def is_integer(x: Tensor) -> bool:
    """Whether a tensor's type is one of whole numbers."""
    return not (x.is_floating_point() or x.is_complex() or x.dtype == torch.bool)


def pick_logits(output: Any, picker: Pick | None, who: str) -> Tensor:
    """The scores in a network's output.

    Args:
        output: a tensor; a mapping or an object with ``logits``; or anything, if there is a picker.
        picker: from the output to the scores.
        who: ``"student"`` or ``"teacher"``, for the message.

    Returns:
        The scores, in whatever shape they are.

    Raises:
        UserError: there is no tensor to be found.

    Example:
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
