"""Images with boxes in COCO's format."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.functional import to_tensor

from ctkd_lightning._files import user_path
from ctkd_lightning._reading import check_regular
from ctkd_lightning._words import printable
from ctkd_lightning.data._annotated import AnnotatedImage
from ctkd_lightning.data._checks import flag
from ctkd_lightning.data._detection import DetectionDataModule
from ctkd_lightning.data._image_files import read_image
from ctkd_lightning.data._labelled import Split
from ctkd_lightning.errors import UserError

LABELS = ("order", "ids")


class Coco(DetectionDataModule):
    """Images in a folder and their boxes in a JSON file, as in COCO (Lin et al., ECCV 2014), of any classes.

    A file has ``images`` (``id``, ``file_name``), ``annotations`` (``image_id``, ``category_id``, ``bbox``: left, top,
    width and height in pixels, perhaps ``iscrowd``) and ``categories`` (``id``, ``name``). COCO's test images have no
    public annotations: its validation images are the test set here, and validation is on a part of the training
    images, or with ``val_size=0`` on the test set, as in papers. Boxes around crowds train nothing, and neither do
    boxes without an area; in evaluation nothing counts that is found in a crowd.

    Args:
        root: the folder that the other paths are relative to.
        train_images: folder of the training images.
        train_annotations: their file.
        test_images: folder of the test images.
        test_annotations: their file.
        labels: ``"order"``: 1 to the number of categories, in the order of their ids; ``"ids"``: the ids themselves, as
            torchvision's COCO weights have them.
        keep_empty: train on images without objects too.
        flip: mirror each training image in half of the epochs.
        num_workers: processes that read images.
        **common: the arguments of :class:`DetectionDataModule`.

    Raises:
        UserError: a setting that cannot be; when they are read, files that are missing or broken.
    """

    name = "coco"

    def __init__(
        self,
        root: str | Path,
        *,
        train_images: str = "train2017",
        train_annotations: str = "annotations/instances_train2017.json",
        test_images: str = "val2017",
        test_annotations: str = "annotations/instances_val2017.json",
        labels: str = "order",
        keep_empty: bool = False,
        flip: bool = True,
        num_workers: int = 4,
        **common: Any,
    ) -> None:
        super().__init__(flip=flip, num_workers=num_workers, **common)
        self.root = user_path(root)
        self.folders = {"train": self.root / train_images, "test": self.root / test_images}
        self.files = {"train": self.root / train_annotations, "test": self.root / test_annotations}
        if labels not in LABELS:
            raise UserError(f"labels must be order or ids, found {labels}")
        self.labels = labels
        self.keep_empty = flag("keep_empty", keep_empty)

    @cached_property
    def _annotations(self) -> dict[str, Annotations]:
        found = {split: Annotations(path) for split, path in self.files.items()}
        if found["train"].categories != found["test"].categories:
            raise UserError(
                f"{self.files['train']} and {self.files['test']} have different categories: both need the same ids and "
                "names"
            )
        return found

    @cached_property
    def _label_of(self) -> dict[int, int]:
        ids = list(self._annotations["train"].categories)
        return {category: category if self.labels == "ids" else place for place, category in enumerate(ids, start=1)}

    @property
    def class_names(self) -> list[str]:
        """The categories' names; of ids that no category has ``"-"``."""
        names = {self._label_of[category]: name for category, name in self._annotations["train"].categories.items()}
        return [names.get(label, "-") for label in range(1, max(names) + 1)]

    @property
    def content(self) -> str:
        """A hash of the annotations' file, and how it is read."""
        return f"{self._annotations['train'].digest} {self.labels} {self.keep_empty}"

    @property
    def test_content(self) -> str:
        """Likewise of the test images'."""
        return f"{self._annotations['test'].digest} {self.labels}"

    def load(self, split: Split) -> CocoImages:
        """The training or the test images, which are read when they are asked for."""
        folder, annotations = self.folders[split], self._annotations[split]
        if not folder.is_dir():
            raise UserError(
                f"{self.name} needs the images of {self.files[split]} in {folder}, where is no folder: set "
                f"{split}_images, within root"
            )
        with_empty = split == "test" or self.keep_empty
        return CocoImages(folder, annotations, self._label_of, training=split == "train", with_empty=with_empty)


