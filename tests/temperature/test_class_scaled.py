import pytest
import torch

from ctkd_lightning import Distillation, FixedTemperature
from ctkd_lightning.errors import UserError
from ctkd_lightning.features.outputs import Step
from ctkd_lightning.methods import kd_loss
from ctkd_lightning.temperature import ClassScaledTemperature
from tests.temperature import golden


def closed(s, t, tau):
    over = tuple(range(s.ndim - 1))
    taus = (tau * (x.var(over, correction=0) + 1e-5).sqrt() for x in (s, t))
    return *taus, torch.ones(()), s.mean(over), t.mean(over)


CLOSED = {"class_scaled": closed}


def test_numbers_of_the_authors_code():
    golden.check("luminet", ClassScaledTemperature(FixedTemperature(4.0)), weight=33.0**2)


def test_what_a_mask_leaves_out_does_not_count():
    s, t = golden.LOGITS
    mask = torch.arange(len(s)) < len(s) - 2
    expected = kd_loss(s[mask], t[mask], ClassScaledTemperature().soften(s[mask], t[mask]))
    s = s.clone()
    s[~mask] = float("nan")
    s = s.masked_fill(~mask[:, None], 0.0)  # as the engine has it
    for kept in (mask, mask.double()):
        softening = ClassScaledTemperature().soften(s, t, Step(mask=kept))
        torch.testing.assert_close(kd_loss(s, t, softening, mask=mask), expected)


def test_a_class_that_is_masked_in_some_samples_has_the_statistics_of_the_others():
    s, t = (x[:, :4].clone() for x in golden.LOGITS)
    s[0, 1] = t[0, 1] = -1e9
    softening = ClassScaledTemperature(FixedTemperature(1.0)).soften(s, t)
    for x, tau, shift in (
        (s, softening.student, softening.student_shift),
        (t, softening.teacher, softening.teacher_shift),
    ):
        assert shift[1].item() == pytest.approx(x[1:, 1].mean().item())
        assert tau[1].item() == pytest.approx((x[1:, 1].var(correction=0) + 1e-5).sqrt().item())


@pytest.mark.parametrize("rows", [0, 1])
def test_a_batch_of_one_or_none_is_finite(rows):
    s, t = (torch.randn(rows, 5, requires_grad=True) for _ in range(2))
    with pytest.warns(UserWarning, match="one sample has no deviation, and its term is zero"):
        softening = ClassScaledTemperature().soften(s, t)
    loss = kd_loss(s, t, softening)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert s.grad.isfinite().all()


def test_scores_of_their_own_have_no_classes():
    networks = torch.nn.Linear(3, 4), torch.nn.Linear(3, 4)
    with pytest.raises(UserError, match="ClassScaledTemperature compares the scores of classes"):
        Distillation(*networks, temperature=ClassScaledTemperature(), task="multilabel")
