import copy

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import seed_everything
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ctkd_lightning import CurriculumTemperatureCallback, DistillationModule, FixedTemperature, GlobalTemperature
from ctkd_lightning.curriculum import ConstantCurriculum
from ctkd_lightning.errors import UserError
from ctkd_lightning.methods import AT, CRD, DKD, KD, PKT, VID, FitNet
from ctkd_lightning.models import create_model
from tests.quiet import quiet_trainer


def network(width=8):
    return nn.Sequential(nn.Flatten(), nn.Linear(12, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 5))


def data(samples=64, batch_size=16):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(samples, 3, 2, 2, generator=generator)
    return DataLoader(TensorDataset(images, torch.randint(5, (samples,), generator=generator)), batch_size=batch_size)


def trainer(tmp_path, **settings):
    return quiet_trainer(tmp_path, **{"max_epochs": 2, **settings})


def softened_kl(s, t, tau):
    """An independent formulation: torch's own KL divergence of probabilities."""
    return tau**2 * F.kl_div(F.log_softmax(s / tau, 1), F.softmax(t / tau, 1), reduction="batchmean")


def test_fit_equals_a_loop_written_by_hand(tmp_path):
    seed_everything(0, verbose=False)
    teacher, student = network(16), network()
    by_hand = network()
    by_hand.load_state_dict(student.state_dict())
    module = DistillationModule(teacher, student)
    trainer(tmp_path, callbacks=[CurriculumTemperatureCallback(ConstantCurriculum(0.5))]).fit(module, data())

    raw = torch.tensor(1.0, requires_grad=True)
    optimizer = torch.optim.SGD([*by_hand.parameters(), raw], lr=0.05, momentum=0.9, weight_decay=5e-4)
    by_hand.train()
    for _ in range(2):
        for images, target in data():
            with torch.no_grad():
                t = teacher(images)
            s = by_hand(images)
            loss = 0.1 * F.cross_entropy(s, target) + 0.9 * softened_kl(s, t, 1 + 20 * torch.sigmoid(raw))
            optimizer.zero_grad()
            loss.backward()
            raw.grad *= -0.5  # the reversal, by hand
            optimizer.step()
    assert module.temperature.value.item() == pytest.approx(raw.item(), rel=1e-6)
    assert raw.item() != 1.0
    for name, expected in by_hand.state_dict().items():
        torch.testing.assert_close(student.state_dict()[name], expected, rtol=1e-5, atol=1e-6)


def test_teacher_is_untouched_and_absent(tmp_path):
    teacher = network()
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    module = DistillationModule(teacher, network())
    fit = trainer(tmp_path, callbacks=[CurriculumTemperatureCallback()])
    fit.fit(module, data(), data())
    module.train()
    assert not teacher.training
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name])
    optimized = {id(p) for group in fit.optimizers[0].param_groups for p in group["params"]}
    assert optimized == {id(p) for p in [*module.student.parameters(), module.temperature.value]}
    fit.save_checkpoint(tmp_path / "x.ckpt")
    keys = torch.load(tmp_path / "x.ckpt", weights_only=True)["state_dict"]
    assert not [key for key in keys if key.startswith("teacher")]
    module.load_state_dict(keys)  # strict
    with pytest.raises(RuntimeError, match=r"Missing key.*student.1.weight"):
        module.load_state_dict({k: v for k, v in keys.items() if k != "student.1.weight"})


def test_student_trains_after_validation(tmp_path):
    module = DistillationModule(network(), network())
    modes = []
    module.student.register_forward_hook(lambda net, args, out: modes.append(net.training))
    trainer(tmp_path, callbacks=[CurriculumTemperatureCallback()], num_sanity_val_steps=0).fit(module, data(), data())
    assert modes == ([True] * 4 + [False] * 4) * 2


