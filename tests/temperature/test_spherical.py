import torch

from ctkd_lightning import FixedTemperature
from ctkd_lightning.methods import kd_loss
from ctkd_lightning.temperature import SphericalTemperature
from tests.temperature import golden


def closed(s, t, tau):
    return tau * s.std(-1, keepdim=True) / t.std(-1, keepdim=True), tau, tau.square()


CLOSED = {"spherical": closed}


def test_numbers_of_the_authors_script():
    golden.check_rule("spherical_kd_script", SphericalTemperature, 4.0)


def test_the_students_spread_has_no_part_in_the_loss():
    s, t = golden.LOGITS
    rule = SphericalTemperature(FixedTemperature(2.0))
    expected = kd_loss(s, t, rule.soften(s, t))
    torch.testing.assert_close(kd_loss(10 * s, t, rule.soften(10 * s, t)), expected, rtol=1e-6, atol=0)


def test_equal_logits_of_either_side_are_finite():
    same, other = torch.ones(3, 5), torch.randn(3, 5)
    for s, t in ((same, other), (other, same), (same, same)):
        s = s.clone().requires_grad_()
        loss = kd_loss(s, t, SphericalTemperature().soften(s, t))
        loss.backward()
        assert loss.isfinite()
        assert s.grad.isfinite().all()
