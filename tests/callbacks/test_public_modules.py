"""LightningModules of public packages, unedited: those that are installed are trained for some steps."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from ctkd_lightning import ConstantCurriculum, CurriculumTemperatureCallback

STEPS = 4


def inputs(count, *shape):
    return list(torch.randn(count, *shape, generator=torch.Generator().manual_seed(0)))


def images_and_labels(classes, *, keys=None, maps=False):
    labels = torch.arange(16) % classes
    if maps:
        labels = labels[:, None, None].expand(16, 32, 32).contiguous()
    pairs = zip(inputs(16, 3, 32, 32), labels, strict=True)
    return [dict(zip(keys, pair, strict=True)) for pair in pairs] if keys else list(pairs)


def convnet(classes):
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 15 * 15, classes))


def boring():
    from lightning.pytorch.demos.boring_classes import BoringModel

    return BoringModel(), nn.Linear(32, 2), inputs(16, 32), {}


def demo():
    from lightning.pytorch.demos.boring_classes import DemoModel

    return DemoModel(), nn.Linear(32, 10), inputs(16, 32), {}


def manual_optimization():
    from lightning.pytorch.demos.boring_classes import ManualOptimBoringModel

    return ManualOptimBoringModel(), nn.Linear(32, 2), inputs(16, 32), {}


def transformer(monkeypatch):
    from lightning.pytorch.demos import transformer

    monkeypatch.setattr(transformer, "WikiText2", lambda **_: None)  # which downloads
    tokens = torch.randint(50, (16, 9), generator=torch.Generator().manual_seed(0))
    data = [(row[:-1], row[1:]) for row in tokens]
    return transformer.LightningTransformer(50), transformer.Transformer(50), data, {}


def lightly():
    benchmarking = pytest.importorskip("lightly.utils.benchmarking")
    features = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    module = benchmarking.LinearClassifier(features, 4, feature_dim=8, num_classes=5, topk=(1,))
    return module, convnet(5), images_and_labels(5), {}


def torch_uncertainty():
    routines = pytest.importorskip("torch_uncertainty.routines")
    net = convnet(5)
    recipe = torch.optim.AdamW(net.parameters(), lr=0.01)
    module = routines.ClassificationRoutine(net, 5, nn.CrossEntropyLoss(), optim_recipe=recipe)
    return module, convnet(5), images_and_labels(5), {}


def torchgeo_classification():
    trainers = pytest.importorskip("torchgeo.trainers")
    module = trainers.ClassificationTask(model="resnet18", in_channels=3, num_classes=5)
    return module, convnet(5), images_and_labels(5, keys=("image", "label")), {}


def torchgeo_segmentation():
    trainers = pytest.importorskip("torchgeo.trainers")
    module = trainers.SemanticSegmentationTask(model="unet", backbone="resnet18", in_channels=3, num_classes=5)
    teacher = nn.Conv2d(3, 5, 3, padding=1)
    data = images_and_labels(5, keys=("image", "mask"), maps=True)
    return module, teacher, data, {"class_dim": 1, "mask": lambda batch: batch["mask"] != 0}


def torchgeo_segmentation_with_ignored_pixels():
    """The task and the callback are told of the same ignored index, each in its own way."""
    trainers = pytest.importorskip("torchgeo.trainers")
    settings = {"model": "unet", "backbone": "resnet18", "in_channels": 3, "num_classes": 5, "ignore_index": 0}
    data = images_and_labels(5, keys=("image", "mask"), maps=True)
    told = {"class_dim": 1, "ignore_index": 0, "target": lambda batch: batch["mask"]}
    return trainers.SemanticSegmentationTask(**settings), nn.Conv2d(3, 5, 3, padding=1), data, told


CASES = [
    boring,
    demo,
    manual_optimization,
    transformer,
    lightly,
    torch_uncertainty,
    torchgeo_classification,
    torchgeo_segmentation,
    torchgeo_segmentation_with_ignored_pixels,
]


def trainer_of(module):
    """The Trainer of the distribution that the module is of, and its Callback."""
    if any(kind.__module__.startswith("pytorch_lightning.") for kind in type(module).__mro__):
        import pytorch_lightning as lightning
    else:
        import lightning.pytorch as lightning
    return lightning


def train(make, tmp_path, distil):
    torch.manual_seed(0)
    module, teacher, data, settings = make()
    lightning = trainer_of(module)
    losses, gradients = [], []

    class Spy(lightning.Callback):
        def on_before_optimizer_step(self, trainer, module, optimizer):
            if not gradients:
                gradients.extend(None if p.grad is None else p.grad.clone() for p in module.parameters())

        def on_train_batch_end(self, trainer, module, outputs, *args):
            losses.extend(x for x in [outputs["loss"] if outputs else None] if x is not None)

    callbacks = [Spy()]
    if distil:
        callbacks.append(CurriculumTemperatureCallback(ConstantCurriculum(), copy.deepcopy(teacher), **settings))
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=STEPS,
        num_sanity_val_steps=0,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(
        module, DataLoader(data, batch_size=4), DataLoader(data, batch_size=4)
    )  # a schedule may ask for val_loss
    trainer.save_checkpoint(tmp_path / f"{distil}.ckpt")
    return module, losses, gradients, callbacks[-1]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_public_module(tmp_path, monkeypatch, case):
    def make():
        return case(monkeypatch) if case is transformer else case()

    _, _, plain, _ = train(make, tmp_path, distil=False)
    module, losses, gradients, callback = train(make, tmp_path, distil=True)
    assert all(torch.isfinite(loss) for loss in losses)
    assert len(losses) == STEPS
    assert callback.temperature.value != 1.0  # it moved from its start
    assert any(g is not None and not torch.allclose(g, p) for g, p in zip(gradients, plain, strict=True))

    fresh = make()[0]
    state = torch.load(tmp_path / "True.ckpt", weights_only=False)
    fresh.load_state_dict(state["state_dict"], strict=True)
    expected = module.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in fresh.state_dict().items())
    assert torch.load(tmp_path / "False.ckpt", weights_only=False)["state_dict"].keys() == state["state_dict"].keys()
