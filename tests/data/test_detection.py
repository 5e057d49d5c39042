import pytest
import torch

from ctkd_lightning.data import DetectionDataModule
from ctkd_lightning.data._annotated import flipped
from ctkd_lightning.errors import UserError


class Squares(DetectionDataModule):
    """Image i has the colour i and as many objects as i modulo 3."""

    name = "squares"
    class_names = ("square",)
    content = test_content = ""

    def load(self, split):
        if split == "val":
            raise AssertionError("there is none")
        return [self.draw(i + (100 if split == "test" else 0)) for i in range(20)]

    @staticmethod
    def draw(i):
        boxes = torch.tensor([[0.0, 1.0, 2.0, 3.0]]).repeat(i % 3, 1)
        return torch.full((3, 4, 6 + i % 2), i / 255), {"boxes": boxes, "labels": torch.ones(i % 3, dtype=torch.int64)}


def seen(loader):
    return [[round(float(image[0, 0, 0]) * 255) for image in images] for images, _ in loader]


def test_batches_are_lists_as_detectors_take_them():
    data = Squares(batch_size=4)
    images, objects = next(iter(data.train_dataloader()))
    assert len(images) == len(objects) == 4
    for image, each in zip(images, objects, strict=True):
        number = round(float(image[0, 0, 0]) * 255)
        assert image.shape == (3, 4, 6 + number % 2)
        assert each["boxes"].shape == (number % 3, 4)


def test_each_training_image_once_in_an_order_of_seed_and_epoch():
    first, again, other = (Squares(batch_size=4, seed=s).train_dataloader() for s in (0, 0, 1))
    epochs = [seen(first), seen(first)]
    assert [seen(again), seen(again)] == epochs
    assert epochs[0] != epochs[1] != seen(other)
    data = Squares(batch_size=4)
    everything = sorted(n for batch in epochs[0] for n in batch)
    assert everything == sorted(data.train_indices.tolist())
    validated = [n for batch in seen(data.val_dataloader()) for n in batch]
    assert sorted(everything + validated) == list(range(20))  # a tenth of the training images validates
    assert [n for batch in seen(data.test_dataloader()) for n in batch] == list(range(100, 120))
    assert not data.validates_on_test


def test_goes_on_in_the_middle_of_an_epoch():
    whole = seen(Squares(batch_size=4).train_dataloader())
    loader = Squares(batch_size=4).train_dataloader()
    batches = iter(loader)
    next(batches)
    next(batches)
    later = Squares(batch_size=4).train_dataloader()
    later.load_state_dict(loader.state_dict())
    assert seen(later) == whole[2:]


def test_mirrors_about_half_of_the_training_images_and_their_boxes():
    data = Squares(batch_size=18, flip=True, val_size=2)
    for epoch in range(2):
        left = [each["boxes"][0, 0] for each in next(iter(data.train_dataloader()))[1] if len(each["boxes"])]
        assert 0 < sum(float(x) > 0 for x in left) < len(left), epoch
    for loader in (data.val_dataloader(), data.test_dataloader()):
        for images, objects in loader:
            assert all(each["boxes"][0, 0] == 0 for each in objects if len(each["boxes"]))
            assert images


def test_an_image_and_its_mask_are_mirrored_with_the_boxes():
    objects = {"labels": torch.tensor([5]), "mask": torch.tensor([[5, 5, 0]])}
    objects["boxes"] = torch.tensor([[0.0, 0.0, 2.0, 1.0]])
    image, objects = flipped(torch.tensor([[[0.0, 1.0, 2.0]]]), objects)
    assert image.tolist() == [[[2.0, 1.0, 0.0]]]
    assert {name: value.tolist() for name, value in objects.items()} == {
        "boxes": [[1.0, 0.0, 3.0, 1.0]], "labels": [5], "mask": [[0, 5, 5]],
    }  # fmt: skip


def test_read_by_workers():
    own, workers = (Squares(batch_size=4, num_workers=count).train_dataloader() for count in (0, 1))
    assert seen(workers) == seen(own)


@pytest.mark.parametrize("wrong", [{"flip": 1.5}, {"num_workers": -1}, {"batch_size": 0}])
def test_settings_that_cannot_be(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        Squares(**wrong)