def test_metrics_are_named_and_right(tmp_path):
    seed_everything(0, verbose=False)
    teacher, student = network(), network()
    module = DistillationModule(
        teacher, student, method=KD(weight=0.7), temperature=FixedTemperature(3.0), ce_weight=0.2
    )
    fit = trainer(tmp_path, max_epochs=1, callbacks=[CurriculumTemperatureCallback()])
    module.make_optimizer = lambda parameters: torch.optim.SGD(parameters, lr=0.0)
    fit.fit(module, data(), data())
    logged = {k: v.item() for k, v in fit.callback_metrics.items()}
    assert {"train/loss", "train/ce", "train/kd", "val/loss", "val/top1", "val/top5", "ctkd/temperature"} <= set(logged)
    assert "ctkd/lambda" not in logged  # nothing is learned

    student.train()
    images, target = next(iter(data(batch_size=64)))
    ce, kd = [], []
    for x, y in zip(images.split(16), target.split(16), strict=True):
        s = student(x)
        ce.append(F.cross_entropy(s, y).item())
        kd.append(softened_kl(s, teacher(x), 3.0).item())
    assert logged["train/ce"] == pytest.approx(sum(ce) / 4, rel=1e-5)
    assert logged["train/kd"] == pytest.approx(sum(kd) / 4, rel=1e-5)
    assert logged["train/loss"] == pytest.approx(0.2 * sum(ce) / 4 + 0.7 * sum(kd) / 4, rel=1e-5)
    assert logged["val/top5"] == 100.0


def test_validation_and_test_accuracy(tmp_path):
    module = DistillationModule(network(), network())
    evaluate = trainer(tmp_path)
    (tested,) = evaluate.test(module, data(), verbose=False)
    images, target = next(iter(data(batch_size=64)))
    with torch.no_grad():
        logits = module.student.eval()(images)
    assert tested["test/top1"] == pytest.approx(100 * (logits.argmax(1) == target).float().mean().item())
    assert tested["test/loss"] == pytest.approx(F.cross_entropy(logits, target).item(), rel=1e-5)


def test_several_methods_and_their_parameters():
    class Scaled(KD):
        def __init__(self):
            super().__init__(weight=2.0)
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, *args):
            return self.scale * super().forward(*args)

    module = DistillationModule(network(), network(), {"kd": KD(weight=1.0), "scaled": Scaled()}, FixedTemperature(2.0))
    optimizer = module.configure_optimizers()
    assert any(p is module.methods["scaled"].scale for group in optimizer.param_groups for p in group["params"])
    images, target = next(iter(data()))
    losses = module.losses(images, (images, target))
    assert list(losses) == ["loss", "ce", "kd", "scaled"]
    expected = 0.1 * losses["ce"] + 1.0 * losses["kd"] + 2.0 * losses["scaled"]
    torch.testing.assert_close(losses["loss"], expected)


def test_a_temperature_for_each_method(tmp_path):
    methods = {"soft": KD(weight=1.0), "softer": KD(weight=2.0)}
    taus = {"soft": FixedTemperature(2.0), "softer": GlobalTemperature()}
    module = DistillationModule(network(), network(), methods, taus)
    images, target = next(iter(data()))
    losses = module.losses(images, (images, target))
    s, t = module.student(images), module.teacher(images)
    torch.testing.assert_close(losses["soft"], softened_kl(s, t, 2.0))
    torch.testing.assert_close(losses["softer"], softened_kl(s, t, 15.621171572600097))
    fit = trainer(tmp_path, callbacks=[CurriculumTemperatureCallback(ConstantCurriculum())])
    fit.fit(module, data())
    assert taus["softer"].value != 1.0
    assert fit.callback_metrics["ctkd/temperature/temperature.soft"] == 2.0
    with pytest.raises(UserError, match="given for soft, and the methods that soften logits are soft, softer"):
        DistillationModule(network(), network(), methods, {"soft": FixedTemperature(2.0)})


def test_channels_last_changes_nothing():
    seed_everything(0, verbose=False)
    teacher, student = (nn.Sequential(nn.Conv2d(3, 5, 2), nn.Flatten()) for _ in range(2))
    images, target = next(iter(data()))
    plain = DistillationModule(teacher, student).losses(images, (images, target))["loss"]
    module = DistillationModule(teacher, student, channels_last=True)
    assert student[0].weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(module.losses(module.images_in_layout(images), (images, target))["loss"], plain)


