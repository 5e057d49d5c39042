"""Images that one network has normalised, as another would have."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ctkd_lightning.detection.output import Normalisation


def normalisation_of(network: nn.Module) -> Normalisation:
    """Mean and standard deviation by channel that a detector normalises images with; 0 and 1 where it does not."""
    transform = getattr(network, "transform", None)
    return tuple(getattr(transform, "image_mean", (0.0,))), tuple(getattr(transform, "image_std", (1.0,)))


def renormalised(
    images: Tensor, sizes: Sequence[tuple[int, int]], given: Normalisation, wanted: Normalisation
) -> Tensor:
    r"""Images :math:`(x - m) / s` as :math:`(x - m') / s'`, with zeros in the padding, as before.

    Args:
        images: (B, D, H, W).
        sizes: height and width of each image without its padding, which is below and to the right.
        given: m and s, by channel or one for all.
        wanted: m' and s'.
    """
    if all(_alike(*values) for values in zip(given, wanted, strict=True)):  # in Python: a tensor's would be waited for
        return images
    (mean, std), (new_mean, new_std) = (
        (images.new_tensor(values).view(1, -1, 1, 1) for values in each) for each in (given, wanted)
    )
    result = (images * std + (mean - new_mean)) / new_std
    for image, (height, width) in zip(result, sizes, strict=True):
        image[:, height:] = 0
        image[:, :, width:] = 0
    return result


def _alike(own: Sequence[float], other: Sequence[float]) -> bool:
    """Whether values by channel are the same; one alone is of all channels."""
    channels = max(len(own), len(other))
    whole = [values if len(values) == channels else [*values] * channels for values in (own, other)]
    return all(float(a) == float(b) for a, b in zip(*whole, strict=True))
