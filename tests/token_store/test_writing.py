import pytest
import torch
from token_store.made import VOCABULARY, Tiny, documents
from torch import nn

from ctkd_lightning.errors import UserError
from ctkd_lightning.token_store import TokenStore, write_token_store
from ctkd_lightning.token_store._measuring import worst


class Counting(Tiny):
    """Remembers the sizes of the batches that it was asked for."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def forward(self, tokens):
        self.asked.append(tuple(tokens.shape))
        return super().forward(tokens)


def test_the_choice_is_told_before_anything_is_written(tmp_path):
    folder, told = tmp_path / "s", []

    def announce(choice):
        told.append(choice)
        assert not folder.exists()

    manifest = write_token_store(folder, Tiny(), documents(), top=4, announce=announce)
    assert len(told) == 1
    assert manifest.errors == told[0].candidate.errors
    assert worst(manifest.errors) <= manifest.tolerance == 0.03
    assert TokenStore(folder).manifest == manifest
    assert (manifest.documents, manifest.tokens, manifest.measured_on) == (40, 960, 480)
    size = sum(path.stat().st_size for path in folder.glob("*.tokens.npy"))
    assert size == pytest.approx(960 * manifest.bytes_per_token, abs=1000)


def test_the_teacher_is_left_as_it_was(tmp_path):
    network = Tiny().train()
    network.head.eval()
    network.head.bias.requires_grad_(False)
    write_token_store(tmp_path, network, documents(), top=4)
    assert [part.training for part in network.modules()] == [True, True, False]
    assert [name for name, p in network.named_parameters() if not p.requires_grad] == ["head.bias"]
    with pytest.raises(UserError):
        write_token_store(tmp_path, network, documents(), top=5)
    assert network.training


def test_documents_of_one_length_are_asked_for_together(tmp_path):
    network, counted = Counting(), []
    texts = [*documents(10), *documents(3, 7, first_key=0)]
    write_token_store(tmp_path, network, texts, top=4, batch_size=4, progress=counted.append)
    assert network.asked[-4:] == [(4, 24), (4, 24), (2, 24), (3, 7)]
    assert sum(counted) == 10 * 24 + 3 * 7


def test_a_second_pass_asks_for_nothing(tmp_path):
    write_token_store(tmp_path, Tiny(), documents(), top=4)

    class Refusing(Tiny):
        def forward(self, tokens):
            raise AssertionError

    again = Refusing()
    again.__class__.__qualname__, again.__class__.__module__ = "Tiny", Tiny.__module__
    again.__class__.__name__ = "Tiny"
    counted = []
    write_token_store(tmp_path, again, documents(), top=4, progress=counted.append)
    assert sum(counted) == 960


class Softcapped(Tiny):
    """Its logits are not its last layer's."""

    def forward(self, tokens):
        return 5 * (super().forward(tokens) / 5).tanh()


def test_where_the_last_layer_does_not_give_the_logits_their_sample_makes_the_basis(tmp_path):
    network = Softcapped()
    manifest = write_token_store(tmp_path, network, documents(60), top=4, tolerance=0.1)
    assert manifest.rank > 12  # the capped logits vary in more directions than the head has
    text = documents()[3][1]
    with torch.no_grad():
        expected = network(text[None])[0]
    difference = TokenStore(tmp_path).logits([103])[0] - expected
    difference -= difference.mean(dim=-1, keepdim=True)
    assert difference.norm() < 0.1 * expected.norm()


class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Tiny()

    def forward(self, tokens):
        return (self.inner(tokens),)


