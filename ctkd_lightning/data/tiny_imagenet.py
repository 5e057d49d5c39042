"""Tiny ImageNet."""

from __future__ import annotations

import os
import shutil
from functools import cached_property
from pathlib import Path

from torchvision.datasets.utils import download_and_extract_archive

from ctkd_lightning._reading import read_text
from ctkd_lightning._words import printable
from ctkd_lightning.data._base import ImageDataModule, Split
from ctkd_lightning.data._folder import list_images
from ctkd_lightning.data._image_files import ImageFiles
from ctkd_lightning.errors import UserError

FOLDER = "tiny-imagenet-200"
URL = f"http://cs231n.stanford.edu/{FOLDER}.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"


class TinyImageNet(ImageDataModule):
    """100,000 training images of 64 × 64 pixels in 200 classes; the 10,000 labelled ``val`` images are the test set.

    The files are those of the published archive: ``root/tiny-imagenet-200/``. Its own ``test`` has no labels.
    """

    name = "tiny_imagenet"
    in_files = True
    default_image_size = 64
    default_padding = 8

    @property
    def num_classes(self) -> int:
        """200; known without the files."""
        return 200

    @cached_property
    def class_names(self) -> list[str]:
        """The first English name of each class, in the order of the sorted WordNet ids."""
        words = dict(line.split("\t", 1) for line in self._text("words.txt") if "\t" in line)
        unknown = [wnid for wnid in self._wnids if wnid not in words]
        if unknown:
            raise self._missing(f"is damaged, words.txt has no name of {unknown[0]}")
        return [printable(words[wnid].split(",")[0]) for wnid in self._wnids]

    @cached_property
    def _wnids(self) -> list[str]:
        return sorted(self._text("wnids.txt"))

    def has_files(self) -> bool:
        """Whether the archive's folder is there."""
        return self._folder.is_dir()

    def fetch(self) -> None:
        """Download and unpack the archive."""
        unpacked = self.root / f".{FOLDER}.partial"
        try:
            shutil.rmtree(unpacked, ignore_errors=True)
            download_and_extract_archive(URL, str(self.root), str(unpacked), md5=MD5, remove_finished=True)
            os.replace(unpacked / FOLDER, self._folder)  # the folder is there when it is whole
            unpacked.rmdir()
        except (OSError, RuntimeError) as error:
            raise self._missing(f"could not be downloaded ({error})") from error

    def load(self, split: Split) -> ImageFiles:
        """List the files of a split."""
        if split == "train":
            names, targets = list_images(self._existing("train"), self._wnids)
            return ImageFiles(self._folder / "train", names, targets, self.transform(split))
        class_of = {wnid: target for target, wnid in enumerate(self._wnids)}
        labels = {}
        for line in self._text("val/val_annotations.txt"):
            name, wnid, *_ = (*line.split("\t"), "", "")
            if wnid not in class_of or os.path.basename(name) != name or name.startswith("."):
                raise self._missing(f"is damaged, val_annotations.txt has the line {line[:60]!r}")
            labels[name] = class_of[wnid]
        names = sorted(labels)
        return ImageFiles(self._existing("val/images"), names, [labels[name] for name in names], self.transform(split))

    @property
    def _folder(self) -> Path:
        return self.root / FOLDER

    def _existing(self, name: str) -> Path:
        path = self._folder / name
        if not path.exists():
            raise self._missing(f"has no {name}" if self._folder.is_dir() else "is not there")
        return path

    def _text(self, name: str) -> list[str]:
        path = self._existing(name)
        try:
            return read_text(path).splitlines()
        except ValueError as error:
            raise UserError(f"{path} is no text ({error}): fetch {URL} again") from error

    def _missing(self, found: str) -> UserError:
        return UserError(
            f"{self._folder} {found}: run once with network and data.download=true, or fetch {URL} elsewhere and "
            f"unpack it in {self.root}"
        )
