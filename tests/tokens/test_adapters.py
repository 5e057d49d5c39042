import copy

import pytest
import torch
from torch import nn

from ctkd_lightning.errors import UserError
from ctkd_lightning.features import FrozenNetwork
from ctkd_lightning.tokens import AdapterTeacher


class Adapted(nn.Module):
    """Stands for a model of PEFT: a base, and adapters by name that are added to it."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(4, 3).requires_grad_(False)
        self.adapters = nn.ModuleDict({name: nn.Linear(4, 3) for name in ("default", "teacher")})
        self.drop = nn.Dropout(0.5)
        self.peft_config = dict.fromkeys(self.adapters)
        self.on, self.active_adapter = True, ""
        self.set_adapter("default")

    def set_adapter(self, name: str) -> None:
        self.active_adapter = name
        for other, adapter in self.adapters.items():
            adapter.requires_grad_(other == name)

    def disable_adapter(self):
        model = self

        class Off:
            def __enter__(self) -> None:
                model.on = False

            def __exit__(self, *error: object) -> None:
                model.on = True
                model.set_adapter(model.active_adapter)

        return Off()

    def forward(self, x):
        return self.drop(self.base(x) + (self.adapters[self.active_adapter](x) if self.on else 0))


@pytest.mark.parametrize("name", [None, "teacher"])
def test_it_is_the_base_or_another_adapter_and_leaves_the_model_as_it_was(name):
    model, x = Adapted().train(), torch.randn(5, 4)
    model.adapters["default"].bias.requires_grad_(False)  # somebody's choice
    before = {n: p.requires_grad for n, p in model.named_parameters()}
    teacher = FrozenNetwork(AdapterTeacher(model, name), shared=model)
    expected = model.base(x) + (0 if name is None else model.adapters[name](x))
    torch.testing.assert_close(teacher(x), expected.detach())
    assert model.training
    assert model.drop.training
    assert model.on
    assert model.active_adapter == "default"
    assert {n: p.requires_grad for n, p in model.named_parameters()} == before
    assert not list(teacher.parameters())
    assert not teacher.state_dict()


def test_models_without_adapters_are_refused():
    with pytest.raises(UserError, match=r"takes a model with adapters, .* found Linear"):
        AdapterTeacher(nn.Linear(2, 2))
    with pytest.raises(UserError, match="no adapter 'other', but 'default', 'teacher'"):
        AdapterTeacher(Adapted(), "other")


def test_a_lora_student_learns_from_its_own_base_as_a_loop_by_hand_does():
    """The base with another adapter teaches; a second copy of the model stands for the teacher in the loop."""
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    from lightning.pytorch import LightningModule, Trainer

    from ctkd_lightning import CurriculumTemperatureCallback, FixedTemperature

    torch.manual_seed(0)
    size = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16, "bos_token_id": 0, "eos_token_id": 0}
    base = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=41, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **size)
    )
    lora = peft.LoraConfig(r=2, target_modules=["c_attn"], lora_dropout=0.0, fan_in_fan_out=True)
    student = peft.get_peft_model(base, lora)
    student.add_adapter("teacher", lora)
    for name, parameter in student.named_parameters():
        if "lora_B.teacher" in name:
            nn.init.normal_(parameter)
    student = student.double()
    by_hand = copy.deepcopy(student)
    apart = copy.deepcopy(student)
    apart.set_adapter("teacher")

    class Module(LightningModule):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch, batch_idx):
            return self.model(**batch).loss

        def configure_optimizers(self):
            return torch.optim.SGD((p for p in self.parameters() if p.requires_grad), lr=0.5)

    ids = torch.randint(0, 41, (20, 2, 9))
    batches = [{"input_ids": each, "labels": each.clone()} for each in ids]
    module = Module(student)
    distil = CurriculumTemperatureCallback(
        teacher=AdapterTeacher(student, "teacher"), student="model", temperature=FixedTemperature(2.0)
    )
    settings = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    Trainer(max_epochs=1, callbacks=[distil], **settings).fit(
        module, torch.utils.data.DataLoader(batches, batch_size=None)
    )

    optimizer = torch.optim.SGD((p for p in by_hand.parameters() if p.requires_grad), lr=0.5)
    by_hand.train()
    apart.eval()
    for batch in batches:
        output = by_hand(**batch)
        with torch.no_grad():
            p = (apart(**batch).logits[:, :-1] / 2).softmax(-1)
        q = (output.logits[:, :-1] / 2).log_softmax(-1)
        kd = 4 * (p * (p.log() - q)).sum(-1).mean()
        optimizer.zero_grad()
        (0.1 * output.loss + 0.9 * kd).backward()
        optimizer.step()

    trained = 0
    for (name, own), (_, other) in zip(student.named_parameters(), by_hand.named_parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-12)
        trained += own.requires_grad
        assert own.requires_grad == other.requires_grad, name
    assert trained == 2
    assert any(p.requires_grad and "lora_B" in n and bool(p.any()) for n, p in student.named_parameters())  # 0 at first
