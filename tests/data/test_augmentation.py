import collections

import numpy as np
import pytest
import torch
import torchvision.transforms as T
import torchvision.transforms.functional as TF
from PIL import Image

from ctkd_lightning.data._augmentation import (
    CropFlip,
    NoAugmentation,
    RandomResizedCropFlip,
    ResizeCrop,
    create_augmentation,
)
from ctkd_lightning.errors import UserError


def random_images(count: int, size: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def torchvision_views(image: Image.Image, padding: int, flip: bool) -> list[Image.Image]:
    """Every result that RandomCrop(size, padding) and RandomHorizontalFlip can have."""
    padded = TF.pad(image, padding)
    width, height = image.size
    return [
        TF.hflip(crop) if flipped else crop
        for top in range(2 * padding + 1)
        for left in range(2 * padding + 1)
        for crop in [TF.crop(padded, top, left, height, width)]
        for flipped in ([False, True] if flip else [False])
    ]


@pytest.mark.parametrize(("padding", "flip", "views"), [(4, True, 162), (4, False, 81), (1, True, 18), (0, True, 2)])
def test_every_view_is_torchvisions(padding, flip, views):
    augment = CropFlip(padding, flip)
    assert augment.num_views == views
    images = random_images(views)  # another image for each view
    out = augment.on_batch(images, torch.arange(views))
    for view in range(views):
        expected = torchvision_views(TF.to_pil_image(images[view]), padding, flip)[view]
        assert torch.equal(out[view], TF.pil_to_tensor(expected)), view


def test_drawn_views_are_what_the_reference_transforms_draw():
    torch.manual_seed(0)
    image = TF.to_pil_image(random_images(1, size=4)[0])
    reference = T.Compose([T.RandomCrop(4, padding=1), T.RandomHorizontalFlip()])
    drawn = collections.Counter(reference(image).tobytes() for _ in range(1800))
    ours = CropFlip(padding=1).on_batch(TF.pil_to_tensor(image).expand(18, -1, -1, -1), torch.arange(18))
    assert set(drawn) == {TF.to_pil_image(view).tobytes() for view in ours}
    assert min(drawn.values()) > 60  # about 100 each: the reference is uniform over them, as the sampler is


def test_oblong_images():
    images = torch.arange(2 * 3 * 5 * 7).view(2, 3, 5, 7)
    out = CropFlip(padding=2).on_batch(images, torch.tensor([3, 49]))
    for image, view, result in zip(images, [3, 49], out, strict=True):
        top, left = divmod(view // 2, 5)
        expected = TF.crop(TF.pad(image, 2), top, left, 5, 7)
        assert torch.equal(result, expected.flip(-1) if view % 2 else expected)


@pytest.mark.parametrize("augment", [CropFlip(3), CropFlip(3, flip=False), NoAugmentation()])
def test_view_minus_one_is_the_image(augment):
    images = random_images(2)
    assert torch.equal(augment.on_batch(images, torch.tensor([-1, -1])), images)


def test_a_view_does_not_depend_on_its_batch():
    images, view = random_images(8), torch.arange(8) * 20
    whole = CropFlip().on_batch(images, view)
    for i in range(8):
        assert torch.equal(CropFlip().on_batch(images[i : i + 1], view[i : i + 1])[0], whole[i])


def photo() -> Image.Image:
    return TF.to_pil_image(random_images(1, size=48)[0])


def test_random_resized_crop_is_torchvisions_under_the_views_seed():
    augment = RandomResizedCropFlip(size=24)
    reference = T.Compose([T.RandomResizedCrop(24), T.RandomHorizontalFlip()])
    for view in (0, 1, 2**31 - 1):
        torch.manual_seed(view)
        assert augment(photo(), view).tobytes() == reference(photo()).tobytes()


def test_random_resized_crop_leaves_the_global_random_state():
    before = torch.get_rng_state()
    views = [np.asarray(RandomResizedCropFlip(size=24)(photo(), view)) for view in (1, 2)]
    assert not np.array_equal(*views)
    assert torch.equal(torch.get_rng_state(), before)


def test_evaluation_resizes_and_crops_as_torchvision_does():
    reference = T.Compose([T.Resize(32), T.CenterCrop(24)])(photo())
    assert ResizeCrop(24, resize=32)(photo(), -1).tobytes() == reference.tobytes()
    assert RandomResizedCropFlip(24, resize=32)(photo(), -1).tobytes() == reference.tobytes()


def test_an_image_of_the_final_size_is_left_alone():
    assert ResizeCrop(48)(photo(), -1).tobytes() == photo().tobytes()
    assert ResizeCrop(48, resize=60)(photo(), -1).tobytes() != photo().tobytes()


def test_by_name():
    assert create_augmentation("none", image_size=32) == NoAugmentation()
    assert create_augmentation("crop_flip", image_size=32, padding=2) == CropFlip(2)
    assert create_augmentation("random_resized_crop", image_size=24, resize=32).num_views == 2**31
    assert create_augmentation("random_resized_crop", image_size=24, num_views=10).num_views == 10
    with pytest.raises(UserError, match="unknown augmentation 'crop_flop': did you mean crop_flip"):
        create_augmentation("crop_flop", image_size=32)
    with pytest.raises(UserError, match="padding must be a whole number from 0, found -1"):
        create_augmentation("crop", image_size=32, padding=-1)
