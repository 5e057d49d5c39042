"""Language models through the callback, unedited, against loops by hand."""

import copy

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader

from ctkd_lightning import CurriculumTemperatureCallback, FixedTemperature, GlobalTemperature
from ctkd_lightning.methods import DKD, dkd_loss

VOCABULARY, TAU = 41, 2.0
SETTINGS = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}


class Causal(nn.Module):
    """A plain one, whose loss moves the labels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed, self.body = nn.Embedding(VOCABULARY, width), nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, input_ids, labels=None, attention_mask=None):
        logits = self.head(self.body(self.embed(input_ids))[0])
        loss = None if labels is None else F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return {"logits": logits, "loss": loss}


class Module(LightningModule):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch, batch_idx):
        return self.model(**batch)["loss"]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def plain(width: int) -> nn.Module:
    return Causal(width)


def gpt2(width: int) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    size = {"n_embd": width, "n_layer": 1, "n_head": 2, "n_positions": 16, "bos_token_id": 0, "eos_token_id": 0}
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=VOCABULARY, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **size)
    )


def masked_lm(width: int) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    size = {"hidden_size": width, "intermediate_size": width, "num_hidden_layers": 1, "num_attention_heads": 2}
    return transformers.BertForMaskedLM(
        transformers.BertConfig(
            vocab_size=VOCABULARY, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **size
        )
    )


def batches(causal: bool) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, VOCABULARY, (20, 2, 9), generator=generator)
    found = []
    for tokens in ids:
        labels, attention = tokens.clone(), torch.ones_like(tokens)
        if causal:
            labels[:, :3], labels[1, 7:], attention[1, 7:] = -100, -100, 0  # a prompt, and padding behind
        else:
            hidden = torch.rand(tokens.shape, generator=generator) < 0.4
            hidden[0, 0] = True
            labels[~hidden], tokens = -100, tokens.masked_fill(hidden, 0)
        found.append({"input_ids": tokens, "labels": labels, "attention_mask": attention})
    return found


@pytest.mark.parametrize("make", [plain, gpt2, masked_lm])
@pytest.mark.parametrize("method", ["kd", "dkd"])
def test_weights_after_20_steps_are_those_of_a_loop_by_hand(make, method):
    torch.manual_seed(0)
    student, teacher = make(8).double(), make(12).double()
    by_hand, causal = copy.deepcopy(student), make is not masked_lm
    distil = CurriculumTemperatureCallback(
        teacher=teacher,
        student="model",
        temperature=FixedTemperature(TAU),
        method=DKD(weight=0.9, warmup_epochs=0) if method == "dkd" else None,
    )
    data = DataLoader(batches(causal), batch_size=None)
    Trainer(max_epochs=1, callbacks=[distil], **SETTINGS).fit(Module(student), data)

    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1)
    for batch in batches(causal):
        output, guide = by_hand(**batch), teacher(**batch)["logits"].detach()
        own, labels = output["logits"], batch["labels"]
        if causal:  # logits and labels cut as the models' own losses cut them
            own, guide, labels = own[:, :-1], guide[:, :-1], labels[:, 1:]
        own, guide, labels = (x[labels != -100] for x in (own, guide, labels))
        if method == "kd":
            log_p, log_q = (guide / TAU).log_softmax(-1), (own / TAU).log_softmax(-1)
            term = TAU**2 * (log_p.exp() * (log_p - log_q)).sum(-1).mean()
        else:
            term = dkd_loss(own, guide, labels, TAU)
        optimizer.zero_grad()
        (0.1 * output["loss"] + 0.9 * term).backward()
        optimizer.step()
    for own, other in zip(student.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-12)


def test_a_teacher_in_half_precision_says_what_it_says_in_that_precision():
    torch.manual_seed(0)
    student, teacher = Causal(8), Causal(12).bfloat16()
    by_hand = copy.deepcopy(student)
    distil = CurriculumTemperatureCallback(teacher=teacher, student="model", temperature=FixedTemperature(TAU))
    Trainer(max_epochs=1, callbacks=[distil], **SETTINGS).fit(
        Module(student), DataLoader(batches(True)[:1], batch_size=None)
    )
    (batch,) = batches(True)[:1]
    output, kept = by_hand(**batch), batch["labels"][:, 1:] != -100
    guide = teacher(**batch)["logits"].detach()[:, :-1][kept].float()
    assert next(teacher.parameters()).dtype == torch.bfloat16
    log_p, log_q = (guide / TAU).log_softmax(-1), (output["logits"][:, :-1][kept] / TAU).log_softmax(-1)
    kd = TAU**2 * (log_p.exp() * (log_p - log_q)).sum(-1).mean()
    (0.1 * output["loss"] + 0.9 * kd).backward()
    for own, other in zip(student.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(own, other - 0.1 * other.grad)


def test_the_default_temperature_is_that_of_a_vocabulary_and_goes_on_in_a_second_training():
    student, teacher = Causal(8), Causal(12)
    distil = CurriculumTemperatureCallback(teacher=teacher, student="model")
    data = DataLoader(batches(True), batch_size=None)
    with pytest.warns(UserWarning, match="vocabulary of 41 tokens"):
        Trainer(max_epochs=2, callbacks=[distil], **SETTINGS).fit(Module(student), data)
    learned = float(distil.temperature.value.detach())
    assert distil.temperature.bounds == (1, 5)
    with torch.no_grad():
        distil.temperature.value.add_(1.0)
    Trainer(max_epochs=0, callbacks=[distil], **SETTINGS).fit(Module(student), data)
    assert float(distil.temperature.value.detach()) == pytest.approx(learned + 1)


def test_a_resumed_training_keeps_what_it_learned(tmp_path):
    data = DataLoader(batches(True), batch_size=None)

    def fit(epochs, resume=None):
        torch.manual_seed(0)
        distil = CurriculumTemperatureCallback(teacher=Causal(12), student="model")
        module = Module(Causal(8))
        trainer = Trainer(
            max_epochs=epochs, callbacks=[distil], default_root_dir=tmp_path, accelerator="cpu", logger=False,
            enable_progress_bar=False,
        )  # fmt: skip
        trainer.fit(module, data, ckpt_path=resume, weights_only=False)
        trainer.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return distil.temperature

    whole = fit(3)
    fit(2)
    resumed = fit(3, tmp_path / "2.ckpt")
    assert resumed.bounds == whole.bounds == (1, 5)
    assert float(resumed.value) == float(whole.value)


def test_a_teacher_of_other_tokens_is_told():
    torch.manual_seed(0)
    teacher = Causal(12)
    with torch.no_grad():
        teacher.head.bias[0] = 30.0  # sure of a token that is never there
    distil = CurriculumTemperatureCallback(teacher=teacher, student="model")
    data = DataLoader([{k: v.repeat(4, 1) for k, v in b.items()} for b in batches(True)], batch_size=None)
    with pytest.warns(UserWarning, match=r"the teacher's cross-entropy .* a uniform guess has 3.71"):
        Trainer(max_epochs=1, callbacks=[distil], **SETTINGS).fit(Module(Causal(8)), data)


def test_another_vocabulary_is_refused():
    class Larger(Causal):
        def __init__(self) -> None:
            super().__init__(8)
            self.head = nn.Linear(8, VOCABULARY + 3)

    distil = CurriculumTemperatureCallback(teacher=Larger(), student="model")
    with pytest.raises(Exception, match="the student scores 41 classes and the teacher 44"):
        Trainer(max_epochs=1, callbacks=[distil], **SETTINGS).fit(
            Module(Causal(8)), DataLoader(batches(True), batch_size=None)
        )


class MadeLate(Module):
    """Its network is made in configure_model."""

    def __init__(self) -> None:
        LightningModule.__init__(self)

    def configure_model(self) -> None:
        if not hasattr(self, "model"):
            self.model = Causal(8)


@pytest.mark.parametrize("student", ["model", None])
def test_a_network_that_is_made_late_gets_the_range_too(student):
    distil = CurriculumTemperatureCallback(teacher=Causal(12), student=student)
    module = MadeLate()
    module.forward = lambda **batch: module.model(**batch)
    module.training_step = lambda batch, batch_idx: (module.model if student else module)(**batch)["loss"]
    data = DataLoader(batches(True), batch_size=None)
    with pytest.warns(UserWarning, match="vocabulary of 41 tokens"):
        Trainer(max_epochs=1, callbacks=[distil], **SETTINGS).fit(module, data)
    assert distil.temperature.bounds == (1, 5)


def test_what_was_loaded_or_trained_before_keeps_its_range():
    distil = CurriculumTemperatureCallback(teacher=Causal(12), student="model")
    with torch.no_grad():
        distil.temperature.value.fill_(-1.0)
    data = DataLoader(batches(True)[:1], batch_size=None)
    Trainer(max_epochs=1, callbacks=[distil], **SETTINGS).fit(Module(Causal(8)), data)
    assert distil.temperature.bounds == (1, 21)


def test_a_checkpoint_of_an_earlier_version_goes_on_at_its_own_tau(tmp_path):
    """Such a one has no range: it was the same for all."""
    data = DataLoader(batches(True), batch_size=None)

    def fit(epochs, resume=None, **settings):
        torch.manual_seed(0)
        distil = CurriculumTemperatureCallback(teacher=Causal(12), student="model", **settings)
        trainer = Trainer(
            max_epochs=epochs, callbacks=[distil], default_root_dir=tmp_path, accelerator="cpu", logger=False,
            enable_progress_bar=False,
        )  # fmt: skip
        trainer.fit(Module(Causal(8)), data, ckpt_path=resume, weights_only=False)
        trainer.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return distil.temperature

    whole = fit(3, temperature=GlobalTemperature())
    fit(2, temperature=GlobalTemperature())
    checkpoint = torch.load(tmp_path / "2.ckpt", weights_only=False)
    (state,) = (x for name, x in checkpoint["callbacks"].items() if "CurriculumTemperature" in name)
    del state["range"]
    torch.save(checkpoint, tmp_path / "old.ckpt")
    resumed = fit(3, tmp_path / "old.ckpt")
    assert resumed.bounds == (1, 21)
    assert float(resumed.value) == float(whole.value)
