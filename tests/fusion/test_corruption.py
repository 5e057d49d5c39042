"""What is corrupted, how often, how much, and that it is the same for a sample whatever its batch."""

import pytest
import torch
from scipy import stats

from ctkd_lightning.errors import UserError
from ctkd_lightning.fusion import ModalityCorruption
from ctkd_lightning.fusion.corruption import KINDS

SIZE = 4000
INDEX = torch.arange(SIZE)


def batch(size=SIZE, seed=0, names=("image", "audio", "text")):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(size, 3, 4, generator=generator) for name in names}


def within_chance(count, size, share):
    """A share as it is, but for one draw in a million."""
    low, high = stats.binom.interval(1 - 1e-6, size, share)
    assert low <= int(count) <= high


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_share_and_count(share, count):
    _, bad = ModalityCorruption(["drop"], share, count)(batch(), INDEX)
    flags = torch.stack(list(bad.values()), dim=1)
    assert set(flags.sum(dim=1).tolist()) <= {0, count}
    within_chance(flags.any(dim=1).sum(), SIZE, share)
    for column in flags.unbind(dim=1):
        within_chance(column.sum(), SIZE, share * count / 3)


def test_shares_by_modality_are_drawn_each_on_their_own():
    _, bad = ModalityCorruption(["drop"], {"image": 0.5, "text": 0.2})(batch(), INDEX)
    within_chance(bad["image"].sum(), SIZE, 0.5)
    within_chance(bad["text"].sum(), SIZE, 0.2)
    within_chance((bad["image"] & bad["text"]).sum(), SIZE, 0.1)
    assert not bad["audio"].any()


def test_each_kind_as_often_and_as_it_says():
    inputs = batch()
    made, bad = ModalityCorruption(share=1.0, count=3)(inputs, INDEX)
    x, y = inputs["audio"], made["audio"]
    dropped = (y == 0).flatten(1).all(dim=1)
    stuck = (y == y[:, :, :1]).flatten(1).all(dim=1) & ~dropped
    everyone = {tuple(row.flatten().tolist()): i for i, row in enumerate(x)}
    source = torch.tensor([everyone.get(tuple(row.flatten().tolist()), -1) for row in y])
    shuffled = (source >= 0) & (source != INDEX)
    noisy = ~dropped & ~stuck & ~shuffled
    for flags in (dropped, stuck, shuffled, noisy):
        within_chance(flags.sum(), SIZE, 0.25)
    assert bad["audio"].all()
    assert not (source == INDEX).any()  # never the sample itself
    assert (y[stuck][:, 0, 0] != y[stuck][:, 1, 0]).all()  # a constant a channel
    assert stats.kstest(y[stuck][:, :, 0].flatten().numpy(), "norm").pvalue > 1e-3
    assert stats.kstest(source[shuffled].double().numpy(), "uniform", (0, SIZE)).pvalue > 1e-3


def test_noise_has_its_deviation():
    inputs = batch()
    made, _ = ModalityCorruption("noise", 1.0, 3, strength=2.0)(inputs, INDEX)
    noise = {n: ((made[n] - inputs[n]) / 2).flatten() for n in inputs}
    for values in noise.values():
        assert stats.kstest(values.numpy(), "norm").pvalue > 1e-3
        assert abs(stats.zscore(values.numpy())).max() > 4  # its tails too
    assert abs(stats.pearsonr(noise["image"], noise["audio"])[0]) < 0.02
    by_place = noise["image"].reshape(SIZE, -1)
    assert torch.corrcoef(by_place.T).fill_diagonal_(0).abs().max() < 0.08


