import numpy as np
import pytest
import torch
from token_store.made import Tiny, documents

from ctkd_lightning.errors import UserError
from ctkd_lightning.storing.model import load_model
from ctkd_lightning.storing.settings import StoreSettings
from ctkd_lightning.storing.storing import write_store
from ctkd_lightning.token_store import TokenStore


@pytest.fixture
def tokens(tmp_path):
    np.save(tmp_path / "tokens.npy", np.stack([text.numpy() for _, text in documents()]))
    return tmp_path / "tokens.npy"


def test_a_module_of_one_s_own_code(tokens, tmp_path, capsys):
    settings = StoreSettings(teacher="token_store.made:Tiny", tokens=tokens, output=tmp_path / "s", top=4, device="cpu")
    found = write_store(settings)
    printed = capsys.readouterr().out
    assert f"{found.bytes_per_token} bytes a token" in printed
    assert "Relative errors on 480 held-out tokens" in printed
    assert f"{found.rank} coefficients of 8 bits, the top 4 exactly" in printed
    assert printed.index("Relative errors") < printed.index("documents")
    text = documents()[5][1]
    with torch.no_grad():
        expected = Tiny()(text[None])[0]
    difference = TokenStore(tmp_path / "s").logits([5])[0] - expected
    assert (difference - difference.mean(dim=-1, keepdim=True)).norm() < 0.05 * expected.norm()


def test_a_model_of_transformers(tokens, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=50, n_positions=32, n_embd=16, n_layer=1, n_head=2)
    torch.manual_seed(0)
    network = transformers.GPT2LMHeadModel(config).eval()
    network.save_pretrained(tmp_path / "model")
    found = write_store(
        StoreSettings(teacher=str(tmp_path / "model"), tokens=tokens, output=tmp_path / "s", top=4, device="cpu")
    )
    assert found.rank <= 16  # its head, not a sample of logits, made the basis
    text = documents()[5][1]
    with torch.no_grad():
        expected = network(text[None]).logits[0]
    expected = expected - expected.mean(dim=-1, keepdim=True)
    difference = TokenStore(tmp_path / "s").logits([5])[0] - expected
    assert (difference - difference.mean(dim=-1, keepdim=True)).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("token_store.made:Tinny", "token_store.made:Tinny is not there"),
        ("no_such_package:model", "no_such_package:model is not there"),
        ("token_store.made:VOCABULARY", "is a int: expected a torch module, or a function"),
    ],
)
def test_what_is_no_model(name, words):
    with pytest.raises(UserError, match=words):
        load_model(name, "cpu")


def test_a_folder_without_a_model(tmp_path):
    pytest.importorskip("transformers")
    with pytest.raises(UserError, match="transformers cannot load"):
        load_model(str(tmp_path), "cpu")
