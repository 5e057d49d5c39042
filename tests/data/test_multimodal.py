"""Data modules of several modalities, with and without subjects."""

from __future__ import annotations

from types import SimpleNamespace

import lightning
import numpy as np
import pytest
import torch

from ctkd_lightning.data import MultimodalDataModule, Samples
from ctkd_lightning.data._samples import LABELS
from ctkd_lightning.errors import UserError
from tests.quiet import quiet_trainer


class Toy(MultimodalDataModule):
    """Sixty training and ten test samples of three classes, of six people if ``people``."""

    name = "toy"
    shapes = {"sound": (2, 5), "touch": (3,)}  # noqa: RUF012
    class_names = ("a", "b", "c")

    def __init__(self, people: bool = False, **common) -> None:
        super().__init__(**{"batch_size": 8, **common})
        self.people = people

    def load(self, split):
        count = 10 if split == "test" else 60
        generator = torch.Generator().manual_seed(count)
        values = {name: 3 + 2 * torch.randn(count, *shape, generator=generator) for name, shape in self.shapes.items()}
        groups = torch.arange(count) // (count // 6 or 1) + 10
        return Samples(values, torch.arange(count) % 3, groups if self.people else None)


def indices(loader) -> list[int]:
    return [index for batch in loader for index in batch["index"].tolist()]


def test_alone_without_a_trainer():
    data = Toy()
    data.prepare_data()
    data.setup("fit")
    assert (data.num_classes, data.modalities) == (3, {"sound": (2, 5), "touch": (3,)})
    batch = next(iter(data.train_dataloader()))
    assert {name: (tuple(x.shape), x.dtype) for name, x in batch.items()} == {
        "sound": ((8, 2, 5), torch.float32),
        "touch": ((8, 3), torch.float32),
        "target": ((8,), torch.int64),
        "index": ((8,), torch.int64),
    }
    assert torch.equal(data.train_targets[batch["index"]], batch["target"])
    assert {name: (tuple(x.shape[1:]), x.dtype) for name, x in data.example.items()} == {
        name: (tuple(x.shape[1:]), x.dtype) for name, x in batch.items()
    }
    assert all(len(x) == 2 and not x.any() for x in data.example.values())


def test_train_validation_and_test_are_apart_and_stratified():
    data = Toy(val_size=0.25)
    train, val, test = (indices(x()) for x in (data.train_dataloader, data.val_dataloader, data.test_dataloader))
    assert sorted(train + val) == list(range(60))
    assert np.bincount(np.array(val) % 3).tolist() == [5, 5, 5]
    assert test == list(range(10)) == indices(data.predict_dataloader())
    assert not data.validates_on_test


def test_validation_on_test_says_so():
    data = Toy(val_size=0)
    assert data.validates_on_test
    assert len(indices(data.train_dataloader())) == 60
    val, test = (next(iter(x())) for x in (data.val_dataloader, data.test_dataloader))
    assert all(torch.equal(val[name], test[name]) for name in test)


@pytest.mark.parametrize(("val_size", "people"), [(1, 1), (2, 2), (0.5, 3), (0.01, 1)])
def test_whole_people_validate(val_size, people):
    data = Toy(people=True, val_size=val_size)
    person = torch.arange(60) // 10
    train, val = (set(person[x].tolist()) for x in (data.train_indices, data.val_indices))
    assert len(val) == people
    assert not train & val
    assert train | val == set(range(6))
    assert len(data.val_indices) == 10 * people
    assert torch.equal(data.val_indices, Toy(people=True, val_size=val_size, seed=5).val_indices)


def test_not_all_people_can_validate():
    with pytest.raises(UserError, match="val_size=6 of 6 training subjects leaves none to train: lower it"):
        Toy(people=True, val_size=6).train_dataloader()


