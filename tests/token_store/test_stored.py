import pytest
import torch

from ctkd_lightning.methods import linear_kd_loss
from ctkd_lightning.token_store import StoredTokens
from ctkd_lightning.token_store._basis import Basis

B, T, V, R, K = 3, 5, 11, 2, 3


@pytest.fixture
def stored():
    generator = torch.Generator().manual_seed(0)
    basis = Basis(torch.randn(V, generator=generator), torch.randn(V, R, generator=generator))
    coefficients = torch.randint(-127, 128, (B, T, R), generator=generator, dtype=torch.int8)
    scale = torch.rand(B, T, 1, generator=generator).half() / 50
    ids = torch.rand(B, T, V, generator=generator).argsort(dim=-1)[..., :K]
    return StoredTokens(coefficients, scale, torch.randn(B, T, K, generator=generator).half(), ids, basis)


def by_hand(stored):
    """The formula, entry by entry."""
    logits = torch.empty(B, T, V, dtype=torch.float64)
    for b in range(B):
        for t in range(T):
            for v in range(V):
                value = float(stored.basis.mean[v])
                for j in range(R):
                    c = float(stored.scale[b, t, 0]) * int(stored.coefficients[b, t, j])
                    value += c * float(stored.basis.directions[v, j])
                for j in range(K):
                    value += float(stored.residual[b, t, j]) if int(stored.ids[b, t, j]) == v else 0.0
                logits[b, t, v] = value
    return logits


def test_logits_are_the_formula(stored):
    assert stored.shape == (B, T, V)
    torch.testing.assert_close(stored.logits(torch.float64), by_hand(stored), atol=1e-12, rtol=0)
    assert stored.logits().dtype == torch.float32


@pytest.mark.parametrize("kept", [None, torch.tensor([1, 4, 14])])
@pytest.mark.parametrize("step", [1, 4, 100])
def test_chunks_are_its_rows(stored, step, kept):
    chunks = [chunk.clone() for chunk in stored.chunks(torch.float64, kept)(step)]
    expected = by_hand(stored).flatten(0, 1)
    torch.testing.assert_close(torch.cat(chunks), expected if kept is None else expected[kept], atol=1e-12, rtol=0)
    assert all(len(chunk) <= step for chunk in chunks)


@pytest.mark.parametrize("masked", [False, True])
def test_the_linear_heads_loss_of_it_is_that_of_its_logits(stored, masked):
    generator = torch.Generator().manual_seed(1)
    hidden, weight = (torch.randn(shape, generator=generator).double() for shape in ((B, T, 4), (V, 4)))
    tau = torch.tensor(3.0, dtype=torch.float64)
    mask = torch.arange(B * T).view(B, T) % 3 > 0 if masked else None

    def gradients(**teacher):
        inputs = [x.clone().requires_grad_() for x in (hidden, weight, tau)]
        loss = linear_kd_loss(*inputs, mask=mask, **teacher)
        return [loss.detach(), *torch.autograd.grad(loss, inputs)]

    of_store, of_logits = gradients(teacher_store=stored), gradients(teacher_logits=by_hand(stored))
    for a, b in zip(of_store, of_logits, strict=True):
        assert float((a - b).norm()) <= 1e-8 * float(b.norm())


def test_no_positions_have_no_logits(stored):
    empty = StoredTokens(
        *(x[:0] for x in (stored.coefficients, stored.scale, stored.residual, stored.ids)), stored.basis
    )
    assert empty.logits().shape == (0, T, V)
