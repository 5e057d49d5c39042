"""Folders of images with one folder a class."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from PIL import Image

from ctkd_lightning._words import printable
from ctkd_lightning.errors import UserError


def check_folder(path: Path, what: str) -> Path:
    """Refuse what is no readable folder.

    Args:
        path: the folder.
        what: its name in the message, such as the setting that gives it.

    Raises:
        UserError: naming the path and what is wrong with it.
    """
    if not path.exists():
        raise UserError(f"{what} {path} does not exist: set root to an existing folder (seen from {Path.cwd()})")
    if not path.is_dir():
        raise UserError(f"{what} {path} is not a folder")
    if not os.access(path, os.R_OK | os.X_OK):
        raise UserError(f"{what} {path} cannot be read: change its permissions")
    return path


def class_folders(split: Path) -> list[str]:
    """The sorted names of a split's class folders.

    Raises:
        UserError: there is none, one that is a link to a folder above itself, or one whose name cannot be shown.
    """
    names = sorted(entry.name for entry in os.scandir(split) if not _hidden(entry.name) and os.path.isdir(entry.path))
    for name in names:
        if _leads_back(str(split / name)):
            raise UserError(f"the class folder {split / name} is a link to a folder that holds it: remove the link")
    for name in names:
        if printable(name) != name:
            raise UserError(f"the class folder {split / name} has control characters in its name: give it another one")
    if not names:
        raise UserError(f"{split} holds no class folders: put the images of each class into a folder of its own there")
    return names


def list_images(split: Path, classes: list[str]) -> tuple[list[str], list[int]]:
    """The images of a split, at any depth below its class folders.

    Hidden files and folders, whose names start with a dot, do not count. Links to folders are followed, but a folder is
    listed once in a class, and links that lead back to a folder above themselves are passed over.

    Args:
        split: the folder that holds the class folders.
        classes: what these must be.

    Returns:
        The files relative to ``split``, sorted within each class, and the index of each one's class.

    Raises:
        UserError: other class folders, or one without images or with a folder that cannot be read.
    """
    found = class_folders(split)
    if found != classes:
        missing, extra = sorted(set(classes) - set(found)), sorted(set(found) - set(classes))
        raise UserError(
            f"{split} has other class folders than the training set: missing {_few(missing)}, extra {_few(extra)}: "
            "every split needs the same ones"
        )
    names: list[str] = []
    targets: list[int] = []
    for target, name in enumerate(classes):
        images = sorted(_images_below(split / name))
        if not images:
            raise UserError(f"the class folder {split / name} holds no images: fill or remove it")
        names += [os.path.relpath(image, split) for image in images]
        targets += [target] * len(images)
    return names, targets


def _images_below(folder: Path) -> list[str]:
    images: list[str] = []
    starts, seen = [str(folder)], set()
    while starts:  # the folder itself, then the links in it: what is reached both ways keeps its own name
        start = starts.pop(0)
        target = os.path.realpath(start)
        for parent, folders, files in os.walk(start, onerror=_refuse):
            place = os.path.normpath(os.path.join(target, os.path.relpath(parent, start)))
            folders[:] = [] if place in seen else sorted(name for name in folders if not _hidden(name))
            if place not in seen:
                images += [os.path.join(parent, file) for file in files if _is_image(file)]
            seen.add(place)
            below = (os.path.join(parent, name) for name in folders)
            starts += [path for path in below if os.path.islink(path) and not _leads_back(path)]
    return images


def _refuse(error: OSError) -> None:  # os.walk by itself would pass over the folder
    raise UserError(f"the folder {error.filename} cannot be read ({error.strerror}): change its permissions") from error


def _leads_back(path: str) -> bool:
    """Whether ``path`` is a link to a folder above it, on the way that led here or where that way really lies."""
    if not os.path.islink(path):
        return False
    target = os.path.realpath(path)
    return any(Path(os.path.realpath(above)).is_relative_to(target) for above in Path(path).absolute().parents)


def _hidden(name: str) -> bool:
    return name.startswith(".")


def _is_image(name: str) -> bool:
    return not _hidden(name) and os.path.splitext(name)[1].lower() in _image_suffixes()


@cache
def _image_suffixes() -> frozenset[str]:
    Image.preinit()  # the common formats first: PIL tries its plugins in the order in which they came
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN)


def _few(names: list[str]) -> str:
    return (", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")) or "none"
