import pytest
import torch
from torchvision.ops import generalized_box_iou

from ctkd_lightning.detection import BoxKD, box_kd_loss
from ctkd_lightning.errors import UserError
from ctkd_lightning.methods import NetworkOutput, Step

STUDENT = torch.tensor([[0.0, 0.0, 4.0, 4.0], [1.0, 1.0, 3.0, 9.0], [5.0, 5.0, 6.0, 6.0]])
TEACHER = torch.tensor([[0.0, 0.0, 4.0, 2.0], [1.0, 2.0, 5.0, 8.0], [0.0, 0.0, 2.0, 2.0]])
WEIGHT = torch.tensor([1.0, 0.5, 0.0])


def test_giou_is_that_of_all_pairs_of_boxes():
    distance = 1 - generalized_box_iou(STUDENT, TEACHER).diag()
    torch.testing.assert_close(box_kd_loss(STUDENT, TEACHER), distance.mean())
    torch.testing.assert_close(box_kd_loss(STUDENT, TEACHER, weight=WEIGHT), (distance * WEIGHT).sum() / 1.5)


def test_smooth_l1_is_in_units_of_the_teachers_box():
    first = (1.0 - 1 / 18) + 0  # y2: (4 - 2) / 2
    second = 0 + (1 / 6 - 1 / 18) + (0.5 - 1 / 18) + (1 / 6 - 1 / 18)  # y1, x2, y2 over 4 and 6
    found = box_kd_loss(STUDENT, TEACHER, weight=WEIGHT, distance="smooth_l1")
    assert found.item() == pytest.approx((first + 0.5 * second) / 1.5)


def test_a_teachers_box_without_extent_counts_as_a_pixel():
    point = torch.tensor([[3.0, 3.0, 3.0, 3.0]])
    found = box_kd_loss(point + torch.tensor([0.0, 0.0, 1.0, 0.0]), point, distance="smooth_l1")
    assert found.item() == pytest.approx(1 - 1 / 18)


def test_no_weight_is_no_loss():
    student = STUDENT.clone().requires_grad_()
    loss = box_kd_loss(student, TEACHER, weight=torch.zeros(3))
    loss.backward()
    assert loss == 0
    assert not student.grad.any()


@pytest.mark.parametrize(
    ("step", "weight"),
    [
        (Step(torch.tensor([1, 2, 0])), torch.tensor([True, True, False])),
        (Step(mask=WEIGHT), WEIGHT),
        (Step(torch.tensor([0, 2, 1]), mask=WEIGHT), torch.tensor([0.0, 0.5, 0.0])),
        (Step(mask=WEIGHT[:, None].expand(3, 4)), WEIGHT),  # an entry a class
    ],
)
def test_the_places_that_count(step, weight):
    outputs = [NetworkOutput(torch.zeros(3, 4), {"boxes": boxes}) for boxes in (STUDENT, TEACHER)]
    assert BoxKD()(*outputs, step, None) == box_kd_loss(STUDENT, TEACHER, weight=weight)


def test_what_is_refused():
    with pytest.raises(UserError, match="'l2'"):
        BoxKD(distance="l2")
    with pytest.raises(UserError, match="same places"):
        box_kd_loss(STUDENT, TEACHER[:2])
