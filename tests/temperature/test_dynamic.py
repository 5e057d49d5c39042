import pytest
import torch

from ctkd_lightning import Distillation
from ctkd_lightning.errors import UserError
from ctkd_lightning.methods import kd_loss
from ctkd_lightning.temperature import DynamicTemperature, TTMTemperature
from tests.temperature import golden


def closed(s, t, tau):
    x, y = (z.max(-1, keepdim=True).values for z in (s, t))
    assert x.min() > 0.1
    assert y.min() > 0.1
    return 2 * tau * x / (x + y), 2 * tau * y / (x + y), tau.square() * (4 * x * y / (x + y).square()).squeeze(-1)


CLOSED = {"dynamic": closed}


def test_numbers_of_the_authors_code():
    golden.check_rule("dtkd", DynamicTemperature, 4.0)


# of the authors' code: τ is -2.67 and 10.67, infinite, 0 and NaN
@pytest.mark.parametrize(("largest_s", "largest_t"), [(-0.5, 2.0), (-2.0, 2.0), (0.0, 2.0), (-3.0, -1.0), (2.0, -2.0)])
def test_where_the_published_rule_breaks_the_floor_holds(largest_s, largest_t):
    s = (torch.tensor([[0.0, -1.0, -4.0]]) + largest_s).requires_grad_()
    t = torch.tensor([[-2.0, 0.0, -1.0]]) + largest_t
    softening = DynamicTemperature(floor=0.1).soften(s, t)
    x, y = max(largest_s, 0.1), max(largest_t, 0.1)
    assert softening.student.item() == pytest.approx(8 * x / (x + y))
    assert softening.teacher.item() == pytest.approx(8 * y / (x + y))
    loss = kd_loss(s, t, softening)
    loss.backward()
    assert loss > 0
    assert loss.isfinite()
    assert s.grad.isfinite().all()


@pytest.mark.parametrize("floor", [0, -1.0, float("nan"), "small"])
def test_no_floor(floor):
    with pytest.raises(UserError, match="DynamicTemperature's floor must be a finite number above 0, found"):
        DynamicTemperature(floor=floor)


@pytest.mark.parametrize("task", ["binary", "multilabel"])
def test_scores_of_their_own_have_no_largest(task):
    networks = torch.nn.Linear(3, 4), torch.nn.Linear(3, 4)
    with pytest.raises(UserError, match=f"DynamicTemperature compares the scores of classes .* found task='{task}'"):
        Distillation(*networks, temperature=TTMTemperature(DynamicTemperature()), task=task)