def test_logits_that_must_be_picked(tmp_path):
    with pytest.raises(UserError, match="teacher_logits=lambda output"):
        write_token_store(tmp_path, Wrapped(), documents())
    write_token_store(tmp_path, Wrapped(), documents(), teacher_logits=lambda output: output[0], top=4)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tolerance": 0}, "tolerance must be a finite number above 0"),
        ({"top": -1}, "top must be a whole number from 0"),
        ({"rank": 0}, "rank must be a whole number from 1"),
        ({"batch_size": 0}, "batch_size must be a whole number from 1"),
        ({"top": VOCABULARY + 1}, "top=51 is more than the vocabulary's 50"),
    ],
)
def test_settings_out_of_range(tmp_path, settings, words):
    with pytest.raises(UserError, match=words):
        write_token_store(tmp_path / "s", Tiny(), documents(), **settings)
    assert not (tmp_path / "s").exists()


def test_documents_that_cannot_be_kept(tmp_path):
    with pytest.raises(UserError, match=r"found 1 document\(s\)"):
        write_token_store(tmp_path / "a", Tiny(), documents(1))
    with pytest.raises(UserError, match="two documents have the key 100"):
        write_token_store(tmp_path / "b", Tiny(), [*documents(), *documents()], top=4)


def as_tensors(pairs):
    return [(torch.tensor(key), text) for key, text in pairs]


def test_keys_that_are_tensors_are_their_numbers(tmp_path):
    with pytest.raises(UserError, match="two documents have the key 100"):
        write_token_store(tmp_path / "a", Tiny(), as_tensors([*documents(), *documents(1)]), top=4)
    for _ in range(2):
        manifest = write_token_store(tmp_path / "b", Tiny(), as_tensors(documents()), top=4)
    assert manifest.documents == len(TokenStore(tmp_path / "b").keys) == 40


@pytest.mark.parametrize("place", range(3))
def test_a_document_that_is_none_is_named(tmp_path, place):
    """Wherever it is met first: as the one that is looked at, in the sample, or in the pass."""
    texts = documents(3)
    texts[place] = (7, [1, 2, 3])
    with pytest.raises(UserError, match="document 7: expected token ids"):
        write_token_store(tmp_path, Tiny(), texts, top=4)


@pytest.mark.parametrize("bias", [True, False])
def test_a_teacher_that_always_says_the_same(tmp_path, bias):
    network = Tiny(bias=bias)
    nn.init.zeros_(network.head.weight)
    with pytest.raises(UserError, match=r"do not vary over the 480 token\(s\) .* give more documents, or .* head"):
        write_token_store(tmp_path, network, documents(), top=4)


@pytest.mark.parametrize("kind", [Tiny, Softcapped])
def test_broken_weights_are_not_taken_for_few_documents(tmp_path, kind):
    network = kind()
    network.embedding.weight.data[3, 4] = torch.nan
    with pytest.raises(UserError, match="NaN or infinite for some tokens"):
        write_token_store(tmp_path, network, documents(), top=4)


def test_documents_that_are_too_few(tmp_path):
    with pytest.raises(UserError, match=r"do not vary over the 1 token\(s\) .* give more documents"):
        write_token_store(tmp_path, Tiny(), documents(2, 1), top=4)
    with pytest.raises(
        UserError, match=r"within tolerance=0.03: all 7 coefficients .*; give more documents, the 8 tok"
    ):
        write_token_store(tmp_path, Softcapped(), documents(2, 8), top=4)
    with pytest.raises(
        UserError, match=r"rank=9 is more than the 7 directions that the logits have: .* more documents"
    ):
        write_token_store(tmp_path, Softcapped(), documents(2, 8), top=4, rank=9)


def test_another_pass_with_other_settings(tmp_path):
    write_token_store(tmp_path, Tiny(), documents(), top=4)
    with pytest.raises(UserError, match="begun with top=4 and rank=8"):
        write_token_store(tmp_path, Tiny(), documents(), top=5)
    with pytest.raises(UserError, match="is of another teacher"):
        write_token_store(tmp_path, Tiny(seed=3), documents(), top=4)


def test_a_teacher_that_gives_something_else(tmp_path):
    with pytest.raises(UserError, match=r"gave logits of shape \(1, 24, 12\).*expected \(B, T, V\)|shape"):
        write_token_store(tmp_path, nn.Sequential(nn.Embedding(50, 12), nn.Flatten()), documents())
