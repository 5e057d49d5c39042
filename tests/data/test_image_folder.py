import os

import pytest
import torch
import torchvision.transforms as T
from PIL import Image

from ctkd_lightning.data import ImageFolder, ImageNet
from ctkd_lightning.errors import UserError
from tests.data.folders import image_folder, write_images


def make(root, **settings) -> ImageFolder:
    return ImageFolder(root, **{"cache_dir": None, "num_workers": 0, "val_size": 0.25, **settings})


def test_images_are_resized_cropped_and_normalised_as_torchvision_does(tmp_path):
    root = image_folder(tmp_path, {"train": 4, "test": 2})
    reference = T.Compose(
        [T.Resize(24), T.CenterCrop(16), T.ToTensor(), T.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
    )
    (batch,) = make(root, image_size=16, resize=24).test_dataloader()
    files = sorted((root / "test").rglob("*.png"))
    expected = torch.stack([reference(Image.open(files[index])) for index in batch.index])
    assert torch.equal(batch.image, expected)
    assert [files[index].parent.name for index in batch.index] == [["cat", "dog", "eel"][t] for t in batch.target]


@pytest.mark.parametrize("evaluated", ["test", "val"])
def test_one_more_folder_is_the_test_set(tmp_path, evaluated):
    data = make(image_folder(tmp_path, {"train": 4, evaluated: 2}))
    assert (len(data.train_indices), len(data.val_indices), len(data.test_indices)) == (9, 3, 6)
    assert not data.validates_on_test
    assert data.num_classes == 3
    assert make(tmp_path, val_size=0).validates_on_test


def test_with_both_val_validates(tmp_path):
    data = make(image_folder(tmp_path, {"train": 4, "val": 1, "test": 2}), val_size=0)
    data.setup("fit")
    assert (len(data.train_indices), len(data.val_indices), len(data.test_indices)) == (12, 3, 6)
    assert not data.validates_on_test
    val, test = next(iter(data.val_dataloader())), next(iter(data.test_dataloader()))
    assert not torch.equal(val.image[0], test.image[0])


def test_a_second_start_reads_the_cache(tmp_path, monkeypatch):
    root = image_folder(tmp_path / "images", {"train": 4, "test": 2})
    first = next(iter(make(root, cache_dir=tmp_path / "cache").test_dataloader()))
    monkeypatch.setattr("ctkd_lightning.data._image_files.read_image", None)
    assert torch.equal(next(iter(make(root, cache_dir=tmp_path / "cache").test_dataloader())).image, first.image)


def test_the_fingerprint_follows_the_training_files(tmp_path):
    root = image_folder(tmp_path, {"train": 2, "test": 2})
    first = make(root).fingerprint()
    os.utime(root / "test" / "cat" / "0.png", (0, 0))
    assert make(root).fingerprint() == first
    os.utime(root / "train" / "cat" / "0.png", (0, 0))
    assert make(root).fingerprint() != first


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({}, "does not exist: set root to an existing folder"),
        ({"test": 1}, r"has no folder train/ \(found: test\): put the images into train/ and test/ or val/"),
        ({"train": 1}, r"has no folder test/ or val/ \(found: train\)"),
    ],
)
def test_missing_folders(tmp_path, splits, message):
    root = image_folder(tmp_path / "images", splits)
    with pytest.raises(UserError, match=message):
        make(root).setup()


def test_splits_with_other_classes(tmp_path):
    root = image_folder(tmp_path, {"train": 2, "test": 2})
    write_images(root / "test" / "fox", 1)
    with pytest.raises(UserError, match=r"test has other class folders than the training set: missing none, extra fox"):
        make(root).setup("test")


def test_one_class_is_too_few(tmp_path):
    root = image_folder(tmp_path, {"train": 2, "test": 2}, classes=("cat",))
    with pytest.raises(UserError, match=r"/train holds one class folder, cat: at least two classes are needed"):
        make(root).setup("fit")


def test_a_broken_image_is_named(tmp_path):
    root = image_folder(tmp_path, {"train": 2, "test": 2})
    (root / "train" / "dog" / "1.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"cannot decode the image .*train/dog/1\.png"):
        make(root).setup("fit")


def test_imagenet(tmp_path):
    root = image_folder(tmp_path, {"train": 4, "val": 2}, classes=("n01", "n02"))
    (root / "test").mkdir()
    write_images(root / "test", 3)  # without labels
    data = ImageNet(root, image_size=16, resize=20, val_size=0.25, num_workers=0, seed=3, cache_dir=None)
    data.setup()
    assert (len(data.train_indices), len(data.val_indices), len(data.test_indices)) == (6, 2, 4)
    files = sorted((root / "train").rglob("*.png"))
    evaluate = T.Compose(
        [T.Resize(20), T.CenterCrop(16), T.ToTensor(), T.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
    )
    (val,) = data.val_dataloader()
    assert torch.equal(val.image, torch.stack([evaluate(Image.open(files[index])) for index in val.index]))
    train = T.Compose([T.RandomResizedCrop(16), T.RandomHorizontalFlip(), *evaluate.transforms[2:]])
    (batch,) = data.train_dataloader()
    for image, index, view in zip(batch.image, batch.index, batch.view, strict=True):
        torch.manual_seed(int(view) * len(data.train_targets) + int(index))
        assert torch.equal(image, train(Image.open(files[index])))
