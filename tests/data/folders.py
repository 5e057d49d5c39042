"""Small image folders for the tests."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_images(
    folder: Path, count: int, size: tuple[int, int] = (40, 36), suffix: str = ".png", seed: int = 0
) -> None:
    """Write noise images, width × height, all different."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng((seed, *folder.as_posix().encode()))
    for number in range(count):
        pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}{suffix}")


def image_folder(
    root: Path, splits: dict[str, int], classes: tuple[str, ...] = ("cat", "dog", "eel"), seed: int = 0
) -> Path:
    """``root/<split>/<class>/`` with so many images in each class."""
    for split, count in splits.items():
        for name in classes:
            write_images(root / split / name, count, seed=seed)
    return root
