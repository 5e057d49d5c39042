"""Any images in folders, one folder a class."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from ctkd_lightning.data._base import ImageDataModule, Split
from ctkd_lightning.data._folder import check_folder, class_folders, list_images
from ctkd_lightning.data._image_files import ImageFiles
from ctkd_lightning.errors import UserError


class ImageFolder(ImageDataModule):
    """``root/train/<class>/…`` and ``root/test/<class>/…`` or ``root/val/<class>/…``.

    To evaluate only, ``train`` may be missing. With both, ``val`` is the validation set; with one, that one is the test
    set and the validation images come out of the training images. The classes are the folders' sorted names; hidden
    files and folders do not count. Images are JPEG, PNG, WebP, GIF, BMP, PPM or TIFF of any size up to 89 million
    pixels, as RGB by the rules of :func:`~ctkd_lightning.data._rgb.to_rgb`: the short side is resized, then the centre
    is cropped.
    """

    name = "image_folder"
    in_files = True

    @property
    def has_validation(self) -> bool:
        """Whether both ``val`` and ``test`` exist."""
        return (self.root / "val").is_dir() and (self.root / "test").is_dir()

    @cached_property
    def class_names(self) -> list[str]:
        """The class folders' names, sorted."""
        folder = self._folder("train" if (self.root / "train").is_dir() or not self._has_test else "test")
        names = class_folders(folder)
        if len(names) < 2:
            raise UserError(f"{folder} holds one class folder, {names[0]}: at least two classes are needed")
        return names

    @property
    def _has_test(self) -> bool:
        return any((self.root / name).is_dir() for name in ("test", "val"))

    def load(self, split: Split) -> ImageFiles:
        """List the files of a split."""
        folder = self._folder(split)
        names, targets = list_images(folder, self.class_names)
        return ImageFiles(folder, names, targets, self.transform(split))

    def _folder(self, split: Split) -> Path:
        if split == "test" and not (self.root / "test").is_dir():
            return self._existing_folder("val", "test/ or val/")
        return self._existing_folder(split)

    def _existing_folder(self, name: str, wanted: str | None = None) -> Path:
        check_folder(self.root, "the data's root")
        if not (self.root / name).is_dir():
            found = ", ".join(sorted(entry.name for entry in self.root.iterdir())[:5]) or "nothing"
            raise UserError(
                f"{self.root} has no folder {wanted or name + '/'} (found: {found}): put the images into train/ and "
                "test/ or val/, in one folder a class"
            )
        return check_folder(self.root / name, "the data's folder")
