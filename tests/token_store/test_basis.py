import numpy as np
import torch

from ctkd_lightning.token_store._basis import basis_of_head, basis_of_rows, centred


def sample(n=400, width=6, vocabulary=30):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(n, width, generator=generator) * torch.tensor([4.0, 2, 1, 0.5, 0.25, 0.125]) + 1
    weight, bias = torch.randn(vocabulary, width, generator=generator), torch.randn(vocabulary, generator=generator)
    return hidden, weight, bias


def test_the_directions_of_rows_are_numpy_s_principal_components():
    hidden, weight, bias = sample()
    rows = hidden @ weight.T + bias
    basis = basis_of_rows(rows)
    x = rows.double().numpy()
    x = x - x.mean(axis=1, keepdims=True)
    _, singular, right = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    assert basis.rank == 6
    deviations = basis.directions.norm(dim=0).numpy()
    np.testing.assert_allclose(deviations, singular[:6] / len(x) ** 0.5, rtol=1e-3)
    cosines = np.abs((right[:6] * (basis.directions.T.numpy() / deviations[:, None])).sum(axis=1))
    np.testing.assert_allclose(cosines, 1, atol=1e-4)
    np.testing.assert_allclose(basis.mean.numpy(), x.mean(axis=0), atol=1e-4)


def test_a_head_s_directions_are_those_of_its_logits():
    hidden, weight, bias = sample()
    of_head, of_rows = basis_of_head(hidden, weight, bias), basis_of_rows(hidden @ weight.T + bias)
    torch.testing.assert_close(of_head.mean, of_rows.mean, atol=1e-4, rtol=1e-4)
    wide = slice(0, 4)  # the narrowest are widened on purpose, for what a sample does not show
    torch.testing.assert_close(
        of_head.directions[:, wide].norm(dim=0), of_rows.directions[:, wide].norm(dim=0), atol=0, rtol=0.02
    )
    gram = of_head.directions.T @ of_head.directions
    assert (gram - gram.diag().diag()).abs().max() < 1e-3 * gram.diag().max()


def test_all_of_a_head_s_directions_give_any_logits():
    hidden, weight, bias = sample()
    basis = basis_of_head(hidden[:3], weight, bias)  # a sample of three shows two directions of six
    logits = centred(hidden @ weight.T + bias)
    coefficients = (logits - basis.mean) @ basis.projection()
    assert basis.rank == 6
    torch.testing.assert_close(basis.mean + coefficients @ basis.directions.T, logits, atol=2e-3, rtol=1e-3)
