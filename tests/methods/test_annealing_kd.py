import math
import re

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.utils.data import DataLoader, TensorDataset

from ctkd_lightning import CurriculumTemperatureCallback, Distillation, DistillationModule
from ctkd_lightning.errors import UserError
from ctkd_lightning.methods import KD, AnnealingKD, NetworkOutput, Step, annealing_kd_loss
from ctkd_lightning.temperature import Softening
from tests.methods.setting import Setting
from tests.quiet import quiet_trainer

SETTINGS = {"annealing_kd": Setting(AnnealingKD, lambda student, teacher: annealing_kd_loss(student, teacher, level=3))}

# of the authors' code, on the logits below: the loss, and the gradient of the first sample's
GOLDEN = {
    1: (4.261089683487601, [
        0.03605400123189747, 0.09371353627249038, 0.09063146422306745, 0.04492399839384314, -0.02191192583684378,
        -0.07844232896317728, -0.09808007908292807, -0.0715892354664673, -0.011428855797466156, 0.05410669333388123,
    ]),
    3: (4.393163687548881, [
        -0.02068153375184581, 0.08405066281977908, 0.09925251933942754, 0.0677743651503484, 0.00442086802739261,
        -0.06101183240681429, -0.09774971472391765, -0.08851437882493755, -0.03764934748926841, 0.030922760257885894,
    ]),
    10: (12.139041622697913, [
        -0.21925590619494725, 0.050230605735289535, 0.12942621224668785, 0.14775064879811683, 0.09658564655221999,
        -5.094459543849202e-06, -0.09659343946738118, -0.14775238057958345, -0.1294210684105763, -0.0502210055080978,
    ]),
}  # fmt: skip
ROWS = torch.arange(6, dtype=torch.float64)[:, None]
COLUMNS = torch.arange(10, dtype=torch.float64)
STUDENT = 3 * torch.sin(0.7 * (ROWS + 1) * (COLUMNS + 1) + 0.3 * ROWS)
TEACHER = 4 * torch.cos(0.5 * (ROWS + 1) * (COLUMNS + 1) + 0.2 * COLUMNS) + 5 * ((ROWS == COLUMNS) & (ROWS != 4))
TARGET = torch.arange(6)


@pytest.mark.parametrize("level", GOLDEN)
def test_phase_1_is_the_authors_codes(level):
    student = STUDENT.clone().requires_grad_()
    loss = annealing_kd_loss(student, TEACHER, torch.tensor(level), levels=10)
    expected, gradient = GOLDEN[level]
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    found = torch.autograd.grad(loss, student)[0][0]
    torch.testing.assert_close(found, torch.tensor(gradient, dtype=torch.float64), rtol=1e-9, atol=1e-12)


def levels(method, epochs, *, told=True):
    found = []
    for epoch in range(epochs):
        method.set_progress(epoch, epoch / epochs if told else None)
        found.append("CE" if method.in_phase_2 else method.level.item())
    return found


def test_the_papers_schedule():
    papers = [level for level in range(1, 11) for _ in range(20)] + ["CE"] * 100
    assert levels(AnnealingKD(), 300) == papers
    assert levels(AnnealingKD(epochs=200), 300, told=False) == papers
    assert levels(AnnealingKD(epochs=20), 21) == [k for k in range(1, 11) for _ in range(2)] + ["CE"]


def test_the_level_never_passes_the_highest():
    # the authors' code would end at 13 of 10, and at 10 of 7
    found = levels(AnnealingKD(epochs=25), 25)
    assert found == sorted(found)
    assert set(found) == set(range(1, 11))
    assert max(found.count(level) for level in found) == 3
    assert levels(AnnealingKD(levels=7, epochs=20), 20)[-1] == 7


def test_no_level_is_missed_by_rounding():
    # 0.29 · 100 is less than 29
    assert levels(AnnealingKD(levels=100, epochs=100), 100) == list(range(1, 101))


