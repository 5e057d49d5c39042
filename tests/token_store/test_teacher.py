import copy
import functools

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from token_store.made import VOCABULARY, Tiny, documents
from torch import nn
from torch.utils.data import DataLoader

from benchmarks.quiet import quiet_trainer
from ctkd_lightning import (
    CosineCurriculum,
    CurriculumTemperatureCallback,
    Distillation,
    DistillationModule,
    FixedTemperature,
    GlobalTemperature,
    StudentCall,
)
from ctkd_lightning.errors import UserError
from ctkd_lightning.methods import DKD, KD, kd_loss
from ctkd_lightning.token_store import TokenStore, write_token_store
from ctkd_lightning.token_store.teacher import StoredInput

TEXTS = documents()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    write_token_store(folder, Tiny(), TEXTS, top=4)
    return folder


class Student(nn.Module):
    def __init__(self, vocabulary=VOCABULARY):
        super().__init__()
        torch.manual_seed(5)
        self.embedding, self.head = nn.Embedding(vocabulary, 6), nn.Linear(6, vocabulary)

    def forward(self, input_ids, attention_mask=None):
        return self.head(self.embedding(input_ids))


class Plain(LightningModule):
    """A module that knows nothing of distillation."""

    def __init__(self, student):
        super().__init__()
        self.student = student

    def training_step(self, batch, batch_idx):
        logits = self.student(batch["input_ids"])
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["input_ids"][:, 1:].flatten())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def rows():
    return [{"id": key, "input_ids": text} for key, text in TEXTS]


def train(callback, student, steps=5, data=None):
    trainer = quiet_trainer("cpu", callbacks=[callback], max_steps=steps, enable_progress_bar=False)
    trainer.fit(Plain(student), DataLoader(rows() if data is None else data, batch_size=8))


def test_the_callback_trains_as_a_loop_with_the_store_s_logits(folder):
    student = Student().double()
    twin = copy.deepcopy(student)
    train(
        CurriculumTemperatureCallback(
            teacher_store=folder, key=lambda batch: batch["id"], temperature=FixedTemperature(4.0), student="student"
        ),
        student,
    )
    store, optimizer = TokenStore(folder), torch.optim.SGD(twin.parameters(), lr=0.1)
    for start in range(0, 40, 8):
        keys, texts = zip(*TEXTS[start : start + 8], strict=True)
        texts = torch.stack(texts)
        logits = twin(texts)
        loss = 0.1 * F.cross_entropy(logits[:, :-1].flatten(0, 1), texts[:, 1:].flatten())
        loss = loss + 0.9 * kd_loss(logits, store.logits(keys), 4.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for a, b in zip(student.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-8)


def test_a_temperature_learns_from_a_store_and_no_teacher_is_in_memory(folder):
    callback = CurriculumTemperatureCallback(
        CosineCurriculum(epochs=1), teacher_store=folder, key=key_of, interval="step", student="student"
    )
    before = float(callback.temperature.value)
    train(callback, Student(), steps=10)
    assert float(callback.temperature.value) != before
    assert not list(callback.teacher.parameters())
    assert not list(callback.teacher.buffers())


def test_the_engine_and_the_module_ask_it(folder):
    keys, texts = zip(*TEXTS[:3], strict=True)
    texts = torch.stack(texts)
    batch = {"id": torch.tensor(keys), "x": texts}
    expected = float(kd_loss(Student()(texts), TokenStore(folder).logits(keys), 2.0))
    settings = {"teacher_store": TokenStore(folder), "key": lambda batch: batch["id"]}
    engine = Distillation(Student(), temperature=FixedTemperature(2.0), **settings)
    assert float(engine(texts, batch=batch)["kd"]) == pytest.approx(expected, rel=1e-5)
    module = DistillationModule(None, Student(), temperature=FixedTemperature(2.0), **settings)
    assert float(module.losses(texts, batch)["kd"]) == pytest.approx(expected, rel=1e-5)


def test_a_compiled_engine_asks_it_as_it_is(folder, monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    keys, texts = zip(*TEXTS[:3], strict=True)
    texts = torch.stack(texts)
    engine = Distillation(Student(), temperature=FixedTemperature(2.0), teacher_store=folder, key=key_of)
    engine.compile_networks()
    expected = float(kd_loss(Student()(texts), TokenStore(folder).logits(keys), 2.0))
    assert float(engine(texts, batch={"id": torch.tensor(keys)})["kd"]) == pytest.approx(expected, rel=1e-5)


def asked(call, key=lambda batch: batch, batch=(100,)):
    return StoredInput(key)(list(batch), call)


def test_positions_are_those_of_the_text_whatever_the_padding():
    ids = torch.zeros(2, 4, dtype=torch.int64)
    assert asked(StudentCall((ids,), {}))["positions"].tolist() == [0, 1, 2, 3]
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 0, 0]])
    found = asked(StudentCall((), {"input_ids": ids, "attention_mask": mask}))
    assert found["positions"].tolist() == [[-1, 0, 1, 2], [0, 1, -1, -1]]
    offset = asked(
        StudentCall((), {"input_ids": ids, "attention_mask": mask}),
        key=lambda b: (torch.tensor(b), torch.tensor([5, 7])),
        batch=(100, 101),
    )
    assert offset["positions"].tolist() == [[-1, 5, 6, 7], [7, 8, -1, -1]]
    of_output = asked(StudentCall((torch.zeros(2, 4, 3),), {}, torch.zeros(2, 5, 9)))
    assert of_output["positions"].tolist() == [0, 1, 2, 3, 4]
    assert asked(StudentCall((torch.zeros(2, 4, 3),), {}))["positions"] is None


