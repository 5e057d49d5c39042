import pytest
import torch

from ctkd_lightning.errors import UserError
from ctkd_lightning.token_store import _choice
from ctkd_lightning.token_store._choice import Sample, choose
from ctkd_lightning.token_store._measuring import worst


def sample(spectrum, vocabulary=64, head=True):
    """Hidden states whose standard deviations are given, and a random head."""
    generator = torch.Generator().manual_seed(0)
    width = len(spectrum)
    hidden = torch.randn(900, width, generator=generator) * torch.tensor(spectrum)
    weight = torch.randn(vocabulary, width, generator=generator)
    logits = hidden @ weight.T
    fitted = hidden[300:] if head else logits[300:]
    return Sample(torch.zeros(300), logits[:300], fitted, (weight, None) if head else None)


STEEP, FLAT = [3.0 * 0.6**j for j in range(24)], [1.0] * 24


@pytest.mark.parametrize("head", [True, False])
def test_few_coefficients_where_the_logits_vary_in_few_directions(head):
    choice = choose(sample(STEEP, head=head), tolerance=0.03, top=4)
    ranks = [candidate.layout.rank for candidate in choice.tried]
    assert ranks in ([4, 8], [4, 8, 16])
    assert choice.candidate.layout.rank == ranks[-1]
    assert not choice.candidate.whole
    assert worst(choice.candidate.errors) <= 0.03 < worst(choice.tried[-2].errors)
    assert choice.measured_on == 300


@pytest.mark.parametrize("head", [True, False])
def test_an_isotropic_head_needs_all_of_them(head):
    choice = choose(sample(FLAT, head=head), tolerance=0.03, top=4)
    assert choice.candidate.layout.rank == 24
    assert choice.candidate.whole


def test_more_bits_where_all_coefficients_do_not_do():
    choice = choose(sample(FLAT), tolerance=0.002, top=4)
    assert (choice.candidate.layout.rank, choice.candidate.layout.bits) == (24, 16)


def test_a_rank_of_the_user_s_is_taken_as_it_is():
    choice = choose(sample(FLAT), tolerance=0.03, top=4, rank=8)
    assert choice.candidate.layout.rank == 8
    assert worst(choice.candidate.errors) > 0.1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tolerance": 1e-9}, "no store of this teacher is within tolerance=1e-09: all 24 coefficients in 16 bits"),
        ({"top": 65}, "top=65 is more than the vocabulary's 64"),
        ({"rank": 25}, "rank=25 is more than the 24 directions"),
    ],
)
def test_what_cannot_be(settings, words):
    with pytest.raises(UserError, match=words):
        choose(sample(FLAT), **{"tolerance": 0.03, "top": 4, **settings})


def test_the_ranks_that_are_tried_ascend():
    assert list(_choice.RANKS) == sorted(set(_choice.RANKS))
