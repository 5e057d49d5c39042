"""Networks that give vectors: embeddings, or what is regressed."""

import copy

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader

from ctkd_lightning import CurriculumTemperatureCallback, Distillation, FixedTemperature, Step, TemperatureFusion
from ctkd_lightning.errors import UserError
from ctkd_lightning.methods import CWD, KD, PKT, RKD, NetworkOutput, VectorKD, cwd_loss, pkt_loss, rkd_loss
from ctkd_lightning.modules import ClassifierModule

SETTINGS = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}


class Regression(LightningModule):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.mse_loss(self.network(x), y)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


def test_a_regression_through_the_callback_is_a_loop_by_hand():
    torch.manual_seed(0)
    student, teacher = nn.Linear(4, 3).double(), nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    by_hand = copy.deepcopy(student)
    batches = [(torch.randn(5, 4).double(), torch.randn(5, 3).double()) for _ in range(20)]
    distil = CurriculumTemperatureCallback(
        teacher=teacher, student="network", task="vectors", method=VectorKD(weight=2.0), ce_weight=0.5
    )
    Trainer(max_epochs=1, callbacks=[distil], **SETTINGS).fit(Regression(student), DataLoader(batches, batch_size=None))
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.05)
    for x, y in batches:
        found = by_hand(x)
        optimizer.zero_grad()
        (0.5 * F.mse_loss(found, y) + 2 * F.mse_loss(found, teacher(x).detach())).backward()
        optimizer.step()
    for own, other in zip(student.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("method", "loss"), [(RKD, rkd_loss), (PKT, pkt_loss)])
def test_relations_of_embeddings_of_other_widths(method, loss):
    engine = Distillation(teacher=nn.Linear(4, 9), method=method(), task="vectors")
    student, teacher = torch.randn(6, 5), torch.randn(6, 9)
    found = engine.losses(student, engine._output(teacher), Step())
    torch.testing.assert_close(next(v for k, v in found.items() if k != "loss"), loss(student, teacher))


def test_positions_and_masks_leave_the_kept_rows():
    engine = Distillation(teacher=nn.Linear(4, 3), method=VectorKD(), task="vectors")
    student, teacher, mask = torch.randn(2, 4, 3), torch.randn(2, 4, 3), torch.tensor([[1, 1, 0, 0], [1, 0, 0, 1]])
    teacher[0, 2] = float("nan")
    target = torch.randn(2, 4, 3)
    losses = engine.losses(student, engine._output(teacher), Step(target, mask=mask))
    kept = mask.bool()
    torch.testing.assert_close(losses["vectorkd"], F.mse_loss(student[kept], teacher[kept]))
    torch.testing.assert_close(losses["ce"], F.mse_loss(student[kept], target[kept]))


def test_the_methods_own_layer_is_built_and_trained():
    student, teacher = nn.Linear(4, 3), nn.Linear(4, 6)
    engine = Distillation(student, teacher, VectorKD(), task="vectors")
    engine.build(torch.randn(2, 4))
    engine(torch.randn(5, 4))["loss"].backward()
    assert all(p.grad is not None and p.grad.any() for p in (*student.parameters(), *engine.methods.parameters()))


def test_a_temperature_says_that_it_has_no_effect():
    distil = CurriculumTemperatureCallback(
        teacher=nn.Linear(4, 3), student="network", task="vectors", method=VectorKD(), temperature=FixedTemperature(4.0)
    )
    batches = DataLoader([(torch.randn(5, 4), torch.randn(5, 3))], batch_size=None)
    with pytest.warns(UserWarning, match="the temperature has no effect"):
        Trainer(max_epochs=1, callbacks=[distil], **SETTINGS).fit(Regression(nn.Linear(4, 3)), batches)


def test_methods_of_classes_are_refused():
    with pytest.raises(UserError, match=r"method kd softens the scores of classes.*take a method of vectors"):
        Distillation(teacher=nn.Linear(4, 3), method=KD(), task="vectors")


def test_other_positions_are_refused():
    engine = Distillation(teacher=nn.Linear(4, 3), method=VectorKD(), task="vectors")
    with pytest.raises(UserError, match=r"vectors have shape \(2, 3\) and teacher vectors \(3, 3\)"):
        engine.losses(torch.zeros(2, 3), torch.zeros(3, 3))


def test_labels_are_no_target_of_vectors():
    engine = Distillation(teacher=nn.Linear(4, 3), method=VectorKD(), task="vectors")
    with pytest.raises(UserError, match="pass task_loss="):
        engine.losses(torch.zeros(2, 3), torch.ones(2, 3), Step(torch.tensor([0, 1])))


@pytest.mark.parametrize(
    "make",
    [
        lambda: ClassifierModule(nn.Linear(4, 3), task="vectors"),
        lambda: TemperatureFusion(None, ["a", "b"], task="vectors"),
        lambda: Distillation(teacher={"a": nn.Linear(4, 3), "b": nn.Linear(4, 3)}, method=VectorKD(), task="vectors"),
    ],
)
def test_what_is_of_classes_says_so(make):
    with pytest.raises(UserError, match="task='vectors' has none"):
        make()


def test_a_mask_leaves_samples_out_of_other_features_too():
    student, teacher = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten()), nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten())
    layers = {"last": "0"}
    engine = Distillation(student, teacher, CWD(), task="vectors", student_layers=layers, teacher_layers=layers)
    x, mask = torch.randn(6, 1, 3, 3), torch.tensor([True] + 5 * [False])
    engine.build(x)
    expected = cwd_loss(student[0](x[:1]), teacher[0](x[:1]), 4.0)
    torch.testing.assert_close(engine(x, mask=mask)["cwd"], expected)


def test_weights_are_refused():
    engine = Distillation(teacher=nn.Linear(4, 3), method=VectorKD(), task="vectors")
    with pytest.raises(UserError, match="found floating values, which would be weights"):
        engine.losses(torch.zeros(2, 3), torch.zeros(2, 3), Step(mask=torch.tensor([1.0, 0.5])))


def test_a_regressed_number_may_be_the_ignored_one():
    engine = Distillation(teacher=nn.Linear(4, 1), method=VectorKD(), task="vectors")
    student, target = torch.zeros(2, 1), torch.tensor([[-100.0], [2.0]])
    losses = engine.losses(student, torch.zeros(2, 1), Step(target))
    torch.testing.assert_close(losses["ce"], F.mse_loss(student, target))


@pytest.mark.parametrize("settings", [{"class_dim": 1}, {"scores": "probabilities"}])
def test_settings_of_scores_are_refused(settings):
    with pytest.raises(UserError, match="with task='vectors' there are none"):
        Distillation(teacher=nn.Linear(4, 3), method=VectorKD(), task="vectors", **settings)


def test_kd_is_not_compared():
    engine = Distillation(teacher=nn.Linear(4, 3), method=VectorKD(), task="vectors")
    outputs = [NetworkOutput(torch.zeros(2, 3))] * 2
    with pytest.raises(UserError, match="kd_at"):
        engine.kd_at(4.0, *outputs, Step())
