"""The teacher's boxes as the student's targets."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from ctkd_lightning._masks import entries, mean_over_positions
from ctkd_lightning.detection.output import BOXES
from ctkd_lightning.errors import UserError, suggest
from ctkd_lightning.features.outputs import NetworkOutput, Step, at_least_float32
from ctkd_lightning.methods import Method
from ctkd_lightning.temperature import Softening

Distance = Literal["giou", "smooth_l1"]

_BETA = 1 / 9  # where torchvision's R-CNNs go from the square to the absolute value


def box_kd_loss(
    student: Tensor, teacher: Tensor, *, weight: Tensor | None = None, distance: Distance = "giou"
) -> Tensor:
    r"""Distance of the student's boxes from the teacher's at the same places.

    .. math::
        L = \frac{\sum_i w_i \, d(s_i, t_i)}{\sum_i w_i}, \qquad d = 1 - \mathrm{GIoU} \quad \text{or} \quad
        d = \sum_{x \in \{x_1, y_1, x_2, y_2\}} \mathrm{smooth}_{L_1}\!\left(\frac{s_x - t_x}{l_x}\right)

    with l the teacher's width for x and height for y, one pixel at least, so that neither depends on the boxes' sizes.
    With the generalised intersection over union (Rezatofighi et al., CVPR 2019, https://arxiv.org/abs/1902.09630) it is
    the localisation term of BCKD (Yang et al., ICCV 2023, https://arxiv.org/abs/2308.14286). Computed in float32 or
    wider.

    Args:
        student: (..., 4) as x1, y1, x2, y2, in pixels.
        teacher: the same shape.
        weight: (...), of each place; all alike by default.
        distance: ``"giou"`` or ``"smooth_l1"``.

    Returns:
        A scalar; 0 where no place has a weight.

    Raises:
        UserError: shapes that differ, or another distance.

    Example:
        >>> import torch
        >>> box_kd_loss(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[0.0, 0.0, 2.0, 1.0]]))
        tensor(0.5000)
    """
    _check_distance(distance)
    if student.shape != teacher.shape or student.shape[-1:] != (4,):
        raise UserError(
            f"the student's boxes have shape {tuple(student.shape)} and the teacher's {tuple(teacher.shape)}: both "
            "must be (..., 4) of the same places"
        )
    student, teacher = at_least_float32(student), at_least_float32(teacher)
    between = _giou_distance(student, teacher) if distance == "giou" else _smooth_l1(student, teacher)
    return mean_over_positions(between, weight)


class BoxKD(Method):
    """The teacher's boxes where there are objects: :func:`box_kd_loss` as a term of the loss of detectors.

    Where the classes of the places are assigned, as in R-CNN and SSD, these are the foreground places; in RetinaNet,
    FCOS and SSD each place has the weight that it has in the terms of logits, the teacher's certainty.

    Args:
        weight: factor of the term.
        distance: ``"giou"`` or ``"smooth_l1"``.

    Raises:
        UserError: a setting out of range.
    """

    needs = (BOXES,)
    takes_mask = True

    def __init__(self, weight: float = 1.0, distance: Distance = "giou") -> None:
        super().__init__(weight)
        _check_distance(distance)
        self.distance: Distance = distance

    def entries(self, student: NetworkOutput, step: Step) -> Tensor:
        """The weights of the places."""
        boxes = student.feature(BOXES)
        return entries(_weight(step, boxes), boxes.shape[:-1], boxes.device)

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, step: Step, softening: Softening) -> Tensor:
        """The distance of the boxes."""
        own = student.feature(BOXES)
        return box_kd_loss(own, teacher.feature(BOXES), weight=_weight(step, own), distance=self.distance)


def _weight(step: Step, boxes: Tensor) -> Tensor | None:
    """The weight of each place (...) of boxes (..., 4)."""
    weight = None
    if step.mask is not None:  # of one-against-rest scores an entry for each class, all the same
        weight = step.mask.reshape(*boxes.shape[:-1], -1)[..., 0]
    if step.target is None:
        return weight
    foreground = step.target > 0
    return foreground if weight is None else weight * foreground


def _giou_distance(student: Tensor, teacher: Tensor) -> Tensor:
    from torchvision.ops import generalized_box_iou_loss  # takes as long to import as torch

    distance: Tensor = generalized_box_iou_loss(student, teacher, reduction="none")
    return distance


def _smooth_l1(student: Tensor, teacher: Tensor) -> Tensor:
    sides = (teacher[..., 2:] - teacher[..., :2]).clamp(min=1)
    sides = torch.cat([sides, sides], dim=-1)  # w, h, w, h
    return F.smooth_l1_loss(student / sides, teacher / sides, beta=_BETA, reduction="none").sum(dim=-1)


def _check_distance(distance: object) -> None:
    if distance not in get_args(Distance):
        raise UserError(f"the boxes' distance is {distance!r}: {suggest(str(distance), get_args(Distance))}")
