"""What every data set of several modalities must do: a new one needs a row in ``sets.py`` and nothing here."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
import yaml

from ctkd_lightning.data._labelled import LabelledDataModule
from tests.data.sets import MULTIMODAL

CONF = Path(__file__).resolve().parents[2] / "conf" / "data"
EACH = pytest.mark.parametrize("cls", MULTIMODAL, ids=lambda cls: cls.name)


@EACH
def test_the_config_shows_the_defaults_of_the_class(cls):
    config = yaml.safe_load((CONF / f"{cls.name}.yaml").read_text())
    assert config.pop("_target_") == f"ctkd_lightning.data.{cls.__name__}"
    assert config.pop("seed") == "${seed}"
    required = {name: "here" for name, value in config.items() if value == "???"}
    ours, default = cls(**{**config, **required}), cls(**required)
    settable = {
        name: parameter.kind
        for base in cls.__mro__
        if issubclass(base, LabelledDataModule)
        for name, parameter in inspect.signature(base).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    }
    assert settable.keys() == config.keys() | {"seed", "batch_size_is_total"}
    assert {name: str(getattr(ours, name)) for name in settable} == {n: str(getattr(default, n)) for n in settable}


@EACH
def test_batches_are_what_the_data_set_says(cls, tmp_path):
    module = cls(batch_size=50, **MULTIMODAL[cls](tmp_path, 0))
    module.prepare_data()
    module.setup()
    assert len(module.class_names) == module.num_classes >= 2
    assert list(module.modalities) == list(module.shapes)
    for loader in (module.train_dataloader(), module.val_dataloader(), module.test_dataloader()):
        for batch in loader:
            assert {name: tuple(batch[name].shape[1:]) for name in module.modalities} == module.modalities
            ours, example = (
                {name: (x.shape[1:], x.dtype) for name, x in samples.items()} for samples in (batch, module.example)
            )
            assert ours == example
            assert all(batch[name].isfinite().all() for name in module.modalities)
            assert batch["target"].min() >= 0
            assert batch["target"].max() < module.num_classes
    train, val = (
        torch.cat([b["index"] for b in loader]) for loader in (module.train_dataloader(), module.val_dataloader())
    )
    assert sorted([*train.tolist(), *val.tolist()]) == list(range(len(module.train_targets)))
    first = next(iter(module.train_dataloader()))
    assert torch.equal(module.train_targets[first["index"]], first["target"])
    classes = set(range(module.num_classes))
    assert set(module.train_targets[module.train_indices].tolist()) == classes


@EACH
def test_another_process_has_the_same_samples(cls, tmp_path):
    """Nothing is drawn from a random state that the process has."""
    settings = MULTIMODAL[cls](tmp_path, 0)
    first, second = ([*cls(**settings).train_dataloader(), *cls(**settings).test_dataloader()] for _ in range(2))
    for ours, other in zip(first, second, strict=True):
        assert all(torch.equal(ours[name], other[name]) for name in other)


@EACH
def test_the_last_modality_alone(cls, tmp_path):
    settings = MULTIMODAL[cls](tmp_path, 0)
    whole = cls(**settings)
    name = list(whole.modalities)[-1]
    alone = cls(modalities=[name], **settings)
    assert alone.modalities == {name: whole.modalities[name]}
    batch, other = (next(iter(module.test_dataloader())) for module in (alone, whole))
    assert set(batch) == {name, "target", "index"}
    assert torch.equal(batch[name], other[name])
