import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from ctkd_lightning.data import Digits, DigitScenes
from ctkd_lightning.data.digit_scenes import INK, SIZES, _digits_of
from ctkd_lightning.errors import UserError

SMALL = {"train_size": 12, "val_size": 3, "test_size": 3}


@pytest.fixture(scope="module")
def scenes():
    return DigitScenes(**SMALL).images("train")


def test_boxes_are_drawn_around_the_pixels_of_their_digits(scenes):
    for image, objects in (scenes[i] for i in range(len(scenes))):
        assert image.shape == (3, 128, 128)
        assert 0 <= image.min() < image.max() <= 1
        assert torch.equal(image[0], image[2])
        assert 1 <= len(objects["boxes"]) == len(objects["labels"]) <= 8
        rest = objects["mask"].clone()
        for (left, top, right, bottom), label in zip(objects["boxes"].int().tolist(), objects["labels"], strict=True):
            rows, columns = (objects["mask"][top:bottom, left:right] == label).nonzero().T
            assert [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1] == [0, 0, bottom - top, right - left]
            assert max(right - left, bottom - top) <= SIZES[1]
            assert min(right - left, bottom - top) >= 3
            rest[top:bottom, left:right] = 0
        assert not rest.any()  # nothing beside the boxes, which therefore lie apart


def test_strokes_are_brighter_than_the_paper_around_them(scenes):
    brighter = []
    for image, objects in (scenes[i] for i in range(len(scenes))):
        for (left, top, right, bottom), label in zip(objects["boxes"].int().tolist(), objects["labels"], strict=True):
            part, ink = image[0, top:bottom, left:right], objects["mask"][top:bottom, left:right] == label
            brighter.append(float(part[ink].mean() - part[~ink].mean()) if (~ink).any() else 0.0)
    assert np.mean(np.array(brighter) > 0.05) > 0.8


def test_a_label_is_one_more_than_its_digit(monkeypatch, tmp_path):
    """Scenes of one kind of digit alone."""
    monkeypatch.setattr(
        "ctkd_lightning.data.digit_scenes._digits_of", lambda split, targets: (targets == 7).nonzero().flatten()[:20]
    )
    _, objects = DigitScenes(**SMALL).images("val")[0]
    assert set(objects["labels"].tolist()) == {8}
    assert set(objects["mask"].unique().tolist()) == {0, 8}


def test_the_same_seed_draws_the_same_scenes_and_another_draws_others(scenes):
    again, other = DigitScenes(**SMALL, seed=5).images("train"), DigitScenes(**SMALL, scene_seed=1).images("train")
    longer = DigitScenes(**{**SMALL, "train_size": 14}).images("train")
    for i in range(12):
        assert torch.equal(scenes[i][0], again[i][0])
        assert torch.equal(scenes[i][0], longer[i][0])
        assert not torch.equal(scenes[i][0], other[i][0])


def test_no_digit_is_in_two_splits():
    targets = torch.from_numpy(load_digits().target).long()
    chosen = {split: set(_digits_of(split, targets).tolist()) for split in ("train", "val", "test")}
    assert sorted(chosen["train"] | chosen["val"] | chosen["test"]) == list(range(1797))
    assert sum(map(len, chosen.values())) == 1797
    digits = Digits()
    digits.setup("test")
    assert sorted(targets[sorted(chosen["test"])].tolist()) == sorted(digits._targets("test").tolist())
    assert INK < 1


def test_what_tells_scenes_apart():
    prints = [DigitScenes(**{**SMALL, **more}).fingerprint()
              for more in ({}, {"train_size": 13}, {"scene_seed": 1}, {"flip": True}, {"limit_train": 4})]  # fmt: skip
    assert len(set(prints)) == len(prints)
    assert DigitScenes(**SMALL, seed=3).fingerprint() == prints[0]
    assert DigitScenes(**SMALL).test_fingerprint() != DigitScenes(**{**SMALL, "test_size": 4}).test_fingerprint()


def test_settings_that_cannot_be():
    for wrong in ({"train_size": 0}, {"val_size": 0.5}, {"scene_seed": -1}, {"num_workers": 999}, {"flip": "no"}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            DigitScenes(**wrong)
