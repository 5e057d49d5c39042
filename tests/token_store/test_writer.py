import multiprocessing
import os
import signal
import time

import pytest
import torch
from token_store.made import Tiny, documents

from ctkd_lightning.errors import UserError
from ctkd_lightning.token_store import TokenStore, TokenStoreWriter, write_token_store, writer
from ctkd_lightning.token_store._asked import AskedModel
from ctkd_lightning.token_store._choice import choose
from ctkd_lightning.token_store.writing import _sample


@pytest.fixture(scope="module")
def choice():
    with torch.no_grad():
        return choose(_sample(AskedModel(Tiny()), documents(), 8), tolerance=0.03, top=4)


@torch.no_grad()
def fill(folder, choice, texts, stop_after=None, **settings):
    asked = 0
    with TokenStoreWriter(folder, choice, teacher="t", shard_bytes=2_000, **settings) as opened:
        for key, text in texts:
            if asked == stop_after:
                raise KeyboardInterrupt
            if not opened.has(key, text):
                opened.write(key, text, Tiny()(text[None])[0])
                asked += 1
    return asked


def logits(folder):
    store = TokenStore(folder)
    return store.logits(store.keys)


def test_one_that_was_stopped_is_gone_on_with(tmp_path, choice):
    fill(tmp_path / "whole", choice, documents())
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "s", choice, documents(), stop_after=25)
    with pytest.raises(UserError, match="not finished"):
        TokenStore(tmp_path / "s")
    assert 40 - 25 <= fill(tmp_path / "s", None, documents()) < 20  # at most a shard's documents are lost
    torch.testing.assert_close(logits(tmp_path / "s"), logits(tmp_path / "whole"), atol=0, rtol=0)
    assert fill(tmp_path / "s", None, documents()) == 0


def write_slowly(folder):
    network = Tiny()
    forward = network.forward
    network.forward = lambda tokens: (time.sleep(0.05), forward(tokens))[1]
    writer.SHARD_BYTES = 2_000
    with torch.no_grad():
        made = choose(_sample(AskedModel(Tiny()), documents(), 8), tolerance=0.03, top=4)
    with TokenStoreWriter(folder, made, teacher="t", shard_bytes=2_000) as opened, torch.no_grad():
        for key, text in documents():
            opened.write(key, text, network(text[None])[0])


def test_a_kill_leaves_what_can_be_gone_on_with(tmp_path, choice):
    process = multiprocessing.get_context("spawn").Process(target=write_slowly, args=(tmp_path / "s",))
    process.start()
    until = time.monotonic() + 100
    while len(list((tmp_path / "s").glob("*.documents.npy"))) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    asked = fill(tmp_path / "s", None, documents())
    assert 0 < asked < 40
    fill(tmp_path / "whole", choice, documents())
    torch.testing.assert_close(logits(tmp_path / "s"), logits(tmp_path / "whole"), atol=2e-2, rtol=0)


@pytest.mark.parametrize(("name", "lost"), [("000001.tokens.npy", 1), ("000001.documents.npy", 3)])
def test_damage_is_written_anew(tmp_path, choice, name, lost):
    fill(tmp_path / "s", choice, documents())
    before = logits(tmp_path / "s")
    path = tmp_path / "s" / name
    content = bytearray(path.read_bytes())
    content[0 if lost > 1 else -1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        logits(tmp_path / "s")
    assert fill(tmp_path / "s", None, documents()) == lost
    torch.testing.assert_close(logits(tmp_path / "s"), before, atol=0, rtol=0)


def test_another_teacher_other_settings_and_other_texts_are_refused(tmp_path, choice):
    fill(tmp_path, choice, documents())
    with (
        pytest.raises(UserError, match=r"is of another teacher \(t, this one is u\)"),
        TokenStoreWriter(tmp_path, None, teacher="u"),
    ):
        pass
    with pytest.raises(UserError, match=r"begun with tolerance=None, rank=8 and top=4"):
        fill(tmp_path, None, documents(), tolerance=0.5)
    with pytest.raises(UserError, match=r"document 100 is in the token store .* with another text"):
        fill(tmp_path, None, documents(seed=2))
    with pytest.raises(UserError, match=r"document 100 is in the token store .* with another text"):
        fill(tmp_path, None, documents(length=23))


def test_what_is_no_document(tmp_path, choice):
    with pytest.raises(UserError, match="no token store to go on with"):
        fill(tmp_path / "none", None, documents())
    with pytest.raises(UserError, match="no document was given"):
        fill(tmp_path / "empty", choice, [])
    with TokenStoreWriter(tmp_path / "s", choice, teacher="t") as opened:
        with pytest.raises(UserError, match=r"document 5 has logits of shape \(3, 49\), expected \(3, 50\)"):
            opened.write(5, torch.zeros(3).long(), torch.zeros(3, 49))
        opened.write(5, torch.zeros(3).long(), torch.zeros(3, 50))


def test_a_key_that_is_a_tensor_is_its_number(tmp_path, choice):
    key, text = documents()[0]
    with TokenStoreWriter(tmp_path, choice, teacher="t") as opened:
        for _ in range(2):
            opened.write(torch.tensor(key), text, torch.zeros(24, 50))
        assert opened.has(key, text)
        assert opened.has(torch.tensor(key), text)
        with pytest.raises(UserError, match="document 3: expected token ids"):
            opened.has(3, [1, 2])
    with TokenStoreWriter(tmp_path, None, teacher="t") as opened:
        opened.write(torch.tensor(key), text, torch.zeros(24, 50))
    assert TokenStore(tmp_path).keys.tolist() == [key]


def test_one_process_at_a_time_writes(tmp_path, choice, monkeypatch):
    monkeypatch.setattr(writer, "owned", lambda folder: writer_owned(folder, patience=0.0))
    with TokenStoreWriter(tmp_path, choice, teacher="t") as opened:
        with pytest.raises(UserError, match="is in use by"), TokenStoreWriter(tmp_path, choice, teacher="t"):
            pass
        opened.write(1, torch.zeros(1).long(), torch.zeros(1, 50))


writer_owned = writer.owned


def test_the_pass_over_documents_ends_in_the_same_store(tmp_path, choice):
    fill(tmp_path / "a", choice, documents())
    write_token_store(tmp_path / "b", Tiny(), documents(), top=4)
    torch.testing.assert_close(logits(tmp_path / "a"), logits(tmp_path / "b"), atol=1e-3, rtol=0)
