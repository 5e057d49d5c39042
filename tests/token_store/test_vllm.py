"""vLLM's log-probabilities of a prompt, in its layouts, against a teacher's own."""

import json
import math
from types import SimpleNamespace

import pytest
import torch

from ctkd_lightning.errors import UserError
from ctkd_lightning.methods import kd_loss, top_k_kd_loss
from ctkd_lightning.token_store import read_vllm, top_k_of_vllm

TEXT = [3, 1, 4, 1]
V = 6


def teacher():
    return torch.randn(len(TEXT), V, generator=torch.Generator().manual_seed(0))


def as_vllm(logits, k, of=lambda value, rank: {"logprob": value, "rank": rank, "decoded_token": "x"}):
    """Of each token what was thought before it: the k likeliest, and itself."""
    entries = [None]
    for row, came in zip(logits.log_softmax(-1)[:-1], TEXT[1:], strict=True):
        ranked = row.argsort(descending=True).tolist()
        ids = dict.fromkeys([*ranked[:k], came])
        entries.append({token: of(float(row[token]), ranked.index(token) + 1) for token in ids})
    return entries


@pytest.mark.parametrize("of", [
    lambda value, rank: {"logprob": value, "rank": rank}, lambda value, rank: SimpleNamespace(logprob=value),
    lambda value, rank: value,
])  # fmt: skip
def test_all_of_them_are_kd_at_the_places_where_the_student_predicts(of):
    logits, student = teacher(), torch.randn(len(TEXT), V)
    ids, found = top_k_of_vllm(as_vllm(logits, V, of))
    kept = found.isfinite().any(dim=-1)
    assert kept.tolist() == [True, True, True, False]
    loss = top_k_kd_loss(student, ids, found, mask=kept)
    torch.testing.assert_close(loss, kd_loss(student[:-1], logits[:-1], 1.0), rtol=1e-5, atol=1e-6)


def test_fewer_than_the_others_have_empty_places():
    entries = as_vllm(teacher(), 2)
    ids, found = top_k_of_vllm(entries)
    lengths = [len(entry) for entry in entries[1:]]
    assert set(lengths) == {2, 3}  # the token that came is one of the two, or beside them
    assert found.isfinite().sum(dim=-1).tolist() == [*lengths, 0]
    own = {(t, int(token)): found[t, place] for t in range(3) for place, token in enumerate(ids[t, : lengths[t]])}
    for (t, token), value in own.items():
        assert float(value) == pytest.approx(float(teacher()[t].log_softmax(-1)[token]), abs=1e-6)


def test_files_of_answers(tmp_path):
    entries = as_vllm(teacher(), 3)
    answers = [entries, {"prompt_logprobs": entries}, {"choices": [{"text": "", "prompt_logprobs": entries}]}]
    path = tmp_path / "answers.jsonl"
    path.write_text("\n".join(json.dumps(answer) for answer in answers) + "\n\n")
    found = list(read_vllm(path))
    assert len(found) == 3
    for each in found:
        assert torch.equal(each.ids, top_k_of_vllm(entries).ids)
        assert torch.equal(each.log_probabilities, top_k_of_vllm(entries).log_probabilities)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (None, "expected vLLM's prompt_logprobs"),
        ([], "expected vLLM's prompt_logprobs"),
        ([{"1": -0.5}], "first entry .* is None"),
        ([None, None], "log-probabilities by token id, found None"),
        ([None, {"a": -0.5}], "found {'a': -0.5}"),
        ([None, {"1": 0.7}], "0.7 is no log-probability"),
        ([None, {"1": math.nan}], "nan is no log-probability"),
        ([None, {"1": {"rank": 2}}], "log-probabilities by token id"),
    ],
)
def test_other_layouts_are_one_line(entries, message, tmp_path):
    with pytest.raises(UserError, match=message):
        top_k_of_vllm(entries)
    path = tmp_path / "answers.jsonl"
    path.write_text(json.dumps(as_vllm(teacher(), 2)) + "\n" + json.dumps({"prompt_logprobs": entries}))
    with pytest.raises(UserError, match=f"line 2: .*{message}"):
        list(read_vllm(path))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        list(read_vllm(tmp_path / "none.jsonl"))
    (tmp_path / "broken.jsonl").write_text("[null, {")
    with pytest.raises(UserError, match="line 1"):
        list(read_vllm(tmp_path / "broken.jsonl"))
