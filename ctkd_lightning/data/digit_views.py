"""scikit-learn's handwritten digits, each seen in several ways."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy import fft, ndimage
from sklearn.datasets import load_digits

from ctkd_lightning.data._labelled import Split
from ctkd_lightning.data._multimodal import MultimodalDataModule
from ctkd_lightning.data._samples import Samples
from ctkd_lightning.data._split import SPLIT_SEED
from ctkd_lightning.data.digits import positions

INK = 8.0
"""Of 16 levels, from which on a pixel belongs to the stroke."""
ORIENTATIONS = 8


def pixels(images: np.ndarray) -> np.ndarray:
    """The pixels themselves (N, 64)."""
    return images.reshape(len(images), -1)


def fourier(images: np.ndarray) -> np.ndarray:
    """log(1 + |F|) of the two-dimensional discrete Fourier transform F, each conjugate pair once (N, 34)."""
    half = np.log1p(np.abs(fft.rfft2(images)))  # (N, 8, 5)
    distinct = np.ones(half.shape[1:], dtype=bool)
    distinct[5:, [0, 4]] = False  # in the columns of frequency zero and of Nyquist, rows 5 to 7 mirror rows 3 to 1
    return half[:, distinct]


def profiles(images: np.ndarray) -> np.ndarray:
    """Sums of rows and columns, and how far the stroke is from the left, right, top and bottom edge (N, 48)."""
    ink = images >= INK
    contours = [_distance(view) for rows in (ink, ink.transpose(0, 2, 1)) for view in (rows, rows[:, :, ::-1])]
    return np.concatenate([images.sum(axis=2), images.sum(axis=1), *contours], axis=1)


def edges(images: np.ndarray) -> np.ndarray:
    """Histograms of the gradients' orientations in four quadrants, weighted by their lengths (N, 32).

    Dalal and Triggs, CVPR 2005, with Sobel's gradient, one cell a block and no interpolation between the bins, of which
    the first lies around the direction to the right.
    """
    down, right = _sobel(images, axis=1), _sobel(images, axis=2)
    length = np.hypot(down, right)
    bins = np.round(np.arctan2(down, right) / (2 * np.pi) * ORIENTATIONS).astype(int) % ORIENTATIONS
    weights = length[..., None] * (bins[..., None] == np.arange(ORIENTATIONS))  # (N, 8, 8, bins)
    quadrants = weights.reshape(len(images), 2, 4, 2, 4, ORIENTATIONS).sum(axis=(2, 4))
    norm = np.linalg.norm(quadrants, axis=-1, keepdims=True)
    return (quadrants / np.maximum(norm, 1.0)).reshape(len(images), -1)


def cosines(images: np.ndarray) -> np.ndarray:
    """The 15 lowest coefficients of the two-dimensional discrete cosine transform: frequencies of sum 4 or less."""
    row, column = np.indices(images.shape[1:])
    return fft.dctn(images, axes=(1, 2), norm="ortho")[:, row + column <= 4]


def noise(images: np.ndarray) -> np.ndarray:
    """Standard normal numbers (N, 64) that know nothing of the digit; the same for everybody."""
    return np.random.default_rng(SPLIT_SEED).standard_normal((len(images), 64))


def _sobel(images: np.ndarray, axis: int) -> np.ndarray:
    # ndimage.sobel would smooth along the samples, too
    return ndimage.correlate1d(ndimage.correlate1d(images, [-1, 0, 1], axis=axis), [1, 2, 1], axis=3 - axis)


def _distance(ink: np.ndarray) -> np.ndarray:
    """From a row's start to its first inked pixel, the row's whole length where there is none: (N, H)."""
    return np.where(ink.any(axis=2), ink.argmax(axis=2), ink.shape[2])


VIEWS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], int]] = {
    "pixels": (pixels, 64),
    "fourier": (fourier, 34),
    "profiles": (profiles, 48),
    "edges": (edges, 32),
    "cosines": (cosines, 15),
    "noise": (noise, 64),
}
"""What makes each view of the digits (N, 8, 8), and how many numbers it has."""


class DigitViews(MultimodalDataModule):
    """1,797 handwritten digits in six views, of which one, ``noise``, says nothing.

    They ship with scikit-learn: no files, no network. ``pixels`` (64), ``fourier`` (34), ``profiles`` (48), ``edges``
    (32) and ``cosines`` (15) are computed from the 8 × 8 pixels. The test set is that of
    :class:`~ctkd_lightning.data.Digits`.

    Args:
        **common: the arguments of :class:`MultimodalDataModule`.
    """

    name = "digit_views"
    default_batch_size = 32  # few samples: more steps in an epoch

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the six views, a vector each."""
        return {name: (features,) for name, (_, features) in VIEWS.items()}

    @property
    def class_names(self) -> list[str]:
        """``"0"`` to ``"9"``."""
        return [str(digit) for digit in range(10)]

    def load(self, split: Split) -> Samples:
        """The training or the test digits."""
        digits = load_digits()
        targets = torch.from_numpy(digits.target).long()
        values = {name: torch.from_numpy(VIEWS[name][0](digits.images)) for name in self.modalities}
        return Samples(values, targets).select(positions(split, targets))
