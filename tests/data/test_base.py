import time

import numpy as np
import pytest
import torch

from ctkd_lightning.data import CIFAR10, CIFAR100, Batch, Digits, Fake, ImageDataModule, ImageFolder, _base
from ctkd_lightning.data._images import ImageArray
from ctkd_lightning.data._loading.memory import MemoryLoader
from ctkd_lightning.data._loading.workers import WorkerLoader
from ctkd_lightning.errors import UserError
from tests.data.folders import image_folder
from tests.processes import run_in_processes


def indices(loader) -> list[int]:
    return [index for batch in loader for index in batch.index.tolist()]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number from 1, found 0"),
        ({"batch_size": 1.5}, "batch_size must be a whole number"),
        ({"eval_batch_size": -1}, "eval_batch_size must be"),
        ({"image_size": 0}, "image_size must be"),
        ({"limit_train": 0}, "limit_train must be"),
        ({"num_workers": -1}, "num_workers must be a whole number from 0 to 256, found -1"),
        ({"seed": -3}, "seed must be"),
        ({"resize": 16}, "resize=16 is below image_size=32"),
        ({"mean": [0.5]}, r"mean needs three values, one a channel, found \[0.5\]"),
        ({"std": []}, "std needs three values"),
        ({"std": [0.2, 0.0, 0.2]}, "std of each channel must be a finite number above 0, found 0.0"),
        ({"val_size": 1.0}, "val_size, unless it is a count, must be a finite number from 0 and below 1, found 1.0"),
        ({"val_size": -0.1}, "val_size, unless it is a count, must be"),
        ({"in_memory": "perhaps"}, "in_memory must be true, false or auto, found 'perhaps'"),
        ({"augmentation": "flip_crop"}, "unknown augmentation 'flip_crop'"),
        ({"augmentation": "random_resized_crop"}, "needs the undecoded images, fake has them at one size: take"),
        ({"batch_size": True}, "batch_size must be a whole number from 1, found True"),
        ({"val_size": True}, "val_size must be a whole number from 0, found True"),
        ({"val_size": "0.1"}, r"val_size, unless it is a count, must be a finite number .* below 1, found '0\.1'"),
        ({"limit_eval": "5"}, "limit_eval must be"),
        ({"mean": (0.5, True, 0.5)}, "mean of each channel must be a finite number, found True"),
        ({"drop_last": "false"}, "drop_last must be true or false, found 'false'"),
        ({"in_memory": 1}, "in_memory must be"),
        ({"num_classes": 2.5}, "num_classes must be a whole number"),
        ({"augmentation": "crop", "num_views": 3}, "num_views=3 is for random_resized_crop, found augmentation=crop"),
        ({"padding": -1}, "padding must be a whole number from 0, found -1"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(UserError, match=message) as error:
        Fake(**settings)
    assert "\n" not in str(error.value)


def test_whole_numbers_of_any_type():
    data = Fake(batch_size=np.int64(8), eval_batch_size=16.0, limit_train=32.0, val_size=np.float32(0.25))
    assert (data.batch_size, data.eval_batch_size, data.limit_train) == (8, 16, 32)
    assert [len(batch.target) for batch in data.train_dataloader()] == [8] * 4


def test_files_that_are_to_be_in_memory_have_no_random_resized_crops(tmp_path):
    message = "in_memory=true keeps them at one size: take augmentation=crop_flip, crop or none, or in_memory=auto"
    with pytest.raises(UserError, match=message):
        ImageFolder(tmp_path, augmentation="random_resized_crop", in_memory=True)


def test_alone_without_a_trainer():
    data = Fake()
    data.prepare_data()
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert isinstance(batch, Batch)
    assert batch.image.shape == (64, 3, 32, 32)
    assert batch.view.min() >= 0
    assert batch.view.max() < data.num_views == 162
    assert (data.train_targets[batch.index] == batch.target).all()
    assert next(iter(data.val_dataloader())).view.unique().tolist() == [-1]


def test_train_validation_and_test_are_apart():
    data = Fake(val_size=0.25)
    train, val, test = (indices(x()) for x in (data.train_dataloader, data.val_dataloader, data.test_dataloader))
    assert sorted(train + val) == list(range(512))
    assert len(val) == 128
    assert sorted(test) == list(range(256))
    assert not data.validates_on_test
    counts = np.bincount(data.train_targets[torch.tensor(val)])
    assert counts.max() - counts.min() <= 1


def test_the_split_is_the_same_for_every_seed():
    assert torch.equal(Fake(seed=1).val_indices, Fake(seed=2).val_indices)
    assert indices(Fake(seed=1).train_dataloader()) != indices(Fake(seed=2).train_dataloader())


def test_the_papers_protocol_validates_on_test_and_says_so():
    data = Fake(val_size=0)
    data.setup("validate")
    assert data.validates_on_test
    assert len(indices(data.train_dataloader())) == 512
    val, test = next(iter(data.val_dataloader())), next(iter(data.test_dataloader()))
    assert torch.equal(val.image, test.image)


def test_val_size_as_a_count():
    assert len(Fake(val_size=7).val_indices) == 7
    with pytest.raises(UserError, match="val_size=512 of 512 training samples leaves none to train"):
        Fake(val_size=512).train_dataloader()


def test_limits():
    data = Fake(limit_train=100, limit_eval=20)
    assert len(indices(data.train_dataloader())) == 100
    assert np.bincount(data.train_targets[data.train_indices]).tolist() == [10] * 10
    assert len(indices(data.val_dataloader())) == len(indices(data.test_dataloader())) == 20
    assert not set(data.train_indices.tolist()) & set(data.val_indices.tolist())
    assert len(Fake(limit_train=10_000).train_indices) == len(Fake().train_indices)


@pytest.mark.parametrize("stage", ["train_dataloader", "val_dataloader", "test_dataloader"])
def test_in_memory_and_ordinary_path_give_the_same_images(tmp_path, stage):
    root = image_folder(tmp_path, {"train": 8, "test": 3})
    settings = {"root": root, "image_size": 16, "batch_size": 5, "num_workers": 0, "cache_dir": None}
    memory, ordinary = (getattr(ImageFolder(in_memory=x, **settings), stage)() for x in (True, False))
    assert isinstance(memory, MemoryLoader)
    assert isinstance(ordinary, WorkerLoader)
    for ours, other in zip(memory, ordinary, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(ours, other, strict=True))


def test_memory_is_chosen_by_size(tmp_path, monkeypatch):
    settings = {"root": image_folder(tmp_path, {"train": 8, "test": 3}), "cache_dir": None, "num_workers": 0}
    assert isinstance(ImageFolder(**settings).train_dataloader(), MemoryLoader)
    assert isinstance(Fake(in_memory=False, num_workers=0).train_dataloader(), WorkerLoader)
    monkeypatch.setattr(_base, "MEMORY_LIMIT", 24 * 3 * 32 * 32 - 1)
    assert isinstance(ImageFolder(**settings).train_dataloader(), WorkerLoader)
    assert isinstance(ImageFolder(in_memory=True, **settings).train_dataloader(), MemoryLoader)
    assert isinstance(Fake(num_workers=0).train_dataloader(), WorkerLoader)
    assert isinstance(Fake(in_memory=True).train_dataloader(), MemoryLoader)


def test_channels_last():
    image = next(iter(Fake(channels_last=True).train_dataloader())).image
    assert image.is_contiguous(memory_format=torch.channels_last)


def test_the_fingerprint_follows_what_decides_the_training_images():
    first = Fake().fingerprint()
    assert Fake(seed=5, batch_size=8, num_workers=0, limit_eval=5, channels_last=True).fingerprint() == first
    others = [
        Digits(),
        Fake(num_classes=11),
        Fake(train_size=500),
        Fake(image_size=16),
        Fake(mean=(0.5, 0.5, 0.4)),
        Fake(std=(0.5, 0.5, 0.4)),
        Fake(augmentation="crop"),
        Fake(padding=3),
        Fake(val_size=0),
        Fake(val_size=0.2),
        Fake(limit_train=100),
    ]
    assert len({first, *(other.fingerprint() for other in others)}) == 12
    selections = {other.view_fingerprint() for other in [Fake(), *others[8:]]}
    assert len(selections) == 1
    assert len(selections.union(other.view_fingerprint() for other in others)) == 9


def test_kept_teachers_of_earlier_versions_are_found_by_the_same_fingerprints():
    """Hashes of version 0.1: another one would train each kept teacher anew."""
    assert Digits().fingerprint() == "c62dfcb2bebb1273a2a7e622f82742e5"
    assert Fake().fingerprint() == "57b67f2794852813b92a602445a25c64"
    assert CIFAR100().fingerprint() == "2b9cea75f83f8011f2e9344c93ad0dc5"
    assert CIFAR10().view_fingerprint() == "6b30f61f882fcd57dfff351eefa4318b"


def test_a_data_set_must_say_its_classes_and_load_its_images():
    class Nothing(ImageDataModule):
        name = "nothing"

    with pytest.raises(TypeError, match=r"abstract methods? '?class_names'?, '?load'?"):
        Nothing()


class Arrays(ImageDataModule):
    """A data set that says nothing about its content."""

    name = "arrays"
    class_names = ("black", "white")

    def __init__(self, pixels: torch.Tensor, targets: torch.Tensor) -> None:
        super().__init__(image_size=4)
        self.pixels, self.targets = pixels, targets

    def load(self, split):
        return ImageArray(self.pixels, self.targets)


def test_arrays_are_known_by_their_pixels_and_targets():
    pixels, targets = torch.zeros(8, 3, 4, 4, dtype=torch.uint8), torch.arange(8) % 2
    first = Arrays(pixels, targets)
    assert Arrays(pixels.clone(), targets.clone()).fingerprint() == first.fingerprint()
    other = pixels.clone()
    other[7, 2, 3, 3] = 1
    assert Arrays(other, targets).view_fingerprint() != first.view_fingerprint()
    assert Arrays(pixels, targets.flip(0)).fingerprint() != first.fingerprint()


class Fetched(Fake):
    """Notes each download, which takes a while."""

    name = "fetched"

    def has_files(self):
        return (self.root / "files").is_dir()

    def fetch(self):
        with (self.root / "log").open("a") as log:
            log.write("fetched\n")
        time.sleep(0.5)
        (self.root / "files").mkdir()


def prepare(root):
    data = Fetched(root=root)
    data.prepare_data()
    assert data.has_files()


def test_of_several_processes_one_downloads_and_the_others_wait(tmp_path):
    Fetched(root=tmp_path, download=False).prepare_data()
    assert list(tmp_path.iterdir()) == []
    assert run_in_processes(3, prepare, tmp_path) == [0] * 3
    assert (tmp_path / "log").read_text() == "fetched\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["files", "log"]


def test_a_data_set_without_an_address_makes_no_folder(tmp_path):
    Digits(tmp_path / "data").prepare_data()
    assert not (tmp_path / "data").exists()
