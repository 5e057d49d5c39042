import pytest
import torch

from ctkd_lightning.detection._images import normalisation_of, renormalised
from tests.detection.small import made


def test_renormalised_images_are_those_of_the_other_networks_own_transform():
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(3, *size, generator=generator) for size in ((32, 40), (40, 32))]
    student = made("rcnn", 1, image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.6, 0.7])
    teacher = made("rcnn", 2)  # ImageNet's
    given, wanted = (network.transform([x.clone() for x in images])[0] for network in (student, teacher))
    assert (given.tensors[0, :, :, 40:] == 0).all()  # there is padding
    found = renormalised(given.tensors, given.image_sizes, normalisation_of(student), normalisation_of(teacher))
    torch.testing.assert_close(found, wanted.tensors)


def test_the_same_normalisation_leaves_images_alone():
    images, one = torch.ones(1, 3, 4, 4), ((0.5, 0.5, 0.5), (1.0, 1.0, 1.0))
    assert renormalised(images, [(4, 4)], one, ((0.5,), (1.0,))) is images


@pytest.mark.parametrize("channels", [3, 4])
def test_a_network_that_does_not_normalise(channels):
    images = torch.full((1, channels, 4, 4), 0.75)
    nothing = normalisation_of(torch.nn.Identity())
    found = renormalised(images, [(4, 4)], nothing, ((0.5,) * channels, (0.5,) * channels))
    torch.testing.assert_close(found, torch.full_like(images, 0.5))
