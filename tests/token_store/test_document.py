import numpy as np
import pytest
import torch

from ctkd_lightning.errors import UserError
from ctkd_lightning.token_store._document import document

TEXT = torch.tensor([3, 1, 4])


@pytest.mark.parametrize("key", [7, torch.tensor(7), np.int32(7), np.uint64(7)])
def test_keys_of_one_number_are_one_key(key):
    found, text = document(key, TEXT)
    assert type(found) is int
    assert found == 7
    assert text is TEXT


@pytest.mark.parametrize("key", ["7", 7.0, torch.tensor(7.0), torch.tensor([7, 8]), None, 2**63, -(2**63) - 1])
def test_what_is_no_key(key):
    with pytest.raises(UserError, match="key of a document must be a whole number of 64 bits, found") as found:
        document(key, TEXT)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ([3, 1, 4], "found a list"),
        (TEXT[None], r"found shape \(1, 3\) of torch.int64"),
        (TEXT.float(), r"found shape \(3,\) of torch.float32"),
        (TEXT[:0], r"found shape \(0,\) of torch.int64"),
    ],
)
def test_what_is_no_text(tokens, words):
    with pytest.raises(UserError, match=f"document 7: expected token ids.* {words}"):
        document(7, tokens)


def test_labels_are_no_text():
    with pytest.raises(UserError, match="document 7: -100 is no token id"):
        document(7, torch.tensor([3, -100, 4]))
