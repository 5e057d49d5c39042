"""What a detector gave for a batch, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ctkd_lightning.features.outputs import NetworkOutput

BOXES = "boxes"
"""The role of the decoded boxes among the features."""

Normalisation = tuple[Sequence[float], Sequence[float]]


@dataclass
class DetectorOutput(NetworkOutput):
    """What a detector gave in one forward pass, at its *places*: proposals, or anchors.

    Attributes:
        logits: (P, C) of the P proposals of all images together, the background first; or (B, A, C) of the anchors.
        features: under ``boxes``, where a method reads them, the decoded boxes (P, 4) or (B, A, 4): x1, y1, x2, y2 in
            pixels of ``images``.
        images: (B, D, H, W), resized, normalised and padded as the detector's backbone was given them.
        sizes: height and width of each image in these, without its padding.
        normalisation: mean and standard deviation by channel that the detector has normalised the images with.
        places: of each image, (N, 4): x1, y1, x2, y2 in pixels of ``images``.
        labels: the class that was assigned to each place, 0 for background, (P,) or (B, A); ``None`` where classes are
            scored one against the rest, and where there are no targets.
    """

    images: Tensor = field(kw_only=True)
    sizes: list[tuple[int, int]] = field(kw_only=True)
    normalisation: Normalisation = field(kw_only=True)
    places: list[Tensor] = field(kw_only=True)
    labels: Tensor | None = field(default=None, kw_only=True)
