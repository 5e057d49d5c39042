import pytest
import torch
import torchvision.transforms as T

from ctkd_lightning.data._augmentation import CropFlip, NoAugmentation
from ctkd_lightning.data._loading.preprocess import Preprocess

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
CPU = torch.device("cpu")


@pytest.fixture
def images():
    return torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_normalises_as_torchvision_does(images):
    reference = T.Compose([T.ToPILImage(), T.ToTensor(), T.Normalize(MEAN, STD)])
    out = Preprocess(NoAugmentation().on_batch, MEAN, STD, CPU)(images, torch.full((6,), -1))
    assert torch.equal(out, torch.stack([reference(image) for image in images]))


def test_padding_is_black_before_normalisation(images):
    out = Preprocess(CropFlip(padding=2, flip=False).on_batch, MEAN, STD, CPU)(
        images, torch.zeros(6, dtype=torch.int64)
    )
    black = -torch.tensor(MEAN) / torch.tensor(STD)
    torch.testing.assert_close(out[:, :, 0, 0], black.expand(6, -1))


def test_the_stored_images_stay_as_they_are(images):
    kept = images.clone()
    Preprocess(NoAugmentation().on_batch, MEAN, STD, CPU)(images, torch.full((6,), -1))
    assert torch.equal(images, kept)


def test_channels_last_changes_the_layout_alone(images):
    view = torch.arange(6)
    out, last = (Preprocess(CropFlip().on_batch, MEAN, STD, CPU, channels_last=x)(images, view) for x in (False, True))
    assert out.is_contiguous()
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(out, last)
