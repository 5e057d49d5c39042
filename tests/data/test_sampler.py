import numpy as np
import pytest
import torch

from ctkd_lightning.data._loading.sampler import EpochSampler, EvaluationSampler
from ctkd_lightning.errors import UserError


def epoch_of(sampler: EpochSampler, epoch: int = 0) -> list[list[tuple[int, int]]]:
    sampler.set_epoch(epoch)
    return list(sampler)


def samples(batches: list[list[tuple[int, int]]]) -> list[int]:
    return [index for batch in batches for index, _ in batch]


def test_an_epoch_has_every_sample_once():
    indices = torch.arange(100, 137)
    sampler = EpochSampler(indices, 8, num_views=162)
    for epoch in (0, 1, 7):
        assert sorted(samples(epoch_of(sampler, epoch))) == indices.tolist()


def test_order_and_views_are_a_function_of_seed_and_epoch():
    def make(seed):
        return EpochSampler(torch.arange(50), 8, num_views=162, seed=seed)

    straight = make(3)
    first, second = epoch_of(straight, 0), epoch_of(straight, 1)
    assert epoch_of(make(3), 1) == second  # without having been in epoch 0
    assert len({str(x) for x in (first, second, epoch_of(make(4), 0), epoch_of(make(0), 3))}) == 4


def test_neither_draws_from_the_global_random_state():
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    list(EpochSampler(torch.arange(50), 8, num_views=162))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)


def test_views_are_uniform():
    sampler = EpochSampler(torch.arange(18_000), 64, num_views=18)
    counts = np.bincount([view for batch in epoch_of(sampler) for _, view in batch], minlength=18)
    chi_squared = ((counts - 1000) ** 2 / 1000).sum()
    assert len(counts) == 18
    assert chi_squared < 40.8  # the 99.9 % quantile at 17 degrees of freedom


def test_a_samples_view_changes_with_the_epoch():
    sampler = EpochSampler(torch.arange(200), 10, num_views=162)
    first, second = (dict(pair for batch in epoch_of(sampler, e) for pair in batch) for e in (0, 1))
    assert sum(first[i] == second[i] for i in range(200)) < 10  # 1.2 expected


@pytest.mark.parametrize(("count", "world_size"), [(40, 2), (41, 2), (50, 3), (50, 4)])
def test_shares_are_disjoint_and_equal(count, world_size):
    shares = [
        epoch_of(EpochSampler(torch.arange(count), 8, num_views=5, rank=rank, world_size=world_size), 2)
        for rank in range(world_size)
    ]
    taken = [index for share in shares for index in samples(share)]
    assert len(set(taken)) == len(taken) == count - count % world_size
    assert len({tuple(map(len, share)) for share in shares}) == 1


def test_one_process_and_two_see_the_same_epoch():
    whole = samples(epoch_of(EpochSampler(torch.arange(40), 8)))
    halves = [samples(epoch_of(EpochSampler(torch.arange(40), 4, rank=rank, world_size=2))) for rank in (0, 1)]
    assert [x for pair in zip(*halves, strict=True) for x in pair] == whole


@pytest.mark.parametrize(
    ("count", "batch_size", "drop_last", "sizes"),
    [
        (16, 8, False, [8, 8]),
        (19, 8, False, [8, 8, 3]),
        (17, 8, False, [8, 9]),  # a batch of one would break batch normalisation
        (17, 8, True, [8, 8]),
        (19, 8, True, [8, 8]),
        (3, 1, False, [1, 1, 1]),
        (1, 8, False, [1]),
        (5, 8, False, [5]),
    ],
)
def test_batch_sizes(count, batch_size, drop_last, sizes):
    sampler = EpochSampler(torch.arange(count), batch_size, drop_last=drop_last)
    assert [len(batch) for batch in sampler] == sizes
    assert len(sampler) == len(sizes)


@pytest.mark.parametrize("stop", range(6))
def test_the_rest_after_a_resume_is_the_same_at_every_position(stop):
    def make():
        return EpochSampler(torch.arange(37), 8, num_views=162, seed=1, rank=0, world_size=1)

    whole, following = epoch_of(make(), 4), epoch_of(make(), 5)
    stopped = make()
    stopped.set_epoch(4)
    if stop:
        stopped.consumed(stop)
    state = stopped.state_dict()
    resumed = make()
    resumed.load_state_dict(state)
    resumed.set_epoch(resumed.epoch)  # as Lightning does
    assert list(resumed) == (whole[stop:] if stop < len(whole) else following)
    assert epoch_of(resumed, 5) == following


def test_a_resume_into_other_batches_is_refused():
    sampler = EpochSampler(torch.arange(37), 8)
    sampler.consumed(2)
    for other in (EpochSampler(torch.arange(37), 4), EpochSampler(torch.arange(37), 8, seed=1)):
        with pytest.raises(UserError, match="stopped within an epoch of 5 batches with seed 0, here it has"):
            other.load_state_dict(sampler.state_dict())
    sampler.consumed(5)  # an epoch's end fits any
    EpochSampler(torch.arange(37), 4).load_state_dict(sampler.state_dict())


def test_without_shuffling_the_order_is_kept():
    sampler = EpochSampler(torch.tensor([5, 3, 9, 1]), 2, num_views=10, shuffle=False)
    assert samples(epoch_of(sampler, 0)) == samples(epoch_of(sampler, 1)) == [5, 3, 9, 1]


def test_too_few_samples_are_refused():
    with pytest.raises(UserError, match="3 samples do not make one batch for each of 4 processes"):
        EpochSampler(torch.arange(3), 8, world_size=4)
    with pytest.raises(UserError, match=r"batch_size=8, drop_last=True"):
        EpochSampler(torch.arange(3), 8, drop_last=True)
    with pytest.raises(UserError, match="0 samples"):
        EvaluationSampler(torch.arange(0), 8)


def test_more_processes_than_the_sampler_knows_are_refused(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(UserError, match=r"made for 1 process\(es\), 2 are running"):
        list(EpochSampler(torch.arange(16), 8))
    assert list(EpochSampler(torch.arange(16), 8, world_size=2))


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [5, 16, 17, 31])
@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_evaluation_has_every_sample_once_in_as_many_batches_on_each_process(count, batch_size, world_size):
    shares = [
        list(EvaluationSampler(torch.arange(count), batch_size, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    assert sorted(index for share in shares for index in samples(share)) == list(range(count))
    assert {view for share in shares for batch in share for _, view in batch} == {-1}
    assert len({len(share) for share in shares}) == 1
    sizes = [len(batch) for share in shares for batch in share]
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= batch_size + 1
    if world_size == 1:
        assert max(sizes) <= batch_size
        assert samples(shares[0]) == list(range(count))
