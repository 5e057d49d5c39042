"""Values and gradients of the reference implementations."""

import json
from pathlib import Path

import torch

from ctkd_lightning import FixedTemperature
from ctkd_lightning.methods import kd_loss

LEARNED = json.loads((Path(__file__).parent / "golden.json").read_text())
RULES = json.loads((Path(__file__).parent / "golden_rules.json").read_text())
LOGITS = tuple(torch.tensor(LEARNED[f"{role}_logits"], dtype=torch.float64) for role in ("student", "teacher"))

_CLOSE = {"rtol": 1e-6, "atol": 1e-9, "check_dtype": False}


def check_rule(case, rule, tau):
    """Compare a rule at a constant τ, and KD's loss and gradient with it, with a golden case."""
    check(case, rule(FixedTemperature(tau)))


def check(case, temperature, *, loss="loss", weight=1.0, step=None):
    """Compare a temperature, and KD's loss and gradient with it, with a golden case.

    ``loss`` is the case's loss that is meant; the case's factor and gradient are ``weight`` times ours.
    """
    expected = {key: torch.tensor(value, dtype=torch.float64) for key, value in RULES["cases"][case].items()}
    student, teacher = (torch.tensor(RULES[f"{who}_logits"], dtype=torch.float64) for who in ("student", "teacher"))
    softening = temperature.soften(student.requires_grad_(), teacher, step)
    for key, found in (("tau_student", softening.student), ("tau_teacher", softening.teacher)):
        torch.testing.assert_close(found.squeeze(-1) if found.shape[-1:] == (1,) else found, expected[key], **_CLOSE)
    torch.testing.assert_close(weight * softening.scale, expected["factor"], **_CLOSE)
    value = weight * kd_loss(student, teacher, softening)
    torch.testing.assert_close(value, expected[loss], **_CLOSE)
    torch.testing.assert_close(torch.autograd.grad(value, student)[0], expected["grad_student"], **_CLOSE)


def one_for_both(student, teacher, tau):
    """The closed form of a temperature that softens both sides alike."""
    return tau, tau, tau.square() if tau.ndim == 0 else tau.squeeze(-1).square()
