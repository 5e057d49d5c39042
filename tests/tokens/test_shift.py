import pytest
import torch

from ctkd_lightning.errors import UserError
from ctkd_lightning.tokens import next_tokens

OUT = -100


def test_each_position_predicts_the_next_token():
    assert next_tokens(torch.tensor([[5, 6, 7], [8, 9, 3]])).tolist() == [[6, 7, OUT], [9, 3, OUT]]
    assert next_tokens(torch.tensor([5, 6, 7])).tolist() == [6, 7, OUT]


def test_the_end_of_a_prompt_predicts_the_first_of_the_answer():
    assert next_tokens(torch.tensor([[OUT, OUT, 7, 8, OUT]])).tolist() == [[OUT, 7, 8, OUT, OUT]]


def test_padding_on_either_side_predicts_nothing_and_is_not_predicted():
    labels = torch.tensor([[0, 0, 5, 6], [5, 6, 0, 0]])  # padding has a number of its own, as tokenisers give it
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 0, 0]])
    assert next_tokens(labels, mask=mask).tolist() == [[OUT, OUT, 6, OUT], [6, OUT, OUT, OUT]]
    assert next_tokens(labels, mask=mask.bool()).tolist() == next_tokens(labels, mask=mask).tolist()


@pytest.mark.parametrize("of", [{"documents": [[3, 3, 3, 9, 9]]}, {"position_ids": [[0, 1, 2, 0, 1]]}])
def test_packed_documents_do_not_predict_each_other(of):
    of = {name: torch.tensor(value) for name, value in of.items()}
    assert next_tokens(torch.tensor([[1, 2, 3, 4, 5]]), **of).tolist() == [[2, 3, OUT, 5, OUT]]


def test_the_ignored_number_and_the_type_are_the_callers():
    labels = torch.tensor([[5, 0, 7]], dtype=torch.int32)
    found = next_tokens(labels, ignore_index=0)
    assert found.tolist() == [[0, 7, 0]]
    assert found.dtype == torch.int32


def test_the_labels_stay_as_they_are():
    labels = torch.tensor([[5, 6, 7]])
    next_tokens(labels)
    assert labels.tolist() == [[5, 6, 7]]


@pytest.mark.parametrize("name", ["mask", "documents", "position_ids"])
def test_other_shapes_are_refused(name):
    with pytest.raises(UserError, match=rf"{name} has shape \(1, 2\) and labels \(1, 3\)"):
        next_tokens(torch.tensor([[5, 6, 7]]), **{name: torch.ones(1, 2)})


def test_embeddings_are_no_labels():
    with pytest.raises(UserError, match="whole numbers"):
        next_tokens(torch.zeros(1, 3))


def test_bytes_get_a_type_that_holds_the_ignored_number():
    found = next_tokens(torch.tensor([[1, 200, 3]], dtype=torch.uint8))
    assert found.tolist() == [[200, 3, OUT]]
    with pytest.raises(UserError, match="whole numbers"):
        next_tokens(torch.ones(1, 3, dtype=torch.bool))
