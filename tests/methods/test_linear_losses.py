"""KD and cross-entropy of linear heads, against both of their logits."""

import pytest
import torch
import torch.nn.functional as F

from ctkd_lightning.errors import UserError
from ctkd_lightning.methods import kd_loss, linear_losses
from tests.methods.test_linear_kd import B, T, V, logits, loss_and_gradients, random, small_chunks, two_heads

__all__ = ["small_chunks"]

TARGET = torch.randint(V, (B, T), generator=torch.Generator().manual_seed(9))
MASKS = {
    "none": None,
    "kept": torch.tensor([[1, 1, 0, 1, 0]] * B).bool(),
    "weights": random(B, T, seed=8).abs() * torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0]),
    "nothing": torch.zeros(B, T).bool(),
}


def losses_of(teacher, mask, **weights):
    guide = {"teacher_hidden": teacher[0], "teacher_weight": teacher[1], "teacher_bias": teacher[2]}

    def without(hidden, weight, bias, tau):
        return linear_losses(hidden, weight, tau, TARGET, student_bias=bias, mask=mask, **guide, **weights)

    def with_logits(hidden, weight, bias, tau):
        student = logits(hidden, weight, bias)
        kd = kd_loss(student, logits(*teacher), tau, mask=mask)
        ce = F.cross_entropy(student.flatten(0, 1), TARGET.flatten(), reduction="none").view(B, T)
        weigh = torch.ones(B, T, dtype=ce.dtype) if mask is None else mask.to(ce.dtype)
        ce = (weigh * ce).sum() / weigh.sum().clamp(min=torch.finfo(ce.dtype).tiny)
        return {"loss": weights["kd_weight"] * kd + weights["ce_weight"] * ce, "kd": kd, "ce": ce}

    return without, with_logits


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize(("kd_weight", "ce_weight"), [(0.9, 0.1), (2.0, 1.0), (1.0, 0.0)])
def test_all_is_that_of_the_logits(mask, kd_weight, ce_weight):
    student, teacher = two_heads()
    without, with_logits = losses_of(teacher, mask, kd_weight=kd_weight, ce_weight=ce_weight)
    inputs = [*student, torch.tensor(3.0, dtype=torch.float64)]
    for name in ("kd", "ce"):
        torch.testing.assert_close(without(*inputs)[name], with_logits(*inputs)[name], rtol=1e-10, atol=1e-12)
    found, expected = (loss_and_gradients(lambda *x, of=of: of(*x)["loss"], inputs) for of in (without, with_logits))
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-8, atol=1e-10)


def test_the_terms_are_for_looking():
    student, teacher = two_heads()
    hidden = student[0].requires_grad_()
    found = linear_losses(hidden, student[1], 2.0, TARGET, teacher_logits=logits(*teacher))
    assert found["loss"].requires_grad
    assert not found["kd"].requires_grad
    assert not found["ce"].requires_grad
    with torch.no_grad():
        again = linear_losses(hidden, student[1], 2.0, TARGET, teacher_logits=logits(*teacher))
    assert {name: float(value) for name, value in again.items()} == {k: float(v.detach()) for k, v in found.items()}


def test_anything_may_stand_where_the_mask_leaves_out():
    student, teacher = two_heads()
    target, mask = TARGET.clone(), torch.ones(B, T).bool()
    target[0, 2], mask[0, 2] = -100, False
    found = linear_losses(student[0], student[1], 2.0, target, teacher_logits=logits(*teacher), mask=mask)
    other = torch.where(target < 0, 3, target)
    expected = linear_losses(student[0], student[1], 2.0, other, teacher_logits=logits(*teacher), mask=mask)
    assert float(found["loss"]) == float(expected["loss"])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"target": TARGET[0]}, "the positions are"),
        ({"target": TARGET.float()}, "of torch.float32"),
        ({"target": TARGET.masked_fill(TARGET[0, 0] == TARGET, -100)}, "target has the class -100"),
        ({"target": TARGET + V}, f"0 to {V - 1}"),
        ({"kd_weight": 0}, "kd_weight must be"),
        ({"ce_weight": -1}, "ce_weight must be"),
    ],
)
def test_what_cannot_be_is_told(changed, message):
    student, teacher = two_heads()
    given = {"target": TARGET, "teacher_logits": logits(*teacher)} | changed
    with pytest.raises(UserError, match=message):
        linear_losses(student[0], student[1], 2.0, **given)
