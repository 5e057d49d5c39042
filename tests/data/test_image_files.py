import contextlib
import io
import os

import numpy as np
import pytest
import torch
from PIL import Image

from ctkd_lightning.data._augmentation import ResizeCrop
from ctkd_lightning.data._image_files import FORMATS, ImageFiles, read_image
from ctkd_lightning.data._images import ImageArray
from ctkd_lightning.errors import UserError
from tests.data.folders import write_images

Image.init()


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".ppm", ".webp", ".gif", ".jpg"])
def test_formats(tmp_path, suffix):
    Image.new("RGB", (6, 4), (255, 0, 0)).save(tmp_path / f"x{suffix}")
    image = read_image(tmp_path / f"x{suffix}")
    assert (image.mode, image.size) == ("RGB", (6, 4))
    assert np.abs(np.asarray(image).astype(int) - [255, 0, 0]).max() < 4  # JPEG and WebP lose a little


@pytest.mark.parametrize("damage", [b"", b"text", None])
def test_what_cannot_be_decoded_is_named(tmp_path, damage):
    write_images(tmp_path, 1)
    path = tmp_path / "0.png"
    path.write_bytes(path.read_bytes()[:60] if damage is None else damage)
    with pytest.raises(UserError, match=r"cannot decode the image .*0\.png \(.*\): replace or remove"):
        read_image(path)


def test_an_image_without_a_range_of_values_is_named(tmp_path):
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(
        UserError, match=r"^cannot scale the image .*x\.tif: it holds floating.* 16 bits, or remove it$"
    ):
        read_image(tmp_path / "x.tif")


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


def test_a_link_to_itself_is_named(tmp_path):
    (tmp_path / "loop.png").symlink_to("loop.png")
    files = ImageFiles(tmp_path, ["loop.png"], [0], ResizeCrop(8))
    with pytest.raises(UserError, match=r"^cannot read the image .*loop\.png \(.*\): replace or remove it$"):
        files.digest()
    with pytest.raises(UserError, match=r"loop\.png cannot be read: .*symbolic links"):
        files.pixels_of(0, -1)


def test_an_array_gives_its_images():
    pixels = torch.arange(2 * 3 * 4).view(2, 3, 2, 2).to(torch.uint8)
    images = ImageArray(pixels, torch.tensor([1, 0]))
    assert len(images) == 2
    assert torch.equal(images.pixels_of(1, 17), pixels[1])
    assert images.to(torch.device("cpu")) is images


@pytest.mark.parametrize("format", sorted(set(Image.SAVE) - set(FORMATS)))
def test_other_formats_are_refused_whatever_they_are_called(tmp_path, format):
    path = tmp_path / "x.png"
    for mode in ("RGB", "L", "1"):
        file = io.BytesIO()  # SPIDER's writer would take over the ending of a name
        with contextlib.suppress(Exception):
            Image.new(mode, (16, 16)).save(file, format)
            break
    else:
        pytest.skip(f"no {format} can be written here")
    path.write_bytes(file.getvalue())
    if path.read_bytes()[:2] == b"\xff\xd8":
        pytest.skip("a JPEG of several pictures, as telephones write")
    with pytest.raises(UserError, match=r"^cannot decode the image .*x\.png \(it is no JPEG, PNG.*replace or remove"):
        read_image(path)


@pytest.mark.parametrize("format", FORMATS)
def test_formats_under_another_name(tmp_path, format):
    Image.new("RGB", (16, 16), "red").save(tmp_path / "x.eps", format)
    assert read_image(tmp_path / "x.eps").size == (16, 16)


def test_pipes_and_large_images_are_refused(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(UserError, match=r"x\.png is a named pipe, not a file"):
        read_image(tmp_path / "x.png")
    with pytest.raises(UserError, match=r"cannot read the image .*x\.png: it is no file"):
        ImageFiles(tmp_path, ["x.png"], [0], ResizeCrop(8)).digest()
    (tmp_path / "x.pgm").write_bytes(b"P5 10000 9000 255\n")
    with pytest.raises(UserError, match=r"x\.pgm has 10,000 × 9,000 pixels, and 89,478,485 at most are read"):
        read_image(tmp_path / "x.pgm")
