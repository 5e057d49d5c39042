"""Random numbers of keys, against an implementation in Python's integers and the distributions they are meant to be."""

import pytest
import torch
from scipy import stats

from ctkd_lightning.fusion._draws import mix, normal, uniform

MODULUS = 2**64


def finaliser(z):
    """MurmurHash3's, in the variant that SplitMix64 uses."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % MODULUS
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % MODULUS
    return z ^ (z >> 31)


def test_split_mix():
    """Its published sequence from the seed 1234567, and any other key."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    found = mix(torch.tensor(1234567), torch.arange(4))
    assert [value % MODULUS for value in found.tolist()] == published
    keys = [0, 1, -1, 2**62, -(2**63), 2**63 - 1]
    expected = [finaliser((key + 8 * 0x9E3779B97F4A7C15) % MODULUS) for key in keys]
    assert [value % MODULUS for value in mix(torch.tensor(keys), 7).tolist()] == expected


@pytest.mark.parametrize("over", ["keys", "streams"])
def test_uniform(over):
    some = torch.arange(20000)
    found = uniform(some, 5) if over == "keys" else uniform(torch.tensor(5), some)
    assert found.dtype == torch.float32
    assert found.min() >= 0
    assert found.max() < 1
    assert stats.kstest(found.numpy(), "uniform").pvalue > 1e-3
    assert abs(stats.pearsonr(found[1:], found[:-1])[0]) < 0.03


def test_normal():
    found = normal(torch.arange(200), torch.Size([10, 10]), 3)
    assert found.shape == (200, 10, 10)
    assert stats.kstest(found.flatten().numpy(), "norm").pvalue > 1e-3
    assert torch.equal(found[7:8], normal(torch.tensor([7]), torch.Size([10, 10]), 3))
