import os
import shutil

import pytest
import torch

from ctkd_lightning.data import TinyImageNet, tiny_imagenet
from ctkd_lightning.errors import UserError
from tests.data.sets import write_tiny_imagenet


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    root = tmp_path_factory.mktemp("tiny")
    write_tiny_imagenet(root, 0)
    return root


def make(root, **settings) -> TinyImageNet:
    settings = {"cache_dir": None, "num_workers": 0, "mean": (0, 0, 0), "std": (1, 1, 1), **settings}
    return TinyImageNet(root, augmentation="none", **settings)


def test_images_have_their_classes(archive):
    data = make(archive, val_size=0.5)
    data.prepare_data()
    data.setup()
    assert data.num_classes == len(data.class_names) == 200
    assert data.class_names[5] == "word 5"
    assert (len(data.train_indices), len(data.val_indices), len(data.test_indices)) == (200, 200, 200)
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        for image, target, *_ in loader:
            assert image.shape[1:] == (3, 64, 64)
            assert torch.equal((image[:, 0, 5, 5] * 255).round().long(), target)


def test_the_fingerprint_follows_the_training_files(tmp_path, archive):
    shutil.copytree(archive, tmp_path, dirs_exist_ok=True)
    first = make(tmp_path).fingerprint()
    assert make(tmp_path).fingerprint() == first
    os.utime(tmp_path / "tiny-imagenet-200" / "train" / "n00001000" / "images" / "n00001000_0.JPEG", (0, 0))
    assert make(tmp_path).fingerprint() != first


def test_missing_files(tmp_path, archive):
    with pytest.raises(
        UserError, match=r"tiny-imagenet-200 is not there: run once with network .*fetch http.*zip else"
    ):
        make(tmp_path, download=False).setup()
    shutil.copytree(archive, tmp_path, dirs_exist_ok=True)
    (tmp_path / "tiny-imagenet-200" / "val" / "val_annotations.txt").unlink()
    with pytest.raises(UserError, match=r"has no val/val_annotations\.txt"):
        make(tmp_path).setup("test")


def test_download_moves_the_whole_folder_into_place(tmp_path, archive, monkeypatch):
    def download(url, download_root, extract_root, md5, remove_finished):
        assert url.endswith("/tiny-imagenet-200.zip")
        shutil.copytree(archive, extract_root)

    monkeypatch.setattr(tiny_imagenet, "download_and_extract_archive", download)
    data = make(tmp_path)
    data.prepare_data()
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny-imagenet-200"]
    monkeypatch.setattr(tiny_imagenet, "download_and_extract_archive", None)
    data.prepare_data()  # nothing more to fetch
    data.setup("test")


def test_no_network(tmp_path, monkeypatch):
    def fail(*arguments, **settings):
        raise OSError("no route to host")

    monkeypatch.setattr(tiny_imagenet, "download_and_extract_archive", fail)
    with pytest.raises(UserError, match=r"could not be downloaded \(no route to host\)"):
        make(tmp_path).prepare_data()
    assert not (tmp_path / "tiny-imagenet-200").exists()
