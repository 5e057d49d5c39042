import numpy as np
import pytest
import torch

from ctkd_lightning.errors import UserError
from ctkd_lightning.token_store._basis import Basis, basis_of_rows, centred
from ctkd_lightning.token_store._records import Encoder, Layout, token_marks
from ctkd_lightning.token_store._stored import stored_tokens

V = 40


def random_logits(n=100, seed=0):
    generator = torch.Generator().manual_seed(seed)
    wide = torch.randn(n, 8, generator=generator) @ torch.randn(8, V, generator=generator)
    return wide + 0.3 * torch.randn(n, V, generator=generator)


def encoder(rank=8, top=5, bits=8):
    return Encoder(basis_of_rows(random_logits(seed=1)).truncated(rank), Layout(rank, top, V, bits))


@pytest.mark.parametrize(("vocabulary", "nbytes"), [(2**16, 64 + 2 + 16 * 4 + 2), (2**16 + 1, 64 + 2 + 16 * 6 + 2)])
def test_bytes_of_a_token(vocabulary, nbytes):
    assert Layout(64, 16, vocabulary).nbytes == nbytes
    assert Layout(64, 16, vocabulary, bits=16).nbytes == nbytes + 64


def test_the_largest_logits_come_out_exactly():
    """Up to the constant that the centring takes, as float16 holds numbers below 8."""
    logits = random_logits()
    encode = encoder()
    kept = stored_tokens(encode(logits, torch.zeros(100)), encode.basis).logits()
    exact = centred(logits)
    above, ids = exact.topk(5, dim=1)
    torch.testing.assert_close(kept.gather(1, ids), above, atol=5e-3, rtol=0)
    others = torch.ones_like(exact, dtype=torch.bool).scatter_(1, ids, False)
    assert (kept - exact)[others].abs().mean() > 0.05  # the others are what the coefficients say


def test_the_coefficients_are_least_squares():
    logits, encode = random_logits(), encoder(top=0, bits=16)
    kept = stored_tokens(encode(logits, torch.zeros(100)), encode.basis).logits().numpy()
    exact = centred(logits).numpy().astype(float)
    mean, directions = (x.numpy().astype(float) for x in (encode.basis.mean, encode.basis.directions))
    found, *_ = np.linalg.lstsq(directions, (exact - mean).T, rcond=None)
    np.testing.assert_allclose(kept, mean + (directions @ found).T, atol=2e-3)


def test_a_scale_of_each_token_and_none_for_what_is_the_mean():
    basis = Basis(torch.arange(V) - (V - 1) / 2.0, torch.eye(V)[:, 0:4:2] - torch.eye(V)[:, 1:4:2])
    encode = Encoder(basis, Layout(2, 0, V))
    logits = basis.mean + torch.tensor([[0.0, 0.0], [1000.0, -500.0], [1e-2, 5e-3]]) @ basis.directions.T
    kept = stored_tokens(encode(logits, torch.zeros(3)), basis).logits()
    for row, size in enumerate((0.0, 1000.0, 1e-2)):
        assert (kept - logits)[row].abs().max() < size / 127 + 1e-4


def test_the_text_is_known_by_16_bits_of_its_tokens():
    assert token_marks(torch.tensor([5, 65_535, 65_536 + 7])).tolist() == [5, 65_535, 7]


@pytest.mark.parametrize(("bad", "words"), [(float("-inf"), "NaN or infinite"), (1e9, "beyond the range of float16")])
def test_logits_that_cannot_be_kept(bad, words):
    logits = random_logits()
    logits[3, 4] = bad
    with pytest.raises(UserError, match=words):
        encoder()(logits, torch.zeros(100))


def test_a_token_that_is_far_from_all_of_the_sample():
    basis = Basis(torch.zeros(V), 1e-4 * (torch.eye(V)[:, :1] - torch.eye(V)[:, 1:2]))
    with pytest.raises(UserError, match=r"as far from the sample's mean .* give more documents"):
        Encoder(basis, Layout(1, 2, V))(100 * torch.eye(V)[:1], torch.zeros(1))
