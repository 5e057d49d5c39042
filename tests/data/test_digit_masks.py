import torch

from ctkd_lightning.data import DigitMasks, DigitScenes

SMALL = {"train_size": 5, "val_size": 3, "test_size": 2}


def test_they_are_the_scenes_with_their_masks():
    data, scenes = DigitMasks(**SMALL, batch_size=2), DigitScenes(**SMALL)
    for split, loader in (("train", data.train_dataloader()), ("val", data.val_dataloader())):
        for image, target, index in loader:
            for own, mask, position in zip(image, target, index.tolist(), strict=True):
                other, objects = scenes.images(split)[position]
                assert torch.equal(own, other)
                assert torch.equal(mask, objects["mask"])
                assert set(mask.unique().tolist()) == {0, *objects["labels"].tolist()}
    assert data.num_classes == 11
    assert data.example_image.shape == (2, 3, 128, 128)
    assert sum(len(batch.index) for batch in data.test_dataloader()) == 2


def test_other_scenes_have_other_names():
    first = DigitMasks(**SMALL)
    same, other, fewer = (
        DigitMasks(**SMALL, seed=4),
        DigitMasks(**SMALL, scene_seed=1),
        DigitMasks(**SMALL, limit_eval=1),
    )
    assert (same.fingerprint(), same.test_fingerprint()) == (first.fingerprint(), first.test_fingerprint())
    assert other.fingerprint() != first.fingerprint()
    assert other.test_fingerprint() != first.test_fingerprint()
    assert (fewer.fingerprint(), fewer.test_fingerprint() != first.test_fingerprint()) == (first.fingerprint(), True)
    assert DigitMasks(**SMALL, limit_train=2).fingerprint() != first.fingerprint()
