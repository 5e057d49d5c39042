"""The module's own losses and metrics follow the task; batches of every form."""

from collections import namedtuple

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score, f1_score
from torch import nn
from torch.utils.data import DataLoader

from ctkd_lightning import DistillationModule, GlobalTemperature
from ctkd_lightning.errors import UserError
from ctkd_lightning.modules.classifier import ClassifierModule
from tests.quiet import quiet_trainer

Named = namedtuple("Named", ["y", "x"])
X = torch.randn(24, 6, generator=torch.Generator().manual_seed(0))


def network(seed, scores):
    torch.manual_seed(seed)
    return nn.Linear(6, scores)


def loader(*columns):
    return DataLoader(list(zip(*columns, strict=True)), batch_size=8)


@pytest.mark.parametrize(("task", "labels"), [("binary", 1), ("multilabel", 4)])
@pytest.mark.parametrize("whole", [True, False], ids=["int", "float"])
def test_metrics_of_sigmoid_scores(tmp_path, task, labels, whole):
    y = (torch.rand(24, labels, generator=torch.Generator().manual_seed(1)) < 0.5).float()
    y[3, 0] = -100
    target = y.int() if whole else y
    module = DistillationModule(network(1, labels), network(2, labels), task=task)
    (metrics,) = quiet_trainer(tmp_path).test(module, loader(X, target), verbose=False)
    logits = module.student(X).detach()
    kept = y != -100
    there, said = y[kept].numpy(), (logits > 0)[kept].numpy()
    assert metrics["test/accuracy"] == pytest.approx(100 * accuracy_score(there, said))
    assert metrics["test/f1"] == pytest.approx(100 * f1_score(there, said))
    of_all = F.binary_cross_entropy_with_logits(logits[kept], y[kept])  # whatever the batches
    assert metrics["test/loss"] == pytest.approx(of_all.item(), rel=1e-5)
    assert set(metrics) == {"test/loss", "test/accuracy", "test/f1"}


def test_metrics_of_maps_with_ignored_pixels(tmp_path):
    images = torch.randn(6, 6, 3, 5, generator=torch.Generator().manual_seed(0))
    y = torch.randint(4, (6, 3, 5), generator=torch.Generator().manual_seed(1))
    y[0, 0] = 255
    torch.manual_seed(0)
    module = ClassifierModule(nn.Conv2d(6, 4, 1), ignore_index=255)
    (metrics,) = quiet_trainer(tmp_path).test(module, loader(images, y.to(torch.uint8)), verbose=False)
    right = (module.network(images).argmax(1) == y)[y != 255]
    assert metrics["test/top1"] == pytest.approx(100 * right.float().mean().item())


FORMS = {
    "pair": lambda x, y: (x, y),
    "column": lambda x, y: (x, y[None]),
    "int32": lambda x, y: (x, y.int()),
    "mapping": lambda x, y: {"image": x, "label": y},
    "other words": lambda x, y: {"targets": y, "pixel_values": x},
    "names": lambda x, y: Named(y=y, x=x),
}


@pytest.mark.parametrize("form", FORMS)
def test_batches_of_every_form_train_alike(tmp_path, form):
    y = torch.randint(3, (24,), generator=torch.Generator().manual_seed(1))
    found = []
    for make in (FORMS["pair"], FORMS[form]):
        data = DataLoader([make(a, b) for a, b in zip(X, y, strict=True)], batch_size=8)
        module = DistillationModule(network(1, 3), network(2, 3))
        run = quiet_trainer(tmp_path, max_epochs=1)
        run.fit(module, data)
        run.validate(module, data, verbose=False)
        predicted = torch.cat(run.predict(module, data))
        found.append((module.student.weight, predicted, run.callback_metrics))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert predicted.shape == (24, 3)


@pytest.mark.parametrize("batch", [{"picture": X, "label": X}, ("a", "b"), 3, []])
def test_a_line_says_what_a_batch_must_be(batch):
    module = DistillationModule(network(1, 3), network(2, 3))
    with pytest.raises(UserError, match=r"a batch must be \(inputs, target\)") as error:
        module.training_step(batch, 0)
    assert "\n" not in str(error.value)


def test_a_module_without_a_callback_drives_lambda_itself(tmp_path):
    y = torch.randint(3, (24,), generator=torch.Generator().manual_seed(1))
    module = DistillationModule(network(1, 3), network(2, 3), temperature=GlobalTemperature())
    quiet_trainer(tmp_path, max_epochs=3).fit(module, loader(X, y))
    assert 0 < module.temperature.lambda_ < 1
    assert module.temperature.value != 1.0
    with pytest.warns(UserWarning, match=r"λ never leaves 0 in 1 epoch\(s\)"):
        quiet_trainer(tmp_path, max_epochs=1).fit(DistillationModule(network(1, 3), network(2, 3)), loader(X, y))


def test_an_image_size_that_a_network_does_not_take():
    class Square(nn.Module):
        def forward(self, x):
            if x.shape[-1] != 7:
                raise AssertionError("expected 7\npixels")
            return x

    with pytest.raises(
        UserError, match=r"the student cannot take inputs of shape \(2, 6\) \(AssertionError: expected 7 pix"
    ):
        DistillationModule(nn.Linear(6, 6), Square(), example_image=X[:2])