@pytest.mark.slow
@pytest.mark.parametrize("method", [KD, lambda: {"kd": KD(), "at": AT(), "pkt": PKT()}], ids=["logits", "features"])
def test_compiled_networks_train_as_the_others_do(method):
    def losses(compiled):
        seed_everything(0, verbose=False)
        module = DistillationModule(
            create_model("resnet8", 5), create_model("wrn_16_1", 5), method(), example_image=torch.zeros(2, 3, 16, 16)
        )
        if compiled:
            module.compile_networks()
        optimizer = module.configure_optimizers()
        found = []
        for size in (8, 8, 5):
            batch = torch.randn(size, 3, 16, 16), torch.arange(size) % 5
            loss = module.losses(batch[0], batch)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.detach())
        return torch.stack(found), module.state_dict()

    (plain, state), (compiled, compiled_state) = losses(False), losses(True)
    torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-5)
    assert state.keys() == compiled_state.keys()


class Maps(nn.Module):
    """Two stages of ``widths`` channels, and pooled features."""

    feature_layers = {"stage1": "a", "stage2": "b"}  # noqa: RUF012

    def __init__(self, classes=5, widths=(4, 6), vectors=False):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, widths[0], 3, padding=1), nn.Conv2d(widths[0], widths[1], 3, padding=1)
        self.norm = nn.BatchNorm2d(widths[1])
        self.fc = nn.Linear(widths[1], classes)
        if vectors:  # as a transformer's: (B, positions, channels)
            self.a, self.b = (nn.Sequential(layer, nn.Flatten(2)) for layer in (self.a, nn.Identity()))

    def forward(self, x):
        x = self.b(self.a(x))
        return self.fc(self.norm(x).mean((2, 3))) if x.ndim == 4 else x.flatten(1)[:, :5]


IMAGE = torch.zeros(2, 3, 8, 8)


@pytest.mark.parametrize("method", [AT, FitNet, VID], ids=lambda m: m.__name__)
def test_features_that_do_not_fit_are_refused_before_the_training(method):
    with pytest.raises(UserError, match=r"student features have shape|does not fit the features.*stage1"):
        DistillationModule(Maps(vectors=True), Maps(), method(), example_image=IMAGE)
    DistillationModule(Maps(), Maps(), method(), example_image=IMAGE)


@pytest.mark.parametrize("method", [KD, PKT], ids=lambda m: m.__name__)
def test_networks_that_score_other_classes_are_refused(method):
    with pytest.raises(
        UserError, match=r"student scores 7 classes and the teacher 5 \(student logits have shape \(2, 7\)"
    ):
        DistillationModule(Maps(5), Maps(7), method(), example_image=IMAGE)


def test_crd_without_the_number_of_samples_is_refused():
    with pytest.raises(UserError, match="CRD has no memory: call prepare"):
        DistillationModule(Maps(), Maps(), CRD(), example_image=IMAGE)
    module = DistillationModule(Maps(), Maps(), CRD(), example_image=IMAGE, num_samples=30)
    assert not module.methods["crd"].log_normalizers.any()  # the try-out has left no trace
    assert (module.methods["crd"].labels == -1).all()


def test_the_try_out_leaves_the_modes_of_layers_as_they_were():
    student = Maps()
    student.norm.eval()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    module = DistillationModule(Maps(), student, FitNet(), example_image=IMAGE + 1)
    assert student.training
    assert not student.norm.training
    assert module.methods["fitnet"].adapter.training
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


def test_layers_are_asked_for_under_the_name_that_there_is():
    with pytest.raises(UserError, match=r"names no layer for 'stages'.*as in teacher_layers={stage1: NAME}"):
        DistillationModule(network(), Maps(), AT(), example_image=IMAGE)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("kd", "method must be a Method such as KD"),
        ([KD()], "method must be a Method such as KD"),
        ({"kd": "kd"}, "method 'kd' must be a Method"),
        ({"loss": KD()}, "a method is named 'loss'"),
        ({"ce": KD()}, "a method is named 'ce'"),
        ({"a.b": KD()}, "a method is named 'a.b'"),
    ],
)
def test_methods_that_cannot_be(method, message):
    with pytest.raises(UserError, match=message):
        DistillationModule(network(), network(), method)


@pytest.mark.parametrize("weight", [-1, float("nan"), "0.1"])
def test_weight_of_the_labels_that_cannot_be(weight):
    with pytest.raises(UserError, match="ce_weight must be a finite number from 0"):
        DistillationModule(network(), network(), ce_weight=weight)
    with pytest.raises(UserError, match="ce_weight must be a finite number from 0"):
        CurriculumTemperatureCallback(teacher=network(), ce_weight=weight)


