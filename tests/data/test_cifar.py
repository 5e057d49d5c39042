import pickle

import numpy as np
import pytest
import torch
import torchvision

from ctkd_lightning.data import CIFAR10, CIFAR100
from ctkd_lightning.errors import UserError

RNG = np.random.default_rng(0)


def dump(path, content) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps(content))


def pictures(count: int) -> np.ndarray:
    return RNG.integers(0, 256, (count, 3 * 32 * 32), dtype=np.uint8)


pytestmark = pytest.mark.usefixtures("_small_cifar")


@pytest.fixture
def cifar10(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    data = [pictures(6) for _ in range(6)]
    for pixels, name in zip(data, [*[f"data_batch_{i}" for i in range(1, 6)], "test_batch"], strict=True):
        dump(folder / name, {"data": pixels, "labels": [0, 1, 2, 0, 1, 2]})
    dump(folder / "batches.meta", {"label_names": [f"name {i}" for i in range(10)]})
    return tmp_path, data


def test_cifar10(cifar10):
    root, data = cifar10
    module = CIFAR10(root, val_size=0.2, augmentation="none", mean=(0, 0, 0), std=(1, 1, 1), batch_size=5)
    module.prepare_data()
    module.setup()
    assert (module.num_classes, module.class_names[9]) == (10, "name 9")
    assert (len(module.train_indices), len(module.val_indices), len(module.test_indices)) == (24, 6, 6)
    train = torch.from_numpy(np.concatenate(data[:5]).reshape(-1, 3, 32, 32))
    for batch in module.train_dataloader():
        assert torch.equal((batch.image * 255).round().to(torch.uint8), train[batch.index])
        assert torch.equal(batch.target, batch.index % 3)
    (test,) = module.test_dataloader()
    assert torch.equal((test.image * 255).round().to(torch.uint8), torch.from_numpy(data[5].reshape(-1, 3, 32, 32)))


def test_cifar100_with_another_image_size(tmp_path):
    folder = tmp_path / "cifar-100-python"
    dump(folder / "train", {"data": pictures(8), "fine_labels": [*range(96, 100)] * 2})
    dump(folder / "test", {"data": pictures(4), "fine_labels": [*range(96, 100)]})
    dump(folder / "meta", {"fine_label_names": [f"fine {i}" for i in range(100)]})
    module = CIFAR100(tmp_path, image_size=16, val_size=0, download=False)
    assert module.num_classes == len(module.class_names) == 100
    (batch,) = module.train_dataloader()
    assert batch.image.shape == (8, 3, 16, 16)
    assert batch.target.min() == 96


def test_missing_files_without_download(tmp_path):
    module = CIFAR100(tmp_path, download=False)
    module.prepare_data()
    with pytest.raises(UserError, match=r"cifar-100-python is not there, or incomplete: run once with .*download=true"):
        module.setup("fit")


def test_no_network(tmp_path, monkeypatch):
    def fail(*arguments, **settings):
        raise OSError("Name or service not known")

    monkeypatch.setattr(torchvision.datasets.cifar, "download_and_extract_archive", fail)
    with pytest.raises(
        UserError, match=r"could not be downloaded \(Name or .*cifar-10-python\.tar\.gz elsewhere and unpa"
    ):
        CIFAR10(tmp_path).prepare_data()
