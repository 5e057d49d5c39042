import os
import time

import numpy as np
import pytest
import torch

from ctkd_lightning.data._augmentation import ResizeCrop
from ctkd_lightning.data._image_files import ImageFiles
from ctkd_lightning.data._loading import decode
from ctkd_lightning.errors import UserError
from tests.data.folders import write_images
from tests.processes import run_in_processes


@pytest.fixture
def files(tmp_path):
    write_images(tmp_path / "images", 5)
    return ImageFiles(tmp_path / "images", [f"{i}.png" for i in range(5)], [0, 1, 2, 0, 1], ResizeCrop(12))


def refuse_to_decode(*arguments):
    raise AssertionError("decoded again")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_decodes_what_the_ordinary_path_does(files, num_workers, monkeypatch):
    monkeypatch.setattr(decode, "IMAGES_A_WORKER", 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    images = files.in_memory(12, num_workers=num_workers)
    assert images.targets.tolist() == [0, 1, 2, 0, 1]
    assert torch.equal(images.pixels, torch.stack([files.pixels_of(i, -1) for i in range(5)]))


def test_a_second_start_decodes_nothing(files, tmp_path, monkeypatch):
    first = files.in_memory(12, tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 1  # and nothing partial
    monkeypatch.setattr(decode, "_decode", refuse_to_decode)
    assert torch.equal(files.in_memory(12, tmp_path / "cache").pixels, first.pixels)


def test_changed_files_or_sizes_are_decoded_again(files, tmp_path):
    files.in_memory(12, tmp_path / "cache")
    write_images(tmp_path / "images", 5, seed=1)
    again = files.in_memory(12, tmp_path / "cache")
    assert torch.equal(again.pixels[4], files.pixels_of(4, -1))
    other = ImageFiles(files.root, [f"{i}.png" for i in range(5)], [0, 1, 2, 0, 1], ResizeCrop(12, resize=20))
    assert torch.equal(other.in_memory(12, tmp_path / "cache").pixels[0], other.pixels_of(0, -1))


@pytest.mark.parametrize("damage", ["cut", "empty", "other shape", "pickle"])
def test_a_damaged_cache_is_not_believed(files, tmp_path, damage):
    expected = files.in_memory(12, tmp_path / "cache").pixels
    (kept,) = (tmp_path / "cache").iterdir()
    if damage == "cut":
        kept.write_bytes(kept.read_bytes()[:-100])
    elif damage == "empty":
        kept.write_bytes(b"")
    else:
        np.save(kept, np.zeros((5, 3, 6, 6), np.uint8) if damage == "other shape" else np.array([{}], object))
    assert torch.equal(files.in_memory(12, tmp_path / "cache").pixels, expected)


def test_a_flipped_byte_anywhere_is_seen(files, tmp_path, monkeypatch):
    expected = files.in_memory(12, tmp_path / "cache").pixels
    (kept,) = (tmp_path / "cache").iterdir()
    whole = kept.read_bytes()
    assert np.array_equal(np.load(kept), expected)  # and it is still an array for others
    for place in [*range(0, 128, 3), *range(128, len(whole), 101), len(whole) - 1]:
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        kept.write_bytes(damaged)
        assert torch.equal(files.in_memory(12, tmp_path / "cache").pixels, expected), place


def test_no_pipe_is_waited_for(files, tmp_path):
    expected = files.in_memory(12, tmp_path / "cache").pixels
    (kept,) = (tmp_path / "cache").iterdir()
    kept.unlink()
    os.mkfifo(kept)
    assert torch.equal(files.in_memory(12, tmp_path / "cache").pixels, expected)
    assert kept.is_file()


def test_an_unwritable_cache_is_no_error(files, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    assert len(files.in_memory(12, tmp_path / "file" / "cache")) == 5

    def full(*arguments):
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "save", full)
    assert len(files.in_memory(12, tmp_path / "cache")) == 5
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_broken_file_is_named(files, tmp_path):
    (tmp_path / "images" / "3.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"^cannot decode the image .*3\.png"):
        files.in_memory(12, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_of_several_processes_one_decodes_and_the_others_read(files, tmp_path, monkeypatch):
    decode_all = decode._decode

    def logged(*arguments):
        with (tmp_path / "log").open("a") as log:
            log.write("decoded\n")
        time.sleep(0.5)
        return decode_all(*arguments)

    def check():
        assert len(files.in_memory(12, tmp_path / "cache")) == 5

    monkeypatch.setattr(decode, "_decode", logged)
    assert run_in_processes(3, check) == [0] * 3
    assert (tmp_path / "log").read_text() == "decoded\n"
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".npy"]


def test_decoded_images_are_known_as_their_files(files, tmp_path):
    assert files.in_memory(12).digest() == files.in_memory(12, tmp_path / "cache").digest() == files.digest()
