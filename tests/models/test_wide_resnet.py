import torch

from ctkd_lightning.models import create_model
from tests.models.reference import formula_input


def test_dropout_acts_in_training_alone():
    torch.manual_seed(0)
    model = create_model("wrn_16_1", dropout=0.5)
    x = formula_input()
    assert not torch.equal(model(x), model(x))
    model.eval()
    plain = create_model("wrn_16_1").eval()
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model(x), plain(x))


def test_without_dropout_training_repeats_itself():
    model = create_model("wrn_16_1")
    assert torch.equal(model(formula_input()), model(formula_input()))