class CocoImages:
    """Images in files, with their objects.

    Args:
        folder: theirs.
        annotations: what is in them.
        label_of: from a category's id to its label.
        training: whether crowds are left out.
        with_empty: whether images without objects are among them.

    Raises:
        UserError: no image is left.
    """

    def __init__(
        self, folder: Path, annotations: Annotations, label_of: Mapping[int, int], *, training: bool, with_empty: bool
    ) -> None:
        self.folder = folder
        self.names: list[str] = []
        self.objects: list[tuple[Tensor, Tensor, Tensor]] = []
        for image, name in annotations.images.items():
            drawn = [each for each in annotations.objects.get(image, ()) if not (training and each[2])]
            if not drawn and not with_empty:
                continue
            boxes, categories, crowds = zip(*drawn, strict=True) if drawn else ((), (), ())
            self.names.append(name)
            self.objects.append(
                (
                    torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
                    torch.tensor([label_of[category] for category in categories], dtype=torch.int64),
                    torch.tensor(crowds, dtype=torch.int64),
                )
            )
        if not self.names:
            raise UserError(f"{annotations.path} has no image with a box: give another file")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, position: int) -> AnnotatedImage:
        image = to_tensor(read_image(self.folder / self.names[position]))
        boxes, labels, crowds = self.objects[position]
        height, width = image.shape[-2:]
        if len(boxes) and bool((boxes > torch.tensor([width, height, width, height]) + 1).any()):
            raise UserError(
                f"{self.folder / self.names[position]} has {width} × {height} pixels, and a box of its annotations "
                "reaches beyond them: these annotations are of another image"
            )
        limits = torch.tensor([width, height, width, height], dtype=torch.float32)
        boxes = boxes.minimum(limits)
        kept = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)  # of one beyond the border nothing may be left
        return image, {"boxes": boxes[kept], "labels": labels[kept], "iscrowd": crowds[kept]}


class Annotations:
    """The content of a file.

    Args:
        path: the file.

    Attributes:
        categories: from id to name, in the order of the ids.
        images: from id to file name.
        objects: from an image's id to box (left, top, right, bottom), category and whether it is a crowd.
        digest: a hash of the file.

    Raises:
        UserError: no file, or one that is damaged, in one line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        content, self.digest = self._read()
        self.categories: dict[int, str] = {}
        self.images: dict[int, str] = {}
        self.objects: dict[int, list[tuple[tuple[float, ...], int, int]]] = {}
        for entry in self._entries(content, "categories"):
            self.categories[self._whole(entry, "categories", "id")] = printable(str(entry.get("name")))
        self.categories = dict(sorted(self.categories.items()))
        if not self.categories or min(self.categories) < 1:
            raise self._damaged("it needs categories whose ids are 1 or more, 0 being the background's")
        for entry in self._entries(content, "images"):
            self.images[self._whole(entry, "images", "id")] = self._file_name(entry)
        for entry in self._entries(content, "annotations"):
            self._add(entry)

    def _add(self, entry: Mapping[str, Any]) -> None:
        image = self._whole(entry, "annotations", "image_id")
        category = self._whole(entry, "annotations", "category_id")
        for number, known, what in ((image, self.images, "image"), (category, self.categories, "category")):
            if number not in known:
                raise self._damaged(f"an annotation names {what} {number}, which it does not have")
        box = entry.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(_is_number(side) for side in box):
            raise self._damaged(f"a bbox of image {image} is {printable(str(box))[:60]}, no four numbers")
        left, top, width, height = map(float, box)
        left, top, right, bottom = max(left, 0.0), max(top, 0.0), left + width, top + height
        if width > 0 and height > 0 and right > left and bottom > top:
            self.objects.setdefault(image, []).append(
                ((left, top, right, bottom), category, int(bool(entry.get("iscrowd", 0))))
            )

    def _read(self) -> tuple[Mapping[str, Any], str]:
        try:
            check_regular(self.path)
            text = self.path.read_bytes()
            content = json.loads(text)
        except FileNotFoundError as error:
            raise UserError(
                f"no annotations at {self.path}: set data.root, and data.train_annotations and data.test_annotations "
                "within it"
            ) from error
        except (OSError, ValueError, RecursionError) as error:
            raise self._damaged(str(error)) from error
        if not isinstance(content, Mapping):
            raise self._damaged(f"it is a {type(content).__name__}, not an object with images and annotations")
        return content, hashlib.sha256(text).hexdigest()[:32]

    def _entries(self, content: Mapping[str, Any], key: str) -> Sequence[Mapping[str, Any]]:
        found = content.get(key)
        if not isinstance(found, list) or not all(isinstance(entry, Mapping) for entry in found):
            raise self._damaged(f"it has no list of {key}")
        return found

    def _whole(self, entry: Mapping[str, Any], key: str, name: str) -> int:
        value = entry.get(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._damaged(f"an entry of {key} has {printable(str(value))[:60]} for {name}, no whole number")
        return value

    def _file_name(self, entry: Mapping[str, Any]) -> str:
        name = entry.get("file_name")
        path = PurePosixPath(name) if isinstance(name, str) and name else None
        if path is None or path.is_absolute() or ".." in path.parts or "\0" in str(name) or "\\" in str(name):
            raise self._damaged(f"an image's file_name is {printable(str(name))[:60]}, no name within its folder")
        return str(name)

    def _damaged(self, why: str) -> UserError:
        return UserError(f"{self.path} is no file of COCO's format ({why}): mend it or give another")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
