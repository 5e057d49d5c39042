import pytest
import torch

from ctkd_lightning.methods import kd_loss, top_k_kd_loss

pytest.importorskip("tokenizers")
store = pytest.importorskip("benchmarks.store")

N, V, K = 7, 30, 5


@pytest.fixture
def both():
    generator = torch.Generator().manual_seed(0)
    return [3 * torch.randn(N, V, generator=generator, dtype=torch.float64) for _ in range(2)]


def test_a_bucket_is_one_outcome(both):
    teacher, student = both
    log_p, ids = teacher.log_softmax(dim=1).topk(K, dim=1)
    for true_mass in (False, True):
        kept = store.bucket(K, true_mass=true_mass)(teacher, student, 1.0)
        torch.testing.assert_close(kd_loss(student, kept, 1.0), top_k_kd_loss(student, ids, log_p))


@pytest.mark.parametrize("tau", [1.0, 5.0])
def test_the_true_mass_is_that_of_the_temperature(both, tau):
    teacher, student = both
    p, ids = (teacher / tau).softmax(dim=1), teacher.topk(K, dim=1).indices
    for uniform in (False, True):
        kept = (store.bucket(K, true_mass=True, uniform=uniform)(teacher, student, tau) / tau).softmax(dim=1)
        torch.testing.assert_close(kept.gather(1, ids), p.gather(1, ids))
    rest = torch.ones_like(kept, dtype=torch.bool).scatter_(1, ids, False)
    expected = (1 - p.gather(1, ids).sum(dim=1, keepdim=True)) / (V - K)
    torch.testing.assert_close(kept[rest].view(N, -1), expected.expand(N, V - K))


def test_what_is_dropped_has_no_probability(both):
    teacher, student = both
    kept = store.dropped(K)(teacher, student, 4.0)
    p = (kept / 4).softmax(dim=1)
    ids = teacher.topk(K, dim=1).indices
    torch.testing.assert_close(p.gather(1, ids), (teacher.gather(1, ids) / 4).softmax(dim=1))
    assert ((p > 0).sum(dim=1) == K).all()
