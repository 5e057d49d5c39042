"""What every data set of images must do: a new one needs a row in ``sets.py`` and nothing here."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
import yaml

from ctkd_lightning import data
from ctkd_lightning.data import ImageDataModule
from ctkd_lightning.data._loading.memory import MemoryLoader
from ctkd_lightning.data._loading.workers import WorkerLoader
from ctkd_lightning.errors import UserError
from tests.data.sets import MULTIMODAL, SETS, small

CONFIGS = {path.stem: path for path in (Path(__file__).resolve().parents[2] / "conf" / "data").glob("*.yaml")}
BASES = (
    "Batch", "DetectionDataModule", "ImageDataModule", "MultimodalDataModule", "Samples", "SegmentationDataModule",
    "TokenDataModule",
)  # fmt: skip
OF_THEIR_OWN = {data.Coco, data.DigitMasks, data.DigitScenes, data.StdlibTokens, data.TextFiles}
"""No images with a class: tests in files of their names."""

EXPORTED = {getattr(data, name) for name in data.__all__ if name not in BASES}

pytestmark = pytest.mark.usefixtures("_small_cifar")
EACH = pytest.mark.parametrize("cls", SETS, ids=lambda cls: cls.name)


def test_every_data_set_has_its_row():
    """A row for each, or the tests below pass it over."""
    rows = SETS.keys() | MULTIMODAL.keys() | OF_THEIR_OWN
    assert rows == EXPORTED, "ctkd_lightning.data and tests/data/sets.py name other data sets"


def test_every_data_set_has_its_config():
    assert {cls.name for cls in EXPORTED} == CONFIGS.keys(), "ctkd_lightning.data and conf/data/ name other data sets"


@EACH
def test_the_config_shows_the_defaults_of_the_class(cls):
    config = yaml.safe_load(CONFIGS[cls.name].read_text())
    assert config.pop("_target_") == f"ctkd_lightning.data.{cls.__name__}"
    assert config.pop("seed") == "${seed}"
    cache_dir = config.pop("cache_dir", "")
    assert cache_dir in ("", "${oc.env:CTKD_CACHE_DIR,${oc.env:HOME,.}/.cache/ctkd_lightning}/images")
    assert bool(cache_dir) == cls.in_files, "the config has a cache_dir if the images are in files"
    if config.get("root") == "???":
        del config["root"]  # the user's to say
    ours, default = cls(**config), cls()
    settable = inspect.signature(ImageDataModule).parameters.keys() | inspect.signature(cls).parameters.keys()
    settings = settable & vars(ours).keys()
    assert len(settings) > 15
    assert {name: str(getattr(ours, name)) for name in settings} == {n: str(getattr(default, n)) for n in settings}


@EACH
def test_batches_are_what_the_data_set_says(cls, tmp_path):
    module = small(cls, tmp_path)(augmentation="none", batch_size=5)
    module.prepare_data()
    module.setup()
    assert len(module.class_names) == module.num_classes >= 2
    for loader in (module.train_dataloader(), module.val_dataloader(), module.test_dataloader()):
        for image, target, _, _ in loader:
            assert image.shape == (len(target), 3, module.image_size, module.image_size)
            assert image.dtype == torch.float32
            assert image.isfinite().all()
            assert target.dtype == torch.int64
            assert target.min() >= 0
            assert target.max() < module.num_classes
    train, val = (
        torch.cat([b.index for b in loader]) for loader in (module.train_dataloader(), module.val_dataloader())
    )
    assert module.has_validation or sorted([*train.tolist(), *val.tolist()]) == list(range(len(module.train_targets)))
    first = next(iter(module.train_dataloader()))
    assert torch.equal(module.train_targets[first.index], first.target)


@EACH
def test_in_memory_or_not_the_batches_are_the_same(cls, tmp_path):
    make = small(cls, tmp_path)
    loaders = [make(in_memory=x, batch_size=5, augmentation="crop_flip").train_dataloader() for x in (True, False)]
    assert [type(loader) for loader in loaders] == [MemoryLoader, WorkerLoader]
    for ours, other in zip(*loaders, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(ours, other, strict=True))


@EACH
def test_other_training_images_have_another_identity(cls, tmp_path):
    """Or a teacher that was trained on the ones, and what it gave for them, would be taken for the others'."""
    make = small(cls, tmp_path)
    first, again, other = make(), make(), small(cls, tmp_path / "other", seed=1)()
    again.setup("fit")
    assert again.fingerprint() == first.fingerprint()
    if SETS[cls].fixed:
        assert other.fingerprint() == first.fingerprint()
    else:
        assert other.fingerprint() != first.fingerprint()
        assert other.view_fingerprint() != first.view_fingerprint()


@EACH
def test_the_identity_does_not_depend_on_where_the_images_are_kept(cls, tmp_path):
    make = small(cls, tmp_path)
    kept, decoded = (make(augmentation="crop", in_memory=x) for x in (True, False))
    assert kept.content == decoded.content
    assert kept.fingerprint() == decoded.fingerprint()


@EACH
def test_random_resized_crops_are_made_or_refused(cls, tmp_path):
    make = small(cls, tmp_path)
    if not cls.in_files:
        with pytest.raises(UserError, match=f"{cls.name} has them at one size: take augmentation=crop_flip"):
            make(augmentation="random_resized_crop")
        with pytest.raises(UserError, match=f"resize=500 is for images in files, {cls.name} has them at one size"):
            make(resize=500)
        return
    module = make(augmentation="random_resized_crop", batch_size=1000)
    loader = module.train_dataloader()
    plain, first, second = (
        {int(index): image for batch in epoch for index, image in zip(batch.index, batch.image, strict=True)}
        for epoch in (make(augmentation="none").train_dataloader(), loader, loader)
    )
    for ours, other in ((plain, first), (first, second)):
        assert sum(not torch.equal(ours[index], other[index]) for index in ours) > len(ours) / 2


@EACH
def test_the_home_folder(cls, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    module = small(cls, tmp_path / "images")(root="~/images", cache_dir="~/cache")
    assert (module.root, module.cache_dir) == (tmp_path / "images", tmp_path / "cache")
    module.setup("test")
    assert not Path("~").exists()


@EACH
@pytest.mark.parametrize("value", [True, 64.5, "64", 0, -1, float("nan")])
def test_a_batch_size_that_cannot_be(cls, value):
    with pytest.raises(UserError, match=rf"^batch_size must be a whole number from 1, found {value!r}$"):
        cls(batch_size=value)