@pytest.mark.parametrize(
    ("call", "offsets", "words"),
    [
        (StudentCall((torch.zeros(2, 4).long(),), {}), [0, -3], "offsets are positions from 0, found -3"),
        (StudentCall((torch.zeros(2, 4, 3),), {}), [0, 3], "the student's call has no token ids.* offsets"),
        (StudentCall((torch.zeros(2, 4).long(),), {}), [1, 2, 3], "found 3 offsets for 2 documents"),
    ],
)
def test_offsets_that_cannot_be(call, offsets, words):
    with pytest.raises(UserError, match=words):
        asked(call, key=lambda batch: (batch, offsets), batch=(100, 101))


def raising(batch):
    raise RuntimeError("first\nsecond")


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (raising, r"^key= found no documents in a batch of type list \(RuntimeError: first second\)[^\n]*$"),
        (lambda batch: None, "^key= must pick whole numbers, one for each row of the batch, found None"),
    ],
)
def test_a_key_that_picks_nothing(key, words):
    with pytest.raises(UserError, match=words):
        asked(StudentCall((torch.zeros(1, 4).long(),), {}), key=key)


def test_rows_that_begin_within_their_documents(folder):
    key, text = TEXTS[3]
    engine = Distillation(
        Student(),
        temperature=FixedTemperature(2.0),
        teacher_store=folder,
        key=lambda batch: (batch["id"], batch["offset"]),
    )
    batch = {"id": torch.tensor([key, key]), "offset": torch.tensor([0, 10])}
    texts = torch.stack([text[:8], text[10:18]])
    expected = TokenStore(folder).logits([key])[0]
    found = float(engine(texts, batch=batch)["kd"])
    assert found == pytest.approx(
        float(kd_loss(Student()(texts), torch.stack([expected[:8], expected[10:18]]), 2.0)), rel=1e-5
    )


OTHER_TEXT = [{"id": row["id"], "input_ids": row["input_ids"].flip(0)} for row in rows()]
LONGER = [{"id": row["id"], "input_ids": torch.cat([row["input_ids"]] * 2)} for row in rows()]
UNKNOWN = [{"id": row["id"] + 1000, "input_ids": row["input_ids"]} for row in rows()]


