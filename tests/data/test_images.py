import os

import numpy as np
import pytest
import torch
from PIL import Image

from ctkd_lightning.data.augmentation import ResizeCrop
from ctkd_lightning.data.images import ImageArray, ImageFiles, read_image
from ctkd_lightning.errors import UserError
from tests.data.folders import write_images


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".ppm", ".webp", ".gif", ".jpg"])
def test_formats(tmp_path, suffix):
    Image.new("RGB", (6, 4), (255, 0, 0)).save(tmp_path / f"x{suffix}")
    image = read_image(tmp_path / f"x{suffix}")
    assert (image.mode, image.size) == ("RGB", (6, 4))
    assert np.abs(np.asarray(image).astype(int) - [255, 0, 0]).max() < 4  # JPEG and WebP lose a little


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [("L", 7, (7, 7, 7)), ("1", 1, (255, 255, 255)), ("RGBA", (9, 8, 7, 0), (9, 8, 7)), ("P", 0, (0, 0, 0))],
)
def test_modes_become_rgb(tmp_path, mode, colour, expected):
    Image.new(mode, (2, 2), colour).save(tmp_path / "x.png")
    assert read_image(tmp_path / "x.png").getpixel((0, 0)) == expected


def test_sixteen_bits_are_scaled(tmp_path):
    Image.fromarray(np.array([[0, 256 * 100], [256 * 200, 65535]], dtype=np.uint16)).save(tmp_path / "x.png")
    pixels = np.asarray(read_image(tmp_path / "x.png"))
    assert pixels[..., 0].tolist() == [[0, 100], [200, 255]]


@pytest.mark.parametrize("damage", [b"", b"text", None])
def test_what_cannot_be_decoded_is_named(tmp_path, damage):
    write_images(tmp_path, 1)
    path = tmp_path / "0.png"
    path.write_bytes(path.read_bytes()[:60] if damage is None else damage)
    with pytest.raises(UserError, match=r"cannot decode the image .*0\.png \(.*\): replace or remove"):
        read_image(path)


def test_files_are_decoded_as_they_are_asked_for(tmp_path):
    write_images(tmp_path / "a", 2, size=(8, 8))
    files = ImageFiles(tmp_path, ["a/0.png", "a/1.png"], [3, 5], ResizeCrop(8))
    assert len(files) == 2
    assert files.targets.tolist() == [3, 5]
    pixels = files.pixels_of(1, -1)
    assert pixels.dtype == torch.uint8
    assert torch.equal(pixels, torch.from_numpy(np.array(Image.open(tmp_path / "a/1.png"))).permute(2, 0, 1))


def test_a_view_of_two_images_is_two_views(tmp_path):
    """Each (sample, view) has a seed of its own; view -1 has none."""
    write_images(tmp_path, 3)
    asked = []
    files = ImageFiles(
        tmp_path, [f"{i}.png" for i in range(3)], [0] * 3, lambda image, view: asked.append(view) or image
    )
    for index in range(3):
        for view in range(-1, 2):
            files.pixels_of(index, view)
    assert asked == [-1, 0, 3, -1, 1, 4, -1, 2, 5]


def test_names_that_are_no_utf8(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    write_images(tmp_path, 1)
    (tmp_path / "0.png").rename(tmp_path / name)
    assert ImageFiles(tmp_path, [name], [0], ResizeCrop(8)).pixels_of(0, -1).shape == (3, 8, 8)


def test_the_digest_follows_the_files(tmp_path):
    write_images(tmp_path, 2)

    def digest(names=("0.png", "1.png"), targets=(0, 1)):
        return ImageFiles(tmp_path, names, targets, ResizeCrop(8)).digest()

    first = digest()
    assert digest() == first
    assert digest(targets=(1, 0)) != first
    assert digest(names=("1.png", "0.png")) != first
    os.utime(tmp_path / "1.png", (0, 0))
    assert digest() != first


def test_an_array_gives_its_images():
    pixels = torch.arange(2 * 3 * 4).view(2, 3, 2, 2).to(torch.uint8)
    images = ImageArray(pixels, torch.tensor([1, 0]))
    assert len(images) == 2
    assert torch.equal(images.pixels_of(1, 17), pixels[1])
    assert images.to(torch.device("cpu")) is images