@pytest.mark.parametrize("epochs", [3, 4, 5, 10, 12, 15, 16, 17, 100, 240, 299])
def test_phase_1_is_two_thirds_of_a_training_of_any_length(epochs):
    found = levels(AnnealingKD(), epochs)
    assert found.count("CE") == epochs // 3
    assert found[0] == 1
    assert epochs < 15 or found[-(epochs // 3) - 1] == 10


def test_within_an_epoch_it_follows_the_steps():
    method = AnnealingKD(levels=2, epochs=1)
    found = []
    for step in range(12):
        method.set_progress(step / 8)
        found.append("CE" if method.in_phase_2 else method.level.item())
    assert found == [1] * 4 + [2] * 4 + ["CE"] * 4


@pytest.mark.parametrize("tell", ["set_progress", "set_epoch"])
def test_a_training_of_unknown_length(tell):
    with pytest.raises(UserError, match=r"AnnealingKD's phase 1 is two thirds .* not known: pass epochs="):
        getattr(AnnealingKD(), tell)(3)
    method = AnnealingKD(epochs=4)
    getattr(method, tell)(3)
    assert method.level == 8


@pytest.mark.parametrize(
    ("settings", "epochs", "message"),
    [
        ({}, None, None),
        ({}, 300, None),
        ({}, 12, r"phase 1 of 8 epochs ends at level 9 of 10, .*: lower levels to 8, or train longer"),
        ({"levels": 8}, 12, None),
        ({}, 10, None),  # 6.67 epochs, of which the seventh begins at 0.9
        ({"levels": 1}, 3, None),
        ({}, 2, r"never comes to the labels: its phase 1 takes all of 2 epoch\(s\)"),
        ({"epochs": 20}, 20, r"never comes to the labels: its phase 1 takes all of 20 epoch\(s\)"),
        ({"epochs": 20}, 21, None),
    ],
)
def test_a_training_too_short(settings, epochs, message):
    found = AnnealingKD(**settings).unfinished_warmup(epochs)
    assert found is None if message is None else re.search(message, found)


def term(method, student=STUDENT, teacher=TEACHER, target=TARGET, mask=None):
    step = Step(target=target, mask=mask)
    return method(NetworkOutput(student), NetworkOutput(teacher), step, Softening.at(4.0, student))


def in_phase_2(**settings):
    method = AnnealingKD(**settings)
    method.set_progress(2, 2 / 3)
    assert method.in_phase_2
    return method


def test_phase_2_is_the_cross_entropy_alone():
    student = STUDENT.clone().requires_grad_()
    loss = term(in_phase_2(), student, torch.full_like(TEACHER, math.nan))  # whatever the teacher says
    torch.testing.assert_close(loss, F.cross_entropy(STUDENT, TARGET))
    gradient = (STUDENT.softmax(1) - F.one_hot(TARGET, 10)) / 6
    torch.testing.assert_close(torch.autograd.grad(loss, student)[0], gradient)


PHASES = {"phase 1": AnnealingKD, "phase 2": in_phase_2}


@pytest.mark.parametrize("make", PHASES.values(), ids=PHASES)
def test_masked_positions_do_not_count(make):
    student, teacher = torch.randn(2, 3, 7, dtype=torch.float64), torch.randn(2, 3, 7, dtype=torch.float64)
    target = torch.randint(7, (2, 3))
    mask = torch.tensor([[True, False, True], [True, True, False]])
    expected = term(make(), student[mask], teacher[mask], target[mask])
    student[~mask], teacher[~mask], target[~mask] = math.nan, math.inf, -100
    loss = term(make(), student.requires_grad_(), teacher, target, mask)
    torch.testing.assert_close(loss, expected)
    gradient = torch.autograd.grad(loss, student)[0]
    assert gradient[mask].isfinite().all()
    assert not gradient[~mask].any()
    weighted = term(make(), student, teacher, target, mask.double() * torch.tensor([1.0, 1.0, 3.0]))
    each = torch.stack([term(make(), *(x[i, j][None] for x in (student, teacher, target))) for i, j in mask.nonzero()])
    torch.testing.assert_close(weighted, each @ torch.tensor([1.0, 3.0, 1.0, 1.0]).double() / 6)
    assert term(make(), student, teacher, target, torch.zeros_like(mask)) == 0


@pytest.mark.parametrize("fill", [-math.inf, -1e4])
def test_a_class_that_one_network_masks_has_nothing_to_compare(fill):
    expected = annealing_kd_loss(STUDENT[:, 1:], TEACHER[:, 1:], level=3)
    for masks in ("student", "teacher"):
        logits = {"student": STUDENT.clone(), "teacher": TEACHER.clone()}
        logits[masks][:, 0] = fill
        student = logits["student"].requires_grad_()
        loss = annealing_kd_loss(student, logits["teacher"], level=3)
        torch.testing.assert_close(loss, expected)
        assert torch.autograd.grad(loss, student)[0].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_phase_2_in_half_precision(dtype):
    student = (1e3 * STUDENT).to(dtype)
    student[:, 9] = -math.inf
    with torch.autocast("cpu", dtype=dtype):
        loss = term(in_phase_2(), student.requires_grad_())
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, F.cross_entropy(student.detach().float(), TARGET))
    assert torch.autograd.grad(loss, student)[0].isfinite().all()


def test_a_cast_to_half_precision_leaves_the_level():
    method = AnnealingKD(levels=1000).bfloat16()
    method.set_progress(0.333, 0.333)
    assert method.level == 500
    method.set_progress(0.333, 0.3334)
    assert method.level == 501  # of which bfloat16 would make 500


def test_a_binary_score_has_its_binary_cross_entropy():
    x, y = torch.randn(8, 3), torch.randint(2, (8, 3)).float()
    engine = Distillation(teacher=nn.Identity(), method=AnnealingKD(), task="multilabel")
    guide = torch.randn(8, 3)
    # a logit x stands for (x, 0), of which the second has nothing to learn
    torch.testing.assert_close(engine.losses(x, guide, Step(y))["loss"], (x - guide / 10).square().mean() / 2)
    engine.progress(2, 2 / 3)
    torch.testing.assert_close(engine.losses(x, guide, Step(y))["loss"], F.binary_cross_entropy_with_logits(x, y))


def test_what_else_a_loss_has_stays_in_both_phases():
    methods = {"annealing_kd": AnnealingKD(weight=0.5), "kd": KD(weight=2.0)}
    engine = Distillation(teacher=nn.Identity(), method=methods)
    for progress, own in ((0, annealing_kd_loss(STUDENT, TEACHER, level=1)), (2, F.cross_entropy(STUDENT, TARGET))):
        engine.progress(progress, progress / 3)
        losses = engine.losses(STUDENT, TEACHER, Step(TARGET))
        torch.testing.assert_close(losses["loss"], 0.5 * own + 2 * losses["kd"])


def test_no_other_cross_entropy_stands_beside_it():
    linear = nn.Linear(4, 3)
    for make in (
        lambda weight: Distillation(linear, nn.Linear(4, 3), AnnealingKD(), ce_weight=weight),
        lambda weight: DistillationModule(nn.Linear(4, 3), linear, {"own": AnnealingKD()}, ce_weight=weight),
        lambda weight: CurriculumTemperatureCallback(teacher=linear, method=AnnealingKD(), ce_weight=weight),
    ):
        with pytest.raises(UserError, match=r"AnnealingKD brings the cross-entropy .* and ce_weight=0.5 would add"):
            make(0.5)
        make(0)
    assert Distillation(linear, nn.Linear(4, 3), AnnealingKD()).ce_weight == 0
    assert Distillation(linear, nn.Linear(4, 3), {"kd": KD(), "own": AnnealingKD(weight=0)}).ce_weight == 0.1


def samples():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(12, 4, generator=generator), torch.randint(3, (12,), generator=generator)


def network(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(4, 3)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


class Plain(LightningModule):
    """Knows nothing of distillation."""

    def __init__(self):
        super().__init__()
        self.net = network(1)

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return sgd(self.parameters())


def by_hand(epochs, first):
    """The recipe in a loop of its own, of two levels and one batch an epoch."""
    student, teacher = network(1), network(2)
    optimizer = sgd(student.parameters())
    x, y = samples()
    for epoch in range(epochs):
        level = 1 if epoch < first / 2 else 2
        s, t = student(x), teacher(x).detach()
        loss = (s - t * level / 2).square().mean() if epoch < first else F.cross_entropy(s, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return student


def fit(tmp_path, way, max_epochs, checkpoint=None, **settings):
    method, callbacks = AnnealingKD(levels=2, **settings), []
    if way == "module":
        module = DistillationModule(network(2), network(1), {"annealing_kd": method}, optimizer=sgd)
    else:
        module = Plain()
        callbacks = [CurriculumTemperatureCallback(teacher=network(2), method={"annealing_kd": method})]
    trainer = quiet_trainer(tmp_path, max_epochs=max_epochs, callbacks=callbacks)
    loader = DataLoader(TensorDataset(*samples()), batch_size=12)
    trainer.fit(module, loader, ckpt_path=checkpoint, weights_only=True)
    return module.student if way == "module" else module.net, trainer


@pytest.mark.parametrize("settings", [{}, {"epochs": 2}], ids=["two thirds", "two epochs"])
@pytest.mark.parametrize("way", ["module", "callback"])
def test_a_training_is_the_recipe_by_hand(tmp_path, way, settings):
    found, trainer = fit(tmp_path, way, 6, **settings)
    expected = by_hand(6, settings.get("epochs", 4))
    torch.testing.assert_close(found.state_dict(), expected.state_dict())
    if way == "module":
        assert trainer.callback_metrics["train/annealing_kd"] == trainer.callback_metrics["train/ce"]


@pytest.mark.parametrize("stop", [1, 3, 5])
@pytest.mark.parametrize("way", ["module", "callback"])
def test_a_resumed_training_is_in_the_same_phase(tmp_path, way, stop):
    _, stopped = fit(tmp_path, way, stop, epochs=4)
    stopped.save_checkpoint(tmp_path / "stopped.ckpt")
    resumed, _ = fit(tmp_path, way, 6, checkpoint=tmp_path / "stopped.ckpt", epochs=4)
    torch.testing.assert_close(resumed.state_dict(), by_hand(6, 4).state_dict())


@pytest.mark.parametrize("way", ["module", "callback"])
def test_a_training_too_short_says_so(tmp_path, way):
    with pytest.warns(UserWarning, match="AnnealingKD never comes to the labels"):
        fit(tmp_path, way, 2)


def test_a_training_without_end_is_refused(tmp_path):
    with pytest.raises(UserError, match="its length is not known: pass epochs="):
        fit(tmp_path, "module", -1)


def test_levels_do_not_compile_again_and_the_second_phase_once():
    method, counter = AnnealingKD(), CompileCounter()
    compiled = torch.compile(lambda student: term(method, student), backend=counter, fullgraph=True)
    frames = []
    for epoch in range(30):
        method.set_progress(epoch, epoch / 30)
        torch.testing.assert_close(compiled(STUDENT), term(method))
        frames.append(counter.frame_count)
    assert frames == [1] * 20 + [2] * 10


@pytest.mark.parametrize("phase", PHASES)
def test_needs_a_class_a_position(phase):
    with pytest.raises(UserError, match="AnnealingKD needs the class indices"):
        term(PHASES[phase](), target=None)
    with pytest.raises(UserError, match=r"target has shape \(6, 2\)"):
        term(PHASES[phase](), target=torch.zeros(6, 2, dtype=torch.long))


@pytest.mark.parametrize("value", [0, -1, math.nan, "a", True])
def test_wrong_settings(value):
    with pytest.raises(UserError, match="AnnealingKD's levels must be a whole number from 1, found"):
        AnnealingKD(levels=value)
    with pytest.raises(UserError, match="AnnealingKD's epochs must be a finite number above 0, found"):
        AnnealingKD(epochs=value)
    with pytest.raises(UserError, match="annealing_kd_loss's levels must be a whole number from 1, found"):
        annealing_kd_loss(STUDENT, TEACHER, 1, levels=value)
    with pytest.raises(UserError, match="annealing_kd_loss's level must be a finite number from 1 to 10, found"):
        annealing_kd_loss(STUDENT, TEACHER, value)