@pytest.mark.parametrize(
    ("data", "vocabulary", "key", "words"),
    [
        (OTHER_TEXT, VOCABULARY, "id", "has another text in the token store"),
        (LONGER, VOCABULARY, "id", "has 24 positions in the token store .* position 47 is asked for"),
        (UNKNOWN, VOCABULARY, "id", "document 1100 is not in the token store"),
        (rows(), VOCABULARY, "ids", r"key= found no documents in a batch of type dict \(KeyError: 'ids'\)"),
        (rows(), VOCABULARY, "input_ids", r"key= must pick whole numbers, one for each row .* found \(8, 24\)"),
        (rows(), VOCABULARY + 3, "id", r"student .*53.*teacher .*50|teacher .*50.*student .*53"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(folder, data, vocabulary, key, words):
    callback = CurriculumTemperatureCallback(teacher_store=folder, key=lambda batch: batch[key], student="student")
    with pytest.raises(UserError, match=words) as found:
        train(callback, Student(vocabulary), data=data)
    assert "\n" not in str(found.value)


def key_of(batch):
    return batch["id"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"key": key_of}, "teacher_store= and key= go together"),
        ({"teacher_store": "FOLDER"}, "teacher_store= and key= go together"),
        (
            {"teacher_store": "FOLDER", "key": key_of, "teacher": Tiny()},
            "in the teacher's place, and knows no teacher:",
        ),
        ({"teacher_store": "FOLDER", "key": key_of, "ask_teacher": print}, "knows no ask_teacher:"),
        ({"teacher_store": "none", "key": key_of}, "none is no token store"),
        (
            {"teacher_store": "FOLDER", "key": key_of, "task": "vectors"},
            "keeps logits up to a constant, .* of task='multiclass' alone, found task='vectors'",
        ),
        ({"teacher_store": "FOLDER", "key": key_of, "task": "multilabel"}, "found task='multilabel'"),
    ],
)
@pytest.mark.parametrize("make", [Distillation, CurriculumTemperatureCallback])
def test_settings_that_do_not_go_together(folder, settings, words, make):
    settings = {name: folder if value == "FOLDER" else value for name, value in settings.items()}
    with pytest.raises(UserError, match=words):
        make(**settings)


def test_methods_of_features_are_refused(folder):
    from ctkd_lightning.methods import SP

    with pytest.raises(UserError, match="method sp reads the teacher's features, and a token store has logits alone"):
        Distillation(Student(), method={"kd": KD(), "sp": SP()}, teacher_store=folder, key=key_of)
    Distillation(Student(), method=DKD(), temperature=GlobalTemperature(), teacher_store=folder, key=key_of)


def test_an_unedited_model_of_transformers_with_padded_texts(folder):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_positions=32, n_embd=16, n_layer=1, n_head=2, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
    )
    torch.manual_seed(0)
    student = transformers.GPT2LMHeadModel(config).double()
    twin = copy.deepcopy(student)

    class Unedited(LightningModule):
        def __init__(self):
            super().__init__()
            self.model = student

        def training_step(self, batch, batch_idx):
            return self.model(**{name: value for name, value in batch.items() if name != "id"}).loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    data = []
    for key, text in TEXTS:
        kept = (torch.arange(24) >= key % 7).long()  # padding on the left
        begins = int((1 - kept).sum())
        padded = torch.cat([torch.zeros(begins, dtype=torch.int64), text[: 24 - begins]])
        labels = torch.where(kept.bool(), padded, -100)
        data.append({"id": key, "input_ids": padded, "attention_mask": kept, "labels": labels})
    callback = CurriculumTemperatureCallback(
        teacher_store=folder, key=key_of, temperature=FixedTemperature(3.0), student="model"
    )
    trainer = quiet_trainer("cpu", callbacks=[callback], max_steps=4, enable_progress_bar=False)
    trainer.fit(Unedited(), DataLoader(data, batch_size=8))

    store, optimizer = TokenStore(folder), torch.optim.SGD(twin.parameters(), lr=0.1)
    twin.train()
    for start in range(0, 32, 8):
        batch = torch.utils.data.default_collate(data[start : start + 8])
        output = twin(**{name: value for name, value in batch.items() if name != "id"})
        guide = torch.zeros(8, 24, VOCABULARY)
        for row, (key, mask) in enumerate(zip(batch["id"].tolist(), batch["attention_mask"].bool(), strict=True)):
            guide[row, mask] = store.logits([key])[0, : int(mask.sum())]
        predicts = batch["attention_mask"].bool()  # and the last token of a text predicts nothing
        predicts = torch.cat([predicts[:, :-1] & predicts[:, 1:], torch.zeros(8, 1, dtype=torch.bool)], dim=1)
        loss = 0.1 * output.loss + 0.9 * kd_loss(output.logits, guide, 3.0, mask=predicts)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for a, b in zip(student.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-7)
