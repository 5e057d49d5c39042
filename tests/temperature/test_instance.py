import pytest
import torch

from ctkd_lightning import GlobalTemperature, InstanceTemperature
from ctkd_lightning.errors import UserError
from tests.temperature import golden

CLOSED = {"instance": golden.one_for_both}


def test_equals_a_loop_over_samples():
    temperature = InstanceTemperature(num_classes=10, hidden=16).double()
    torch.nn.init.normal_(temperature.out.weight)
    tau = temperature(*golden.LOGITS)
    assert tau.shape == (8, 1)
    for i, (s, t) in enumerate(zip(*golden.LOGITS, strict=True)):
        hidden = torch.cat([s, t]) @ temperature.hidden.weight.T + temperature.hidden.bias
        raw = hidden.clamp(min=0) @ temperature.out.weight.T + temperature.out.bias
        assert tau[i].item() == pytest.approx((1 + 20 / (1 + torch.exp(-raw))).item(), rel=1e-12)


def test_starts_as_the_global_one():
    tau = InstanceTemperature(num_classes=10).double()(*golden.LOGITS)
    torch.testing.assert_close(tau, GlobalTemperature().double()(*golden.LOGITS).expand(8, 1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InstanceTemperature(3, initial_value="1"), "initial_value must be a finite number, found '1'"),
        (lambda: InstanceTemperature(num_classes=0), "num_classes must be a whole number from 1, found 0"),
        (lambda: InstanceTemperature(3, hidden="8"), "hidden must be a whole number from 1, found '8'"),
        (lambda: InstanceTemperature(5)(torch.zeros(2, 3), torch.zeros(2, 3)), "was made for 5 classes; found .*2, 3"),
        (lambda: InstanceTemperature(5)(torch.zeros(2, 5), torch.zeros(2, 3)), "student logits .2, 5. and teacher"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(UserError, match=message):
        make()
