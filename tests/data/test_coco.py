import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ctkd_lightning.data import Coco
from ctkd_lightning.errors import UserError

CATEGORIES = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}]


def content(first=1, count=6):
    """Images 2 to 5 have a box, the last of them a crowd too; 1 and 6 have none."""
    images = [{"id": i, "file_name": f"{i}.png", "width": 20, "height": 10} for i in range(first, first + count)]
    boxes = [{"id": i, "image_id": i, "category_id": 3 + 4 * (i % 2), "bbox": [i, 1, 4.5, 6], "iscrowd": 0}
             for i in range(first + 1, first + count - 1)]  # fmt: skip
    crowd = {"id": 99, "image_id": first + count - 2, "category_id": 3, "bbox": [0, 0, 20, 10], "iscrowd": 1}
    flat = {"id": 98, "image_id": first + 1, "category_id": 3, "bbox": [3, 3, 0, 5]}
    return {"images": images, "annotations": [*boxes, crowd, flat], "categories": CATEGORIES}


def write(root=Path(), **changed):
    """Six training and six test images whose colour is their id."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for split in ("train", "val"):
        folder = root / f"{split}2017"
        folder.mkdir(exist_ok=True)
        for i in range(1, 7):
            Image.fromarray(np.full((10, 20, 3), i, dtype=np.uint8)).save(folder / f"{i}.png")
        text = json.dumps(content() | (changed if split == "train" else {}))
        (root / f"annotations/instances_{split}2017.json").write_text(text)
    return Coco(root, num_workers=0, flip=False, batch_size=2, val_size=0)


def ids(images):
    return [round(float(images[i][0][0, 0, 0]) * 255) for i in range(len(images))]


def test_boxes_labels_and_images():
    data = write()
    assert data.class_names == ["dog", "cat"]
    assert data.num_classes == 2
    training, test = data.images("train"), data.images("test")
    assert ids(training) == [2, 3, 4, 5]  # those with objects
    assert ids(test) == [1, 2, 3, 4, 5, 6]
    image, objects = training[0]
    assert image.shape == (3, 10, 20)
    assert objects["boxes"].tolist() == [[2.0, 1.0, 6.5, 7.0]]  # the box without an area is left out
    assert objects["labels"].tolist() == [1]
    assert training[1][1]["labels"].tolist() == [2]
    assert training[3][1]["iscrowd"].tolist() == [0]  # and the crowd
    assert test[4][1]["iscrowd"].tolist() == [0, 1]
    assert test[0][1]["boxes"].shape == (0, 4)
    images, objects = next(iter(data.train_dataloader()))
    assert len(images) == len(objects) == 2


def test_labels_by_id_and_images_without_objects():
    write()
    data = Coco(".", num_workers=0, flip=False, labels="ids", keep_empty=True)
    assert data.class_names == ["-", "-", "dog", "-", "-", "-", "cat"]
    assert data.images("train")[1][1]["labels"].tolist() == [3]
    assert ids(data.images("train")) == [1, 2, 3, 4, 5, 6]


def test_a_box_ends_with_its_image():
    boxes = [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [-2.5, 2, 23, 8.4]}]
    data = write(annotations=boxes)
    assert data.images("train")[0][1]["boxes"].tolist() == [[0.0, 2.0, 20.0, 10.0]]


def test_validation_and_what_tells_data_apart():
    data = write()
    assert data.validates_on_test
    assert not Coco(".").validates_on_test
    prints = {
        Coco(".", **more).fingerprint() for more in ({}, {"labels": "ids"}, {"keep_empty": True}, {"flip": False})
    }
    assert len(prints) == 4
    before = data.fingerprint()
    assert write(annotations=content()["annotations"][:2]).fingerprint() != before


ONE = content()["annotations"][0]
BAD = {
    "no list of images": {"images": None},
    "no list of annotations": {"annotations": {"a": 1}},
    "no list of categories": {"categories": ["cat"]},
    "names image 55": {"annotations": [ONE | {"image_id": 55}]},
    "names category 4": {"annotations": [ONE | {"category_id": 4}]},
    "no four numbers": {"annotations": [ONE | {"bbox": [1, 2, 3]}]},
    "image 2 is .*NaN|nan": {"annotations": [ONE | {"bbox": [1, 2, 3, float("nan")]}]},
    "no name within": {"images": [{"id": 2, "file_name": "../secret.png"}]},
    "no name within its": {"images": [{"id": 2, "file_name": "/etc/passwd"}]},
    "for id, no whole": {"images": [{"id": "2", "file_name": "2.png"}]},
    "ids are 1 or more": {"categories": [{"id": 0, "name": "cat"}]},
    "no image with a box": {"annotations": []},
}


@pytest.mark.parametrize("message", BAD)
def test_a_bad_file_is_one_line(message):
    data = write(**BAD[message])
    if "categories" in BAD[message]:
        (Path("annotations/instances_val2017.json")).write_text(json.dumps(content() | BAD[message]))
    with pytest.raises(UserError, match=message) as error:
        data.images("train")
    assert "\n" not in str(error.value)
    assert "instances_train2017.json" in str(error.value)


@pytest.mark.parametrize("text", ["", "[1]", "{", "\x00", '{"images": ' + "[" * 100_000])
def test_no_json_or_no_object(text):
    data = write()
    Path("annotations/instances_train2017.json").write_text(text)
    with pytest.raises(UserError, match=r"no file of COCO's format") as error:
        data.images("train")
    assert "\n" not in str(error.value)


def test_missing_files_and_images():
    data = write()
    Path("train2017/3.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"train2017/3\.png"):
        data.images("train")[1]
    Image.fromarray(np.zeros((4, 4, 3), dtype=np.uint8)).save("train2017/3.png")
    with pytest.raises(UserError, match="4 × 4 pixels"):
        data.images("train")[1]
    with pytest.raises(UserError, match="set train_images"):
        Coco(".", train_images="nowhere").images("train")
    with pytest.raises(UserError, match=r"no annotations at .*set data\.root"):
        Coco("elsewhere").images("train")
    with pytest.raises(UserError, match="order or ids"):
        Coco(".", labels="names")
    (Path("annotations/instances_val2017.json")).write_text(json.dumps(content() | {"categories": CATEGORIES[:1]}))
    with pytest.raises(UserError, match="names category 3"):
        Coco(".").images("train")
    other = [{"id": 3, "name": "dog"}, {"id": 7, "name": "owl"}]
    (Path("annotations/instances_val2017.json")).write_text(json.dumps(content() | {"categories": other}))
    with pytest.raises(UserError, match="different categories"):
        Coco(".").images("train")


def test_a_detector_learns_from_it():
    from ctkd_lightning.models import create_detector

    data = write()
    detector = create_detector("faster_rcnn_small", data.num_classes, channels=(4, 4, 4), box_features=8, image_size=32)
    losses = detector(*next(iter(data.train_dataloader())))
    total = sum(losses.values())
    total.backward()
    assert torch.isfinite(total)
