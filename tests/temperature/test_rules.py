"""Ways of softening as temperatures, for any method: the reference's numbers, closed forms, and what they hear."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from ctkd_lightning import FixedTemperature, GlobalTemperature, Softening
from ctkd_lightning.methods import dkd_loss, kd_loss, lskd_loss, normkd_loss, wttm_loss
from ctkd_lightning.temperature import LSKDTemperature, NormKDTemperature, TTMTemperature, WTTMTemperature

CLOSE = {"rtol": 1e-6, "atol": 1e-9, "check_dtype": False}


def logits(*shape, seed=0):
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


GOLDEN = json.loads((Path(__file__).parent / "golden_rules.json").read_text())
RULES = {
    "normkd_1": (NormKDTemperature, 1.0),
    "normkd_2": (NormKDTemperature, 2.0),
    "lskd_2": (LSKDTemperature, 2.0),
    "lskd_4": (LSKDTemperature, 4.0),
    "ttm_gamma0.1": (TTMTemperature, 10.0),
    "ttm_gamma0.25": (TTMTemperature, 4.0),
    "wttm_gamma0.2": (WTTMTemperature, 5.0),
    "wttm_gamma0.25": (WTTMTemperature, 4.0),
}


@pytest.mark.parametrize("name", RULES)
def test_numbers_of_the_authors_code(name):
    rule, tau = RULES[name]
    case = {key: torch.tensor(value, dtype=torch.float64) for key, value in GOLDEN["cases"][name].items()}
    student, teacher = (torch.tensor(GOLDEN[f"{who}_logits"], dtype=torch.float64) for who in ("student", "teacher"))
    softening = rule(FixedTemperature(tau)).soften(student.requires_grad_(), teacher)
    for key, found in (("tau_student", softening.student), ("tau_teacher", softening.teacher)):
        torch.testing.assert_close(found.squeeze(-1) if found.ndim else found, case[key], **CLOSE)
    torch.testing.assert_close(softening.scale, case["factor"], **CLOSE)
    loss = kd_loss(student, teacher, softening)
    torch.testing.assert_close(loss, case["loss"], **CLOSE)
    torch.testing.assert_close(torch.autograd.grad(loss, student)[0], case["grad_student"], **CLOSE)


def deviation(x):
    return x.std(-1, keepdim=True)


# by rule: τ of the student, τ of the teacher, the factor, of a base τ
CLOSED = {
    LSKDTemperature: lambda s, t, tau: (tau * deviation(s), tau * deviation(t), torch.tensor(tau**2)),
    NormKDTemperature: lambda s, t, tau: (
        tau * deviation(s),
        tau * deviation(t),
        (tau * deviation(t)).square().squeeze(-1),
    ),
    TTMTemperature: lambda s, t, tau: (torch.tensor(1.0), torch.tensor(tau), torch.tensor(1.0)),
    WTTMTemperature: lambda s, t, tau: (torch.tensor(1.0), torch.tensor(tau), t.softmax(-1).pow(1 / tau).sum(-1)),
}


@pytest.mark.parametrize("rule", CLOSED)
@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 7)])
def test_closed_forms(rule, shape):
    s, t, tau = logits(*shape), logits(*shape, seed=1), 2.5
    softening = rule(FixedTemperature(tau)).soften(s, t)
    tau_s, tau_t, scale = CLOSED[rule](s, t, tau)
    q, p = F.log_softmax(s / tau_s, -1), F.log_softmax(t / tau_t, -1)
    expected = (F.kl_div(q, p, log_target=True, reduction="none").sum(-1) * scale).mean()
    torch.testing.assert_close(kd_loss(s, t, softening), expected, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(softening.scale.expand(shape[:-1]).double(), scale.expand(shape[:-1]).double())


@pytest.mark.parametrize(
    ("rule", "loss"), [(LSKDTemperature, lskd_loss), (NormKDTemperature, normkd_loss), (WTTMTemperature, wttm_loss)]
)
def test_the_method_of_the_name_is_kd_with_the_rule(rule, loss):
    s, t, tau = logits(4, 6), logits(4, 6, seed=1), torch.tensor(3.0, dtype=torch.float64)
    base = FixedTemperature(3.0).double()
    torch.testing.assert_close(kd_loss(s, t, rule(base).soften(s, t)), loss(s, t, tau))


def test_with_another_method():
    s, t, target = logits(4, 6), logits(4, 6, seed=1), torch.tensor([0, 5, 2, 3])
    softening = LSKDTemperature(FixedTemperature(2.0)).soften(s, t)
    standardized = [x / x.std(-1, keepdim=True) for x in (s, t)]
    expected = dkd_loss(*standardized, target, 2.0)
    torch.testing.assert_close(dkd_loss(s, t, target, softening), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("rule", CLOSED)
def test_the_student_is_trained_through_the_rule_and_a_learned_base_against_it(rule):
    base = GlobalTemperature().double()
    base.lambda_.fill_(0.5)
    s, t = logits(3, 5).requires_grad_(), logits(3, 5, seed=1)

    def loss(s, value):
        fixed = FixedTemperature(1.0)
        fixed.tau = 1 + 20 * torch.sigmoid(value)
        return kd_loss(s, t, rule(fixed).soften(s, t))

    value = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (s, value))
    expected = torch.autograd.grad(loss(s, value), value)[0]
    kd_loss(s, t, rule(base).soften(s, t)).backward()
    torch.testing.assert_close(base.value.grad, -0.5 * expected)


def test_distinct_temperatures_by_class():
    s, t = logits(4, 3), logits(4, 3, seed=1)
    tau_t, tau_s = torch.tensor([1.0, 2.0, 4.0]).double(), torch.tensor(2.0).double()
    q, p = F.log_softmax(s / 2, -1), F.log_softmax(t / tau_t, -1)
    expected = 5 * F.kl_div(q, p, log_target=True, reduction="batchmean")
    softening = Softening(tau_s, tau_t, torch.tensor(5.0).double())
    torch.testing.assert_close(kd_loss(s, t, softening), expected)


def test_times():
    softening = Softening.at(torch.tensor([2.0, 3.0]), torch.zeros(2, 5)).times(2.0)
    assert softening.student.flatten().tolist() == [4.0, 6.0]
    assert softening.scale.tolist() == [16.0, 36.0]
