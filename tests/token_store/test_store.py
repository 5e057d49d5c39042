import json
import multiprocessing
import pickle

import numpy as np
import pytest
import torch
from token_store.made import VOCABULARY, Tiny, documents

from ctkd_lightning.errors import UserError
from ctkd_lightning.teacher_cache.key import cache_key
from ctkd_lightning.token_store import TokenStore, TokenStoreWriter, write_token_store
from ctkd_lightning.token_store._manifest import check_sum
from ctkd_lightning.token_store._shards import record_check


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A store of two shards, of texts of 24 and of 7 tokens, in the order in which keys do not sort."""
    folder = tmp_path_factory.mktemp("store")
    write_token_store(folder / "s", Tiny(), [*documents(), *documents(5, 7, first_key=-3)], top=4)
    return folder / "s"


@pytest.fixture
def store(whole):
    return TokenStore(whole)


def teacher_logits(*texts):
    with torch.no_grad():
        logits = Tiny()(torch.stack(texts))
    return logits - logits.mean(dim=-1, keepdim=True)


def test_logits_are_the_teacher_s(store):
    (a, text_a), (b, text_b) = documents()[7], documents()[2]
    found, expected = store.logits([a, b]), teacher_logits(text_a, text_b)
    assert found.dtype == torch.float32
    assert (found - found.mean(dim=-1, keepdim=True) - expected).abs().max() < 0.1 * expected.std()
    top = expected.topk(4, dim=-1).indices
    torch.testing.assert_close(found.gather(-1, top), expected.gather(-1, top), atol=1e-3, rtol=0)


def test_positions_of_all_of_each_and_padding(store):
    a, b = documents()[0][0], documents(5, 7, first_key=-3)[1][0]
    whole_a, whole_b = store.logits([a])[0], store.logits([b])[0]
    assert whole_b.shape == (7, VOCABULARY)
    same = store.logits(torch.tensor([a, b]), torch.tensor([4, 2]))
    torch.testing.assert_close(same, torch.stack([whole_a[[4, 2]], whole_b[[4, 2]]]))
    padded = store.logits([a, b], torch.tensor([[0, 23], [6, -1]]))
    torch.testing.assert_close(padded[0], whole_a[[0, 23]])
    torch.testing.assert_close(padded[1, 0], whole_b[6])
    assert padded[1, 1].isfinite().all()


def test_the_same_text_is_taken_and_another_refused(store):
    (a, text_a), (b, text_b) = documents()[0], documents()[1]
    texts = torch.stack([text_a, text_b])
    store.at([a, b], tokens=texts)
    texts[1, 5] = (texts[1, 5] + 1) % VOCABULARY
    with pytest.raises(UserError, match=f"document {b} has another text .* first at position 5"):
        store.at([a, b], tokens=texts)
    store.at([a, b], torch.tensor([[0, 1], [-1, 5]]), tokens=torch.stack([text_a[:2], text_b[[0, 5]]]))


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda s: s.at([100, 77]), "document 77 is not in the token store .* which has 45 with keys from -3 to 139"),
        (lambda s: s.at([100], torch.arange(25)), "document 100 has 24 positions .* and position 24 is asked for"),
        (lambda s: s.at([100, -3]), "the documents have 7 to 24 positions: say which"),
        (lambda s: s.at([100.7, 101.2]), "keys must be whole numbers, found float64"),
        (lambda s: s.at(["100"]), "keys must be whole numbers, found <U3"),
        (lambda s: s.at([2**64 + 100]), "keys must be whole numbers, found object"),
        (
            lambda s: s.at(np.array([2**63], dtype=np.uint64)),
            "keys must be whole numbers of 64 bits, found 92233720",
        ),
        (lambda s: s.at([100], torch.tensor([0.0, 1.5])), "positions must be whole numbers, found float32"),
        (lambda s: s.at([100], [[0], [1, 2]]), "positions must be whole numbers, found rows of different lengths"),
        (lambda s: s.at([100, 101], torch.zeros(3, 4).long()), r"positions have shape \(3, 4\) for 2 documents"),
        (
            lambda s: s.at([100], [1, 2], tokens=torch.zeros(1, 3)),
            r"tokens have shape \(1, 3\), and \(1, 2\) positions",
        ),
    ],
)
def test_what_the_store_does_not_have(store, ask, words):
    with pytest.raises(UserError, match=words):
        ask(store)


def test_the_teacher_can_be_asked_for(whole):
    assert TokenStore(whole, teacher=Tiny()).vocabulary == VOCABULARY
    assert TokenStore(whole, teacher=cache_key(Tiny())).keys.tolist() == [*range(-3, 2), *range(100, 140)]
    with pytest.raises(UserError, match="is of another teacher"):
        TokenStore(whole, teacher=Tiny(seed=1))


def test_a_copy_reads_the_same_files(store):
    again = pickle.loads(pickle.dumps(store))
    torch.testing.assert_close(again.logits([105]), store.logits([105]), atol=0, rtol=0)


def read_in_a_process(folder, key, queue):
    queue.put(TokenStore(folder).logits([key]).sum().item())


def test_several_processes_read_it(whole, store):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    readers = [context.Process(target=read_in_a_process, args=(whole, 100 + i, queue)) for i in range(2)]
    for reader in readers:
        reader.start()
    found = sorted(queue.get(timeout=100) for _ in readers)
    for reader in readers:
        reader.join()
    assert found == pytest.approx(sorted(store.logits([100 + i]).sum().item() for i in range(2)))


def copied(whole, folder):
    folder.mkdir(parents=True)
    for path in whole.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def read_everything(folder):
    store = TokenStore(folder)
    return torch.cat([store.logits([key])[0] for key in store.keys.tolist()])


def test_a_flipped_byte_anywhere_is_found(whole, tmp_path):
    """What is read is what was written, or one line says that it is damaged."""
    expected, refused = read_everything(whole), 0
    rng = np.random.default_rng(0)
    names = sorted(path.name for path in whole.iterdir() if path.suffix != ".lock")
    assert len(names) >= 4
    for name in names:
        content = (whole / name).read_bytes()
        for place in {0, len(content) - 1, *rng.integers(len(content), size=8).tolist()}:
            folder = copied(whole, tmp_path / f"{name}-{place}")
            damaged = bytearray(content)
            damaged[place] ^= 0x10
            (folder / name).write_bytes(damaged)
            try:
                found = read_everything(folder)
            except UserError:
                refused += 1
            else:  # a number that says nothing of the values, such as a measured error
                assert name in ("manifest.json", "000000.tokens.npy")
                torch.testing.assert_close(found, expected, atol=0, rtol=0)
    assert refused > 20


def test_ids_beyond_the_vocabulary_are_refused_whatever_the_check_sums_say(whole, tmp_path):
    folder = copied(whole, tmp_path / "s")
    records, index = np.load(folder / "000000.tokens.npy"), np.load(folder / "000000.documents.npy")
    first = index[0]
    document = records[first["start"] : first["start"] + first["length"]]
    document["ids"][3, 0] = VOCABULARY
    index["check"][0] = record_check(document)
    np.save(folder / "000000.tokens.npy", records)
    np.save(folder / "000000.documents.npy", index)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["indices"]["000000"] = check_sum(folder / "000000.documents.npy")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=f"document {first['key']} is damaged"):
        TokenStore(folder).logits([int(first["key"])])


@pytest.mark.parametrize("name", ["basis.safetensors", "000000.tokens.npy", "000000.documents.npy"])
def test_a_file_that_is_missing_is_named(whole, tmp_path, name):
    folder = copied(whole, tmp_path / "s")
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing or damaged"):
        read_everything(folder)


def test_a_folder_that_is_none_an_unfinished_one_and_one_of_the_future(whole, tmp_path):
    with pytest.raises(UserError, match="is no token store"):
        TokenStore(tmp_path)
    folder = copied(whole, tmp_path / "s")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "complete": False}))
    with pytest.raises(UserError, match="is not finished: start its writer again"):
        TokenStore(folder)
    for wrong in ({"rank": -1}, {"rank": 2**60}, {"indices": {"../000000": ""}}, {"indices": []}, {"teacher": 3}):
        (folder / "manifest.json").write_text(json.dumps({**manifest, **wrong}))
        with pytest.raises(UserError, match=r"manifest\.json is missing or damaged"):
            TokenStore(folder)
    (folder / "manifest.json").write_text(json.dumps({**manifest, "format": 2}))
    with pytest.raises(UserError, match="of format 2, and this version reads format 1"):
        TokenStore(folder)


def test_a_user_s_key_for_each_token(tmp_path, store):
    """Documents of one token, with integers of the user's own."""
    texts = {2**40: torch.tensor([3]), -7: torch.tensor([4])}
    whole_store = tmp_path / "s"
    choice = _choice()
    with TokenStoreWriter(whole_store, choice, teacher="t") as writer:
        for key, text in texts.items():
            writer.write(key, text, teacher_logits(text)[0])
    assert TokenStore(whole_store).logits([-7, 2**40]).shape == (2, 1, VOCABULARY)


def _choice():
    from ctkd_lightning.token_store._asked import AskedModel
    from ctkd_lightning.token_store._choice import choose
    from ctkd_lightning.token_store.writing import _sample

    with torch.no_grad():
        return choose(_sample(AskedModel(Tiny()), documents(), 8), tolerance=0.03, top=4)
