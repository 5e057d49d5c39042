"""The data sets that need no files."""

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from ctkd_lightning.data import Digits, Fake
from ctkd_lightning.errors import UserError


def test_digits():
    module = Digits(val_size=0, augmentation="none", mean=(0, 0, 0), std=(1, 1, 1))
    assert (module.num_classes, module.class_names[3]) == (10, "3")
    train, test = list(module.train_dataloader()), list(module.test_dataloader())
    assert sum(len(b.target) for b in train) == 1347
    assert sum(len(b.target) for b in test) == 450
    images, targets = (torch.cat([getattr(b, x) for b in train + test]) for x in ("image", "target"))
    assert images.shape == (1797, 3, 32, 32)
    assert torch.equal(images[:, 0], images[:, 2])
    # back at 8 × 8 they are the original digits, each once, with its class
    small = F.interpolate(images[:, :1], size=8, mode="area").flatten(1)
    original = load_digits()
    distance = torch.cdist(small, torch.from_numpy(original.data).float() / 16)
    nearest = distance.argmin(dim=1)
    assert len(nearest.unique()) > 1780  # blurred twice, a few look more like another
    assert (torch.from_numpy(original.target)[nearest] == targets).float().mean() > 0.99


def test_digits_are_normalised_and_shift_without_mirroring():
    module = Digits(val_size=0)
    assert module.num_views == 81
    images = torch.cat([batch.image for batch in Digits(val_size=0, augmentation="none").train_dataloader()])
    assert images.mean().abs() < 0.01
    assert (images.std() - 1).abs() < 0.01


def test_the_digits_test_set_is_fixed_and_stratified():
    first, second = (Digits(seed=seed, val_size=v).load("test") for seed, v in [(1, 0.1), (2, 0.3)])
    assert torch.equal(first.pixels, second.pixels)
    counts = torch.bincount(first.targets)
    whole = torch.bincount(torch.from_numpy(load_digits().target))
    assert (counts - whole * 450 / 1797).abs().max() <= 1


def test_fake_is_learnable_in_a_few_steps():
    module = Fake(val_size=0, augmentation="none")
    train = [batch for loader in [module.train_dataloader()] for _ in range(2) for batch in loader]
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.AvgPool2d(8), torch.nn.Flatten(), torch.nn.Linear(48, 10))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
    for batch in train:
        optimizer.zero_grad()
        F.cross_entropy(network(batch.image), batch.target).backward()
        optimizer.step()
    correct = [network(batch.image).argmax(1) == batch.target for batch in module.test_dataloader()]
    assert len(train) == 16
    assert torch.cat(correct).float().mean() > 0.5


def test_fake_sizes():
    module = Fake(num_classes=4, train_size=20, test_size=9, image_size=12, val_size=0)
    assert module.class_names == ["class 0", "class 1", "class 2", "class 3"]
    assert module.load("train").pixels.shape == (20, 3, 12, 12)
    assert torch.bincount(module.load("test").targets).tolist() == [3, 2, 2, 2]
    assert not torch.equal(module.load("train").pixels[:9], module.load("test").pixels)
    assert torch.equal(module.load("test").pixels, Fake(4, 30, 9, image_size=12, seed=3).load("test").pixels)
    with pytest.raises(UserError, match="num_classes=1, train_size=512, test_size=256: take two classes or more"):
        Fake(num_classes=1)
