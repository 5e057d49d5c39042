import pytest
from torch import nn

from ctkd_lightning.errors import UserError
from ctkd_lightning.tokens import check_same_vocabulary, vocabulary_size


class Tied(nn.Module):
    """A head whose weight is the embedding's."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 8)
        self.positions = nn.Embedding(16, 8)
        self.body = nn.Linear(8, 8)
        self.head = nn.Linear(8, 40, bias=False)
        self.head.weight = self.embed.weight


def test_language_models_have_a_vocabulary():
    assert vocabulary_size(Tied()) == 40


def test_a_language_model_may_see_images():
    assert vocabulary_size(nn.ModuleList([nn.Conv2d(3, 4, 1), nn.Embedding(32_000, 2), nn.Linear(2, 32_000)])) == 32_000


@pytest.mark.parametrize(
    "network",
    [
        nn.Linear(8, 10),
        nn.Sequential(nn.Embedding(40, 8), nn.Linear(8, 40), nn.Linear(40, 3)),  # a classifier of texts
        nn.Sequential(nn.Conv2d(3, 10, 1), nn.Flatten(), nn.Linear(10, 10)),
        nn.ModuleList([nn.Conv2d(3, 10, 1), nn.Embedding(10, 4), nn.Linear(10, 10)]),  # an embedding of its labels
    ],
)
def test_classifiers_have_none(network):
    assert vocabulary_size(network) is None


@pytest.mark.parametrize(
    "kind", ["GPT2LMHeadModel", "LlamaForCausalLM", "BertForMaskedLM", "T5ForConditionalGeneration"]
)
def test_models_of_transformers_have_one(kind):
    transformers = pytest.importorskip("transformers")
    small = {
        "GPT2LMHeadModel": {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16},
        "LlamaForCausalLM": {
            "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2
        },
        "BertForMaskedLM": {
            "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
        },
        "T5ForConditionalGeneration": {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2},
    }  # fmt: skip
    model = getattr(transformers, kind)
    assert vocabulary_size(model(model.config_class(vocab_size=61, **small[kind]))) == 61


def test_a_classifier_of_transformers_has_none():
    transformers = pytest.importorskip("transformers")
    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(vocab_size=61, num_labels=3, **size)
    assert vocabulary_size(transformers.BertForTokenClassification(config)) is None


class Tokeniser:
    def __init__(self, vocabulary):
        self.vocabulary = vocabulary

    def get_vocab(self):
        return self.vocabulary


def test_equal_vocabularies_pass_in_any_order():
    check_same_vocabulary(Tokeniser({"a": 0, "b": 1}), {"b": 1, "a": 0})


def test_other_tokens_are_refused_by_name():
    with pytest.raises(UserError, match=r"2 of 3 numbers stand for different tokens \(1 is 'b' and 'c'; 2 is 'c' and"):
        check_same_vocabulary({"a": 0, "b": 1, "c": 2}, {"a": 0, "c": 1, "b": 2})


def test_a_vocabulary_with_more_tokens_says_how_to_cut_it():
    with pytest.raises(UserError, match=r"1 tokens more .*2 is no token and 'c'.*\[\.\.\., :2\]"):
        check_same_vocabulary({"a": 0, "b": 1}, {"a": 0, "b": 1, "c": 2})


def test_what_is_no_tokeniser_is_refused():
    with pytest.raises(UserError, match="the teacher's tokeniser must have get_vocab"):
        check_same_vocabulary({}, "gpt2")
