import pytest
import torch

from ctkd_lightning.errors import UserError
from ctkd_lightning.models import SmallSegmenter, available_segmenters, create_segmenter


@pytest.mark.parametrize("channels", [(4,), (4, 6), (4, 6, 8)])
def test_each_pixel_has_logits(channels):
    network = SmallSegmenter(5, channels=channels)
    assert network(torch.zeros(2, 3, 16, 24)).shape == (2, 5, 16, 24)


def test_a_pixel_sees_its_surroundings_and_no_other_image():
    torch.manual_seed(0)
    network, images = SmallSegmenter(3, channels=(4, 6)).eval(), torch.randn(2, 3, 16, 16)
    changed = images.clone()
    changed[1] += 1
    with torch.no_grad():
        assert torch.equal(network(images)[0], network(changed)[0])


def test_torchvisions_are_known_by_name():
    assert "torchvision/lraspp_mobilenet_v3_large" in available_segmenters()
    network = create_segmenter("torchvision/lraspp_mobilenet_v3_large", 7).eval()
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 7, 64, 64)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: create_segmenter("segmenter_smal", 3), "did you mean segmenter_small"),
        (lambda: create_segmenter("segmenter_small", 3, depth=2), "unexpected keyword argument 'depth'"),
        (lambda: create_segmenter("segmenter_small", 3, pretrained=True), "no weights for other classes"),
        (lambda: SmallSegmenter(3, channels=()), "channels must be numbers above 0"),
        (lambda: SmallSegmenter(3, channels=(4, 6))(torch.zeros(1, 3, 10, 16)), "multiples of 4, found"),
    ],
)
def test_what_cannot_be_is_told(make, message):
    with pytest.raises(UserError, match=message):
        make()