def test_standardised_by_the_samples_that_train():
    data = Toy(val_size=0.5, limit_train=20, limit_eval=9)
    assert (len(data.train_indices), len(data.val_indices), len(data.test_indices)) == (20, 9, 9)
    raw = {split: data.load(split).values for split in ("train", "test")}
    loaders = [("train", data.train_dataloader()), ("train", data.val_dataloader()), ("test", data.test_dataloader())]
    for name, axes in (("sound", (0, 2)), ("touch", 0)):
        trained = raw["train"][name].double().numpy()[data.train_indices]
        mean, deviation = trained.mean(axis=axes, keepdims=True), trained.std(axis=axes, keepdims=True)
        for split, loader in loaders:
            for batch in loader:
                expected = (raw[split][name][batch["index"]].numpy() - mean) / deviation
                np.testing.assert_allclose(batch[name].numpy(), expected, rtol=1e-5, atol=1e-6)


def test_the_order_is_a_function_of_seed_and_epoch():
    def epochs(seed: int) -> list[list[int]]:
        loader = Toy(seed=seed).train_dataloader()
        return [indices(loader) for _ in range(2)]

    first, second = epochs(3)
    assert epochs(3) == [first, second]
    assert sorted(first) == sorted(second)
    assert len({str(order) for order in (first, second, *epochs(4))}) == 4


def test_chosen_modalities_in_that_order():
    data = Toy(modalities=["touch", "sound"])
    assert list(next(iter(data.train_dataloader()))) == ["touch", "sound", "target", "index"]
    alone = Toy(modalities="touch")
    assert alone.modalities == {"touch": (3,)}
    batch, other = (next(iter(x.val_dataloader())) for x in (alone, data))
    assert set(batch) == {"touch", *LABELS}
    assert torch.equal(batch["touch"], other["touch"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"modalities": ["touch", "sounds"]}, "toy has no modality 'sounds': did you mean sound"),
        ({"modalities": [3]}, "toy has no modality 3: Valid: sound, touch"),
        ({"modalities": []}, r"modalities=\[\]: name one or more, each once"),
        ({"modalities": ["touch", "touch"]}, "name one or more, each once"),
        ({"batch_size": 0}, "batch_size must be a whole number from 1, found 0"),
        ({"val_size": 1.0}, "val_size, unless it is a count, must be"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(UserError, match=message):
        Toy(**settings)


def test_other_shapes_than_said():
    class Wrong(Toy):
        shapes = {"sound": (2, 5), "touch": (4,)}  # noqa: RUF012

        def load(self, split):
            return Toy().load(split)

    with pytest.raises(UserError, match=r"toy has touch of shape \(3,\), expected \(4,\): replace its files"):
        Wrong().setup()


def test_two_processes_train_on_disjoint_shares():
    def share(rank: int, loader: str) -> list[int]:
        data = Toy(val_size=0)
        strategy = SimpleNamespace(root_device=torch.device("cpu"))
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2, strategy=strategy)
        return indices(getattr(data, loader)())

    for loader, count in (("train_dataloader", 60), ("test_dataloader", 10)):
        first, second = (share(rank, loader) for rank in (0, 1))
        assert len(first) == len(second) == count / 2
        assert sorted(first + second) == list(range(count))


class Recorder(lightning.LightningModule):
    """Records what it trains on, and saves a checkpoint after a step."""

    def __init__(self, path=None, save_after: int = 0) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[list[int], float]] = []
        self.path, self.save_after = path, save_after

    def training_step(self, batch, batch_idx):
        self.seen.append((batch["index"].tolist(), batch["sound"].double().sum().item()))
        return self.weight * batch["touch"].sum() * 0

    def validation_step(self, batch, batch_idx):
        self.log("val/size", float(len(batch["target"])), batch_size=len(batch["target"]))

    def on_train_batch_end(self, *arguments):
        if self.global_step == self.save_after:
            self.trainer.save_checkpoint(self.path)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("step", [3, 7, 9])  # within an epoch of seven batches, at its end, within the next
def test_resume_under_lightning_is_exact(tmp_path, step):
    whole, rest = Recorder(tmp_path / "x.ckpt", step), Recorder()
    quiet_trainer(tmp_path, max_epochs=2).fit(whole, datamodule=Toy())
    quiet_trainer(tmp_path, max_epochs=2).fit(rest, datamodule=Toy(), ckpt_path=tmp_path / "x.ckpt")
    assert len(whole.seen) == 14
    assert rest.seen == whole.seen[step:]
