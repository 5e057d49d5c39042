"""What the tests of data share."""

import os

import pytest
import torchvision


@pytest.fixture
def _small_cifar(monkeypatch):
    """Take any files as CIFAR's, whatever their sums."""
    monkeypatch.setattr(
        torchvision.datasets.cifar, "check_integrity", lambda path, md5=None: bool(path) and os.path.isfile(path)
    )
