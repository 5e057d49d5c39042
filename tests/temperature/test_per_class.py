import pytest
import torch

from ctkd_lightning import Distillation, GlobalTemperature
from ctkd_lightning.errors import UserError
from ctkd_lightning.methods import kd_loss
from ctkd_lightning.temperature import PerClassTemperature
from tests.temperature import golden


def closed(s, t, tau):
    assert len(tau.unique()) == s.shape[-1]
    return tau, tau, len(tau) / (1 / tau**2).sum(), s.mean(-1, keepdim=True), t.mean(-1, keepdim=True)


CLOSED = {"per_class": closed}


def test_with_equal_values_it_is_the_global_one():
    s, t = golden.LOGITS
    s = s.clone().requires_grad_()
    classes, one = PerClassTemperature(s.shape[-1]).double(), GlobalTemperature().double()
    losses = []
    for temperature in (classes, one):
        temperature.lambda_.fill_(0.7)
        losses.append(kd_loss(s, t, temperature.soften(s, t)))
        losses[-1].backward()
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(classes.value.grad, one.value.grad)
    torch.testing.assert_close(classes.of_class.grad.sum(), one.value.grad)
    assert classes.of_class.grad.unique().numel() == s.shape[-1]


def test_a_shift_of_all_logits_says_nothing():
    s, t = golden.LOGITS
    temperature = PerClassTemperature(s.shape[-1]).double()
    with torch.no_grad():
        temperature.of_class.copy_(torch.randn(s.shape[-1], generator=torch.Generator().manual_seed(1)))
    losses = [kd_loss(x, t, temperature.soften(x, t)) for x in (s, s + 5.0)]
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("value", [-6.0, 1.0])
def test_no_class_goes_far_from_the_others(value):
    """Of small logits CTKD's gradient is that of their distance, whatever τ is."""
    s, t = (0.01 * x for x in golden.LOGITS)
    s = s.clone().requires_grad_()
    classes = PerClassTemperature(s.shape[-1], initial_value=value).double()
    with torch.no_grad():
        classes.of_class[3] = -30.0
    tau = classes(s, t)
    torch.testing.assert_close(tau[3], 1 + 20 * torch.tensor(value - 1.0).double().sigmoid())
    of_global, of_classes = (torch.autograd.grad(kd_loss(s, t, x), s)[0].abs() for x in (4.0, classes.soften(s, t)))
    assert of_classes.max() <= 7.4 * of_global.max()  # e²


def test_logits_of_other_classes():
    logits = torch.zeros(3, 2)
    with pytest.raises(UserError, match=r"made for 5 classes; found student logits \(3, 2\): pass num_classes=2, as"):
        PerClassTemperature(5)(logits, logits)


def test_it_goes_with_scores_of_their_own():
    engine = Distillation(
        torch.nn.Linear(3, 4), torch.nn.Linear(3, 4), temperature=PerClassTemperature(2), task="multilabel"
    )
    assert engine(torch.randn(5, 3), target=torch.ones(5, 4))["loss"].isfinite()
