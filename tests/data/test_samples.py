import numpy as np
import pytest
import torch
from sklearn.preprocessing import MinMaxScaler

from ctkd_lightning.data import Samples
from ctkd_lightning.data._samples import Scaling
from ctkd_lightning.errors import UserError

RNG = np.random.default_rng(0)
TARGETS = torch.tensor([0, 1, 1, 0, 1])


def values(**changes) -> dict[str, torch.Tensor]:
    return {"a": torch.arange(15.0).view(5, 3), "b": torch.arange(40.0).view(5, 2, 4)} | changes


def test_some_of_the_samples():
    some = Samples(values(), TARGETS, torch.tensor([7, 7, 8, 8, 9])).select(torch.tensor([4, 1]))
    assert len(some) == 2
    assert some.values["a"].tolist() == [[12, 13, 14], [3, 4, 5]]
    assert some.values["b"][:, 1, 3].tolist() == [39, 15]
    assert (some.targets.tolist(), some.groups.tolist()) == ([1, 1], [9, 7])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": torch.zeros(5, 1)}, "a modality is called target, as a batch calls its target and index: rename"),
        ({"index": torch.zeros(5, 1)}, "a modality is called index"),
        ({"b": torch.zeros(4, 2)}, r"different numbers of samples \(a 5, b 4, targets 5\)"),
        ({"b": torch.tensor([0, 0, 0, float("nan"), 0])}, "the modality b holds NaN or infinity, first in sample 3"),
        ({"a": torch.full((5, 3), torch.inf)}, "the modality a holds NaN or infinity, first in sample 0"),
    ],
)
def test_samples_that_cannot_be(changes, message):
    with pytest.raises(UserError, match=message) as error:
        Samples(values(**changes), TARGETS)
    assert "\n" not in str(error.value)


def test_groups_and_modalities_must_be_there():
    with pytest.raises(UserError, match=r"\(a 5, b 5, targets 5, groups 2\)"):
        Samples(values(), TARGETS, torch.tensor([1, 2]))
    with pytest.raises(UserError, match="no modality was given"):
        Samples({}, TARGETS)


@pytest.mark.parametrize(("shape", "axes"), [((50, 3), 0), ((50, 3, 8), (0, 2)), ((50, 3, 4, 5), (0, 2, 3))])
def test_standardised_for_each_feature_or_channel(shape, axes):
    fitted, other = RNG.normal(7, 3, shape), RNG.normal(size=(4, *shape[1:]))
    mean, deviation = fitted.mean(axis=axes, keepdims=True), fitted.std(axis=axes, keepdims=True)
    found = Scaling({"a": torch.from_numpy(fitted)})({"a": torch.from_numpy(other)})["a"]
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), (other - mean) / deviation, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(1347, 2), (1001, 3, 7)])
def test_what_does_not_vary_is_centred(shape):
    constant = torch.full(shape, 0.1, dtype=torch.float64)  # of which numpy's deviation is not zero, but 1e-17
    assert constant.numpy().std(axis=0).max() > 0
    standardise = Scaling({"a": constant})
    assert standardise({"a": constant})["a"].abs().max() < 1e-6
    torch.testing.assert_close(standardise({"a": constant + 2})["a"], torch.full(shape, 2.0))


def test_unit_scaling_is_that_of_scikit_learn():
    rng = np.random.default_rng(3)
    fitted, other = rng.normal(5, 3, (40, 6)), rng.normal(5, 3, (10, 6))
    scaled = Scaling({"a": torch.from_numpy(fitted)}, unit=True)({"a": torch.from_numpy(other)})["a"]
    expected = MinMaxScaler().fit(fitted).transform(other)
    np.testing.assert_allclose(scaled.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_unit_scaling_of_a_series_is_by_channel_and_leaves_a_constant_at_zero():
    series = torch.stack([torch.arange(12.0).reshape(3, 4), torch.full((3, 4), 7.0)], dim=1)
    scaled = Scaling({"a": series}, unit=True)({"a": series})["a"]
    torch.testing.assert_close(scaled[:, 0], torch.arange(12.0).reshape(3, 4) / 11)
    assert not scaled[:, 1].any()
