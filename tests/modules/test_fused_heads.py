"""Language models whose logits never exist: the same trainings as with them."""

import copy

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from ctkd_lightning.errors import UserError
from ctkd_lightning.methods import DKD, KD
from ctkd_lightning.models import LanguageModel
from ctkd_lightning.modules import DistillationModule
from ctkd_lightning.modules import distillation as of_modules
from ctkd_lightning.temperature import FixedTemperature, GlobalTemperature, InstanceTemperature
from ctkd_lightning.token_store import TokenStore, write_token_store
from ctkd_lightning.token_store.cached import CachedTexts

V, T = 37, 6
QUIET = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}


def networks(dtype=torch.float64):
    torch.manual_seed(0)
    return [LanguageModel(V, width=w, layers=n, heads=2, length=T).to(dtype) for w, n in ((12, 2), (8, 1))]


def batches(count=5, ignored=True):
    draw = torch.Generator().manual_seed(1)
    found = []
    for number in range(count):
        x = torch.randint(V, (4, T), generator=draw)
        y = torch.randint(V, (4, T), generator=draw)
        if ignored:
            y[number % 4, 3:] = -100
        found.append((x, y, torch.arange(4)))
    return found


def trained(fuse, data=None, temperature=None, prepare=lambda module: None, warmup_epochs=0, **settings):
    """The student's weights after some steps, with τ, and the losses that were logged."""
    teacher, student = networks()
    module = DistillationModule(
        teacher, student, KD(0.9, warmup_epochs), temperature or GlobalTemperature.for_tokens(), ce_weight=0.1,
        class_dim=-1, fuse_heads=fuse, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.5), **settings,
    )  # fmt: skip
    prepare(module)
    trainer = Trainer(max_epochs=2, limit_val_batches=0, **QUIET)
    loader = torch.utils.data.DataLoader(data or batches(), batch_size=None)
    trainer.fit(module, loader)
    return dict(module.state_dict()), {k: float(v) for k, v in trainer.callback_metrics.items()}, module


def fuses(module):
    x, y, _ = batches()[0]
    return module._fused(x, y) is not None


class NoLogits(LanguageModel):
    """Fails where all logits are made in training."""

    def forward(self, tokens):
        logits = super().forward(tokens)
        assert not (self.training and logits.shape[-1] == V), "the logits were made"
        return logits


@pytest.mark.parametrize(
    "settings", [{}, {"mask": lambda batch: batch[1] % 3 > 0}, {"warmup_epochs": 3}], ids=["all", "mask", "warm-up"]
)
def test_the_training_is_that_of_the_logits(settings):
    plain, fused = (trained(fuse, **settings) for fuse in (False, True))
    assert fuses(fused[2])
    assert not fuses(plain[2])
    for name, value in plain[0].items():
        torch.testing.assert_close(fused[0][name], value, rtol=1e-9, atol=1e-11)
    assert plain[1].keys() == fused[1].keys() >= {"train/loss", "train/ce", "train/kd"}
    for name, value in plain[1].items():
        assert fused[1][name] == pytest.approx(value, rel=1e-9), name


def test_no_logits_are_made(monkeypatch):
    monkeypatch.setattr(f"{__name__}.LanguageModel", NoLogits)
    trained(True)
    with pytest.raises(AssertionError, match="the logits were made"):
        trained(False)


def test_a_network_is_as_it_was_afterwards():
    *_, module = trained(True)
    for network in (module.student, module.distillation.teacher.network):
        assert "forward" not in network.head.__dict__
        assert network(torch.zeros(1, T, dtype=torch.long)).shape == (1, T, V)


def stored(folder):
    teacher, _ = networks()
    texts = [(number, x) for number, x in enumerate(torch.cat([x for x, _, _ in batches()]))]
    write_token_store(folder, teacher.float(), texts, rank=12)
    return TokenStore(folder)


def test_a_store_in_the_teachers_place(tmp_path):
    """Of the engine's ``cached_teacher`` and of ``teacher_store=``."""
    store = stored(tmp_path / "store")
    data = [(x, y, 4 * number + index) for number, (x, y, index) in enumerate(batches())]

    def use(module):
        module.cached_teacher = CachedTexts(store)

    plain, fused = (trained(fuse, data, prepare=use) for fuse in (False, True))
    for name, value in plain[0].items():
        torch.testing.assert_close(fused[0][name], value, rtol=1e-5, atol=1e-7)  # a store's logits are of float32

    _, student = networks()
    module = DistillationModule(
        None, student, KD(weight=0.9), GlobalTemperature.for_tokens(), ce_weight=0.1, class_dim=-1, fuse_heads=True,
        teacher_store=store, key=lambda batch: batch[2],
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.5),
    )  # fmt: skip
    Trainer(max_epochs=2, limit_val_batches=0, **QUIET).fit(module, torch.utils.data.DataLoader(data, batch_size=None))
    for name, value in student.state_dict().items():
        torch.testing.assert_close(value, fused[0][f"student.{name}"], rtol=1e-9, atol=1e-11)