def test_strengths_are_spread_over_their_range():
    inputs = {"image": torch.zeros(SIZE, 3000)}
    made, _ = ModalityCorruption("noise", 1.0, strength=(0.5, 3.0))(inputs, INDEX)
    sigma = made["image"].std(dim=1)
    assert stats.kstest(sigma.numpy(), "uniform", (0.5, 2.5)).pvalue > 1e-3


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "shuffle"])
def test_a_function_of_seed_epoch_and_number(kind):
    inputs = batch(64)
    index = torch.arange(64) + 1000
    corruption = ModalityCorruption(kind, 0.5, seed=3)
    made, bad = corruption(inputs, index, 2)
    rows = torch.tensor([40, 7, 19])
    again, again_bad = corruption({n: x[rows] for n, x in inputs.items()}, index[rows].int(), 2)
    for name in inputs:
        assert torch.equal(again[name], made[name][rows])
        assert torch.equal(again_bad[name], bad[name][rows])
    for other in (corruption(inputs, index, 3), ModalityCorruption(kind, 0.5, seed=4)(inputs, index, 2)):
        assert any((other[1][n] != bad[n]).any() for n in inputs)


def test_without_numbers_it_follows_the_global_generator():
    corruption = ModalityCorruption()
    results = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        results.append(corruption(batch(64))[0]["image"])
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_the_rest_is_left_alone():
    inputs = batch(64)
    copies = {n: x.clone() for n, x in inputs.items()}
    target = torch.arange(64)
    made, bad = ModalityCorruption(share=0.5)(
        {**inputs, "target": target}, torch.arange(64), modalities=["image", "audio"]
    )
    assert made["target"] is target
    assert made["text"] is inputs["text"]
    assert list(bad) == ["image", "audio"]
    for name, x in inputs.items():
        assert torch.equal(x, copies[name])
        if name in bad:
            changed = (made[name] != x).flatten(1).any(dim=1)
            assert torch.equal(changed, bad[name])


def test_one_sample_has_no_partner():
    inputs = batch(1)
    made, bad = ModalityCorruption("shuffle", 1.0, 3)(inputs, torch.arange(1))
    assert not any(flags.any() for flags in bad.values())
    assert all(torch.equal(made[n], x) for n, x in inputs.items())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(6,), (6, 5), (6, 2, 3, 4), (0, 3)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_any_shape_and_type(kind, shape, dtype):
    inputs = {"image": torch.ones(shape, dtype=dtype)}
    made, _ = ModalityCorruption(kind, 1.0)(inputs, torch.arange(shape[0]))
    assert (made["image"].shape, made["image"].dtype) == (shape, dtype)
    if kind == "stuck" and len(shape) == 2:
        assert (made["image"] == made["image"][:, :1]).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kinds": ["nois"]}, "did you mean noise"),
        ({"kinds": []}, "Valid: drop, noise, shuffle, stuck"),
        ({"share": 1.5}, "share must be"),
        ({"share": {"image": -0.1}}, "share must be"),
        ({"share": {"image": 0.1}, "count": 2}, "no effect"),
        ({"count": 0}, "count must be"),
        ({"strength": -1.0}, "strength must be"),
        ({"strength": (2.0, 1.0)}, "strength must be"),
        ({"strength": (1.0, 2.0, 3.0)}, "a number or a range"),
        ({"seed": -1}, "seed must be"),
    ],
)
def test_settings_that_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        ModalityCorruption(**settings)


@pytest.mark.parametrize(
    ("settings", "given", "index", "message"),
    [
        ({"share": {"imag": 0.1}}, batch(4), None, "did you mean image"),
        ({"count": 4}, batch(4), None, "needs as many"),
        ({"count": 1}, {}, None, "no modality|needs as many"),
        ({}, batch(4) | {"target": torch.arange(4)}, None, "modalities="),
        ({}, batch(4) | {"image": torch.ones(3, 2)}, None, "3 of 'image'|4 of 'audio'"),
        ({}, batch(4), torch.arange(3), "number of each"),
        ({}, batch(4), torch.ones(4), "number of each"),
    ],
)
def test_batches_that_are_refused(settings, given, index, message):
    with pytest.raises(UserError, match=message):
        ModalityCorruption(**settings)(given, index)