def test_a_number_is_no_temperature():
    with pytest.raises(UserError, match=r"such as FixedTemperature\(4.0\), found 4.0"):
        DistillationModule(network(), network(), temperature=4.0)


@pytest.mark.filterwarnings("error")
def test_a_term_without_weight_is_not_computed():
    images, target = next(iter(data()))
    with pytest.warns(UserWarning, match=r"the temperature has no effect: method off has no softened term"):
        module = DistillationModule(network(), network(), {"off": KD(weight=0.0)}, GlobalTemperature())
    losses = module.losses(images, (images, target))
    assert losses.keys() == {"loss", "ce"}
    torch.testing.assert_close(losses["loss"], 0.1 * losses["ce"])
    DistillationModule(network(), network(), {"off": KD(weight=0.0)})  # nobody asked for a temperature


def test_says_that_a_warm_up_does_not_end(tmp_path):
    module = DistillationModule(network(), network(), DKD(warmup_epochs=3))
    with pytest.warns(UserWarning, match=r"DKD ends at 0.66\d*, not at its weight 1: warmup_epochs=3 is longer"):
        trainer(tmp_path, max_epochs=2).fit(module, data())
    assert float(module.methods["dkd"].weight) == pytest.approx(2 / 3)


def test_no_method_is_refused():
    with pytest.raises(UserError, match="method has no terms"):
        DistillationModule(network(), network(), method={})


def test_learned_temperature_is_the_default():
    assert isinstance(DistillationModule(network(), network()).temperature, GlobalTemperature)


def test_temperature_that_no_method_uses_is_not_trained():
    module = DistillationModule(network(), network(), method=Unsoftened())
    optimizer = module.configure_optimizers()
    assert len(optimizer.param_groups[0]["params"]) == len(list(module.student.parameters()))


class Unsoftened(KD):
    uses_temperature = False


def test_a_student_of_one_entry_of_the_batch_and_a_teacher_of_all(tmp_path):
    seed_everything(0, verbose=False)

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(5, 4)

        def forward(self, batch):
            return self.layer(torch.cat([batch["sound"], batch["touch"]], dim=1))

    student, teacher = nn.Linear(2, 4), Both()
    generator = torch.Generator().manual_seed(0)
    batch = {
        "sound": torch.randn(8, 3, generator=generator),
        "touch": torch.randn(8, 2, generator=generator),
        "target": torch.arange(8) % 4,
    }
    module = DistillationModule(
        teacher,
        student,
        KD(),
        FixedTemperature(2.0),
        student_input=lambda batch: batch["touch"],
        teacher_input=lambda batch: (batch,),
    )
    s, t = student(batch["touch"]), teacher(batch)
    expected = 0.1 * F.cross_entropy(s, batch["target"]) + 0.9 * softened_kl(s, t, 2.0)
    torch.testing.assert_close(module.training_step(batch, 0), expected)
    torch.testing.assert_close(module.predict_step(batch, 0), s)
    metrics = trainer(tmp_path).validate(module, DataLoader([batch], batch_size=None), verbose=False)[0]
    assert metrics["val/top1"] == pytest.approx(100 * (s.argmax(1) == batch["target"]).float().mean().item())


def test_kd_at_a_constant_temperature_is_logged_and_trains_nothing(tmp_path):
    torch.manual_seed(0)
    teacher, student = (nn.Sequential(nn.Flatten(), nn.Linear(12, 5)) for _ in range(2))
    x, y = torch.randn(6, 3, 2, 2), torch.arange(6) % 5
    plain, at = (DistillationModule(teacher, copy.deepcopy(student), kd_at=kd_at) for kd_at in (None, 2.5))
    at.temperature.load_state_dict(plain.temperature.state_dict())
    expected, found = plain.losses(x, (x, y)), at.losses(x, (x, y))
    p, q = ((network(x) / 2.5).log_softmax(dim=-1) for network in (teacher, student))
    by_hand = 2.5**2 * (p.exp() * (p - q)).sum(dim=-1).mean()
    torch.testing.assert_close(found.pop("kd_at_2.5"), by_hand.detach())
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    with pytest.raises(UserError, match="kd_at"):
        DistillationModule(teacher, student, kd_at=0)
