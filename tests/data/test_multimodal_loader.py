from itertools import chain

import pytest
import torch

from ctkd_lightning.data import Samples
from ctkd_lightning.data._loading.multimodal import MultimodalLoader
from ctkd_lightning.data._loading.sampler import EpochSampler, EvaluationSampler

VECTORS, SERIES = torch.randn(22, 3), torch.randn(22, 2, 5)


def make(device: str = "cpu", **settings) -> MultimodalLoader:
    samples = Samples({"a": VECTORS, "b": SERIES}, torch.arange(22) % 4)
    return MultimodalLoader(samples, EpochSampler(torch.arange(22), 4, seed=1, **settings), torch.device(device))


def indices(batches) -> list[list[int]]:
    return [batch["index"].tolist() for batch in batches]


def test_a_batch_is_what_its_indices_say():
    batches = list(make())
    assert [len(batch["target"]) for batch in batches] == [4, 4, 4, 4, 4, 2]
    for batch in batches:
        assert list(batch) == ["a", "b", "target", "index"]
        index = batch["index"]
        assert torch.equal(batch["a"], VECTORS[index])
        assert torch.equal(batch["b"], SERIES[index])
        assert torch.equal(batch["target"], index % 4)
        assert index.dtype == batch["target"].dtype == torch.int64


def test_an_evaluation_has_each_sample_once_in_order():
    samples = Samples({"a": VECTORS}, torch.arange(22))
    loader = MultimodalLoader(samples, EvaluationSampler(torch.tensor([3, 1, 4]), 2), torch.device("cpu"))
    assert indices(loader) == [[3, 1], [4]]


def test_each_pass_is_the_next_epoch():
    loader = make()
    epochs = [indices(loader) for _ in range(2)]
    assert epochs[0] != epochs[1]
    assert sorted(chain(*epochs[0])) == sorted(chain(*epochs[1])) == list(range(22))


@pytest.mark.parametrize("stop", [1, 3, 6])
def test_resume_gives_the_rest(stop):
    whole = make()
    expected = indices(whole) + indices(whole)
    stopped, resumed = make(), make()
    iterator = iter(stopped)
    for _ in range(stop):
        next(iterator)
    resumed.load_state_dict(stopped.state_dict())
    rest = indices(resumed) + indices(resumed)
    assert rest[: 12 - stop] == expected[stop:]


def test_the_shares_of_two_processes_are_disjoint_and_together_all():
    shares = [list(chain(*indices(make(rank=rank, world_size=2)))) for rank in range(2)]
    assert [len(share) for share in shares] == [11, 11]
    assert sorted(shares[0] + shares[1]) == list(range(22))
