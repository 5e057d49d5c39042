import math

import pytest
import torch
import torch.nn.functional as F

from ctkd_lightning.errors import UserError
from ctkd_lightning.methods import kd_loss, top_k_kd_loss
from ctkd_lightning.temperature import GlobalTemperature

N, V, K = 6, 9, 3


@pytest.fixture
def both():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(N, V, generator=generator, dtype=torch.float64) for _ in range(2))
    return student, teacher, *teacher.log_softmax(dim=1).topk(K, dim=1)[::-1]


def of_outcomes(student, teacher, ids):
    """torch's divergence of the k + 1 probabilities."""

    def outcomes(logits):
        p = logits.softmax(dim=1)
        top = p.gather(1, ids)
        return torch.cat([top, 1 - top.sum(dim=1, keepdim=True)], dim=1)

    return F.kl_div(outcomes(student).log(), outcomes(teacher), reduction="batchmean")


def test_it_is_the_divergence_of_k_outcomes_and_the_rest(both):
    student, teacher, ids, log_p = both
    inputs = [student.clone().requires_grad_() for _ in range(2)]
    found, expected = top_k_kd_loss(inputs[0], ids, log_p), of_outcomes(inputs[1], teacher, ids)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
    assert found < kd_loss(student, teacher, 1.0)
    gradients = [torch.autograd.grad(loss, x)[0] for loss, x in zip((found, expected), inputs, strict=True)]
    torch.testing.assert_close(*gradients, atol=1e-12, rtol=1e-9)


def test_all_classes_are_kd(both):
    student, teacher, _, _ = both
    log_p, ids = teacher.log_softmax(dim=1).sort(dim=1)
    torch.testing.assert_close(top_k_kd_loss(student, ids, log_p), kd_loss(student, teacher, 1.0))


def test_places_that_are_not_used(both):
    student, _, ids, log_p = both
    padded_ids = torch.cat([ids, torch.full((N, 2), -1)], dim=1)
    padded = torch.cat([log_p, torch.full((N, 2), -math.inf, dtype=torch.float64)], dim=1)
    torch.testing.assert_close(top_k_kd_loss(student, padded_ids, padded), top_k_kd_loss(student, ids, log_p))


def test_a_mask_and_positions(both):
    student, teacher, ids, log_p = both
    mask = torch.tensor([1, 0, 1, 1, 0, 1]).view(2, 3)
    kept = mask.flatten().bool()
    expected = of_outcomes(student[kept], teacher[kept], ids[kept])
    found = top_k_kd_loss(student.view(2, 3, V), ids.view(2, 3, K), log_p.view(2, 3, K), mask=mask)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize(
    ("temperature", "words"),
    [
        (2.0, "at temperature 1 alone, found 2.0:"),
        (None, "at temperature 1 alone, found None:"),
        ("1", "at temperature 1 alone, found '1':"),
        (GlobalTemperature().value, "at temperature 1 alone, found a tensor"),
    ],
)
def test_another_temperature_is_refused(both, temperature, words):
    student, _, ids, log_p = both
    with pytest.raises(UserError, match=words):
        top_k_kd_loss(student, ids, log_p, temperature)


def test_shapes_that_do_not_fit(both):
    student, _, ids, log_p = both
    for wrong in ((ids[:, :2], log_p), (ids, log_p[:3]), (ids[:3], log_p[:3]), (log_p, log_p)):
        with pytest.raises(UserError, match=r"expected \(\.\.\., V\) and twice \(\.\.\., k\)"):
            top_k_kd_loss(student, *wrong)


def test_ids_that_are_no_k_classes(both):
    student, _, ids, log_p = both
    for wrong in (-1, V):
        other = ids.clone()
        other[4, 1] = wrong
        with pytest.raises(UserError, match=f"from 0 to 8, found {wrong}: .*-inf"):
            top_k_kd_loss(student, other, log_p)
    twice = ids.clone()
    twice[2, 1] = twice[2, 0]
    with pytest.raises(UserError, match=f"have class {int(twice[2, 0])} twice"):
        top_k_kd_loss(student, twice, log_p)
    mask = torch.arange(N) != 2  # padding may be anything
    twice[2] = -100
    expected = top_k_kd_loss(student[mask], ids[mask], log_p[mask])
    torch.testing.assert_close(top_k_kd_loss(student, twice, log_p, mask=mask), expected)