def test_where_nobody_asks_it_is_done_for_large_batches(monkeypatch):
    *_, module = trained("auto")
    assert not fuses(module)
    monkeypatch.setattr(of_modules, "_LARGE", 4 * T * V)
    *_, module = trained("auto")
    assert fuses(module)
    assert module._fused(batches()[0][0][:1], batches()[0][1][:1]) is None  # a smaller batch, whose logits are few
    soft = torch.full((4, T, V), 1 / V, dtype=torch.float64)
    assert module._fused(batches()[0][0], soft) is None
    x, _, index = batches()[0]
    plain = trained(False)[2]
    plain.load_state_dict(module.state_dict())
    for name, value in plain.losses(x, (x, soft, index)).items():
        assert float(module.losses(x, (x, soft, index))[name]) == pytest.approx(float(value)), name
    module.compile_networks()
    assert not fuses(module)
    *_, module = trained("auto", temperature=InstanceTemperature(V))  # whose τ are of the logits
    assert not fuses(module)


class Scaled(nn.Module):
    """Logits that are not the head's."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, tokens):
        return 2 * self.model(tokens)


class Capped(Scaled):
    """A cap that logits this small do not feel."""

    def forward(self, tokens):
        return 30 * torch.tanh(self.model(tokens) / 30)


class Adapted(LanguageModel):
    """An adapter beside the head that is zero still, as LoRA's is at the start."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self.before, self.after = nn.Linear(12, 2), nn.Linear(2, V)
        nn.init.zeros_(self.after.weight)
        nn.init.zeros_(self.after.bias)
        self.classifier_layer = "head"

    def forward(self, tokens):
        hidden = self.hidden(tokens)
        return self.head(hidden) + self.after(self.before(hidden))


def small(network):
    with torch.no_grad():
        network.head.weight.mul_(0.1)
    return network


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"method": DKD()}, "the method is dkd"),
        ({"temperature": InstanceTemperature(V)}, "InstanceTemperature reads logits"),
        ({"temperature": GlobalTemperature(objective="held_out")}, "held_out"),
        ({"kd_at": 4.0}, "kd_at reads logits"),
        ({"teacher_input": lambda batch: batch[0]}, "asked in a way of its own"),
        ({"teacher": Scaled(networks()[0])}, "the teacher's logits are not those of its last linear layer"),
        ({"student": Scaled(networks()[1])}, "the student's logits are not those"),
        ({"student": Capped(small(networks()[1]))}, "the student's logits are not those"),
        ({"student": Adapted(V, width=12, layers=1, heads=2, length=T).double()}, "the student's logits are not those"),
        ({"method": KD(weight=0)}, "KD has no weight"),
        ({"teacher": {"a": networks()[0], "b": networks()[0]}}, "several networks"),
        ({"fuse_heads": "yes"}, "fuse_heads must be"),
    ],
)
def test_what_stands_in_the_way_is_told(changed, message):
    teacher, student = networks()
    given = {"teacher": teacher, "student": student, "method": KD(), "temperature": FixedTemperature(1.0)}
    settings = {**given, "class_dim": -1, "fuse_heads": True, **changed}

    def first_step():
        module = DistillationModule(settings.pop("teacher"), settings.pop("student"), **settings)
        module.losses(batches()[0][0], batches()[0])

    with pytest.raises(UserError, match=message):
        first_step()


def test_the_first_batch_is_checked():
    teacher, student = networks()
    with torch.no_grad():
        teacher.head.weight.mul_(200)
    module = DistillationModule(teacher, student, KD(), FixedTemperature(1.0), class_dim=-1, fuse_heads=True)
    x, y, index = (torch.cat(parts) for parts in zip(*batches(), strict=True))  # 32 positions and more
    with pytest.warns(UserWarning, match="teacher's cross-entropy"):
        module.losses(x, (x, y, index))
    broken = copy.deepcopy(networks()[0])
    with torch.no_grad():
        broken.head.weight.fill_(torch.nan)
    module = DistillationModule(broken, student, KD(), FixedTemperature(1.0), class_dim=-1, fuse_heads=True)
    with pytest.raises(UserError, match=r"NaN|finite|not those"):
        module.losses(batches()[0][0], batches()[0])


def test_probabilities_as_targets_are_told_where_it_was_asked_for():
    teacher, student = networks()
    module = DistillationModule(teacher, student, KD(), FixedTemperature(1.0), class_dim=-1, fuse_heads=True)
    x, _, index = batches()[0]
    with pytest.raises(UserError, match="the target is probabilities"):
        module.losses(x, (x, torch.full((4, T, V), 1 / V), index))


def test_another_fit_looks_again():
    *_, module = trained(True)
    module.kd_at = 4.0
    with pytest.raises(UserError, match="kd_at reads logits"):
        Trainer(max_epochs=3, limit_val_batches=0, **QUIET).fit(
            module, torch.utils.data.DataLoader(batches(), batch_size=None)
        )
