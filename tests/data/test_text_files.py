import math

import pytest
import torch
from lightning.pytorch import Trainer

from ctkd_lightning.data import StdlibTokens, TextFiles
from ctkd_lightning.data.text_files import _split_of
from ctkd_lightning.errors import UserError
from ctkd_lightning.models import LanguageModel
from ctkd_lightning.modules import ClassifierModule

pytest.importorskip("tokenizers")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Sixty files, in a folder with another one's in it."""
    root = tmp_path_factory.mktemp("sources")
    for number in range(60):
        text = "\n".join(f"def f{i}_{number}(x):\n    return x + {i * number}  # größer" for i in range(20))
        (root / f"m{number}.py").write_text(text, encoding="utf-8")
    (root / "site-packages").mkdir()
    (root / "site-packages" / "other.py").write_text("other = 1\n" * 1000)
    return root


@pytest.fixture
def data(sources, tmp_path):
    return StdlibTokens(vocabulary=300, length=16, root=sources, cache_dir=tmp_path, batch_size=4)


def test_texts_are_the_files_and_nothing_else(data, sources):
    import tokenizers

    tokeniser = tokenizers.Tokenizer.from_file(str(data._prepared / "tokenizer.json"))
    for split in ("train", "val", "test"):
        names = sorted(p.name for p in sources.glob("*.py") if _split_of(p.name) == split)
        text = tokeniser.decode(data.tokens(split).tolist(), skip_special_tokens=False)
        assert text == "".join((sources / name).read_text(encoding="utf-8") + "<end>" for name in names)


def test_each_target_is_the_next_token(data):
    batch = next(iter(data.train_dataloader()))
    tokens = data.tokens("train")
    for x, y, index in zip(*batch, strict=True):
        start = int(index) * 16
        assert x.tolist() == tokens[start : start + 16].tolist()
        assert y.tolist() == tokens[start + 1 : start + 17].tolist()


def test_bytes_a_token_are_counted(data, sources):
    names = [p for p in sources.glob("*.py") if _split_of(p.name) == "test"]
    size = sum(len(path.read_bytes()) for path in names)
    assert data.bytes_per_token("test") * len(data.tokens("test")) == pytest.approx(size)


def test_few_texts_are_the_same_for_every_seed_and_their_order_is_the_seeds(sources, tmp_path):
    def made(seed):
        settings = {"vocabulary": 300, "length": 16, "root": sources, "cache_dir": tmp_path, "limit_train": 40}
        return StdlibTokens(seed=seed, **settings)

    first, second = made(0), made(1)
    assert len(first.train_indices) == 40
    assert torch.equal(first.train_indices, second.train_indices)
    orders = [torch.cat([b.index for b in d.train_dataloader()]).tolist() for d in (first, second)]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])


def test_what_is_kept_is_not_made_again(data, sources, tmp_path, monkeypatch):
    data.prepare_data()
    monkeypatch.setattr(StdlibTokens, "_prepare", None)
    again = StdlibTokens(vocabulary=300, length=16, root=sources, cache_dir=tmp_path)
    assert torch.equal(again.tokens("val"), data.tokens("val"))


def test_a_language_model_learns_them(data):
    torch.manual_seed(0)
    module = ClassifierModule(
        LanguageModel(300, width=32, length=16),
        class_dim=-1,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-2),
    )
    quiet = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=1, limit_train_batches=150, limit_val_batches=0, **quiet)
    trainer.fit(module, datamodule=data)
    (found,) = trainer.test(module, datamodule=data, verbose=False)
    assert found["test/loss"] < math.log(300) / 2  # of a uniform guess: log 300


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocabulary": 256}, "vocabulary"),
        ({"length": 1}, "length"),
        ({"vocabulary": 60_000}, "the files give [0-9]+ tokens"),
    ],
)
def test_bad_settings_are_refused(sources, tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        StdlibTokens(**{"root": sources, "cache_dir": tmp_path} | settings).prepare_data()


def test_a_folder_without_sources_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"has 0 files \*.py, too few"):
        StdlibTokens(root=tmp_path, cache_dir=tmp_path).prepare_data()
    with pytest.raises(UserError, match="no folder at"):
        TextFiles(tmp_path / "none", cache_dir=tmp_path).prepare_data()


def test_any_files_of_text(tmp_path):
    """By a pattern; bytes that are no text too."""
    for number in range(60):
        (tmp_path / f"{number}.md").write_bytes(f"text {number}, ".encode() * 40 + b"\xff")
    (tmp_path / "other.txt").write_text("not of the pattern")
    data = TextFiles(tmp_path, "*.md", vocabulary=280, length=8, cache_dir=tmp_path / "cache")
    data.prepare_data()
    (tokenizer,) = (tmp_path / "cache").rglob("tokenizer.json")
    assert tokenizer.parents[1].name == "text_files"
    batch = next(iter(data.train_dataloader()))
    assert batch.input.shape == batch.target.shape == (16, 8)
    assert "pattern" not in "".join(data.class_names)


def test_other_texts_have_other_names(sources, tmp_path):
    """By which teachers and what they gave are found again: not by the order, nor by where files are kept."""

    def made(folder=tmp_path, **changed):
        settings = {"vocabulary": 300, "length": 16, "root": sources, "cache_dir": folder}
        return StdlibTokens(**settings | changed)

    first, names = made(), ("fingerprint", "text_fingerprint", "test_fingerprint")
    for same in (made(seed=3), made(tmp_path / "elsewhere"), made(batch_size=2)):
        assert [getattr(same, name)() for name in names] == [getattr(first, name)() for name in names]
    differ = {
        "limit_train": (made(limit_train=9), [True, False, False]),
        "limit_eval": (made(limit_eval=9), [False, False, True]),
        "length": (made(length=8), [True, True, True]),
        "vocabulary": (made(vocabulary=290), [True, True, True]),
    }
    for what, (other, expected) in differ.items():
        assert [getattr(other, name)() != getattr(first, name)() for name in names] == expected, what


def test_a_text_is_what_a_batch_has_at_its_index(data):
    batch = next(iter(data.train_dataloader()))
    for x, index in zip(batch.input, batch.index.tolist(), strict=True):
        assert torch.equal(data.text("train", index), x)
    assert torch.equal(data.example_text[1], data.text("train", 1))


def test_other_texts_of_the_same_names_and_sizes_are_others(sources, tmp_path):
    first = StdlibTokens(vocabulary=300, length=16, root=sources, cache_dir=tmp_path / "cache")
    other = tmp_path / "other"
    for path in sources.glob("*.py"):
        other.mkdir(exist_ok=True)
        (other / path.name).write_bytes(path.read_bytes().replace(b"return", b"retrun"))
    second = StdlibTokens(vocabulary=300, length=16, root=other, cache_dir=tmp_path / "cache")
    assert first.fingerprint() != second.fingerprint()


def test_splits_without_a_text_are_refused(sources, tmp_path):
    data = StdlibTokens(vocabulary=300, length=100_000, root=sources, cache_dir=tmp_path)
    data.prepare_data()
    with pytest.raises(UserError, match=r"length=100000 makes 0 texts of the .* lower it"):
        data.setup("fit")
