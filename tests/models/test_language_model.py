import pytest
import torch
from torch import nn

from ctkd_lightning.errors import UserError
from ctkd_lightning.models import LanguageModel, load_weights, save_weights


def small(**settings) -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(50, **{"width": 16, "layers": 2, "heads": 2, "length": 12} | settings)


def test_a_position_knows_nothing_of_those_behind_it():
    model, tokens = small(), torch.randint(50, (2, 12))
    other = tokens.clone()
    other[:, 7:] = (other[:, 7:] + 1) % 50
    torch.testing.assert_close(model(tokens)[:, :7], model(other)[:, :7])
    assert not torch.allclose(model(tokens)[:, 7:], model(other)[:, 7:])


def test_its_blocks_are_those_of_another_library():
    """torch's own pre-norm encoder, with the same weights and a causal mask."""
    model, tokens = small(), torch.randint(50, (3, 9))
    layer = nn.TransformerEncoderLayer(16, 2, 64, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
    other = nn.TransformerEncoder(layer, 2, nn.LayerNorm(16), enable_nested_tensor=False)
    for own, theirs in zip(model.blocks, other.layers, strict=True):
        theirs.self_attn.load_state_dict(
            {
                "in_proj_weight": own.queries_keys_values.weight,
                "in_proj_bias": own.queries_keys_values.bias,
                "out_proj.weight": own.joined.weight,
                "out_proj.bias": own.joined.bias,
            }
        )
        for mine, name in (("before", "norm1"), ("between", "norm2"), ("wide", "linear1"), ("narrow", "linear2")):
            getattr(theirs, name).load_state_dict(getattr(own, mine).state_dict())
    x = model.tokens(tokens) + model.places.weight[:9]
    expected = other(x, mask=nn.Transformer.generate_square_subsequent_mask(9), is_causal=True) @ model.head.weight.T
    torch.testing.assert_close(model(tokens), expected)


def test_head_and_embedding_are_one_table_also_from_a_file(tmp_path):
    model, other = small(), small(layers=2)
    with torch.no_grad():
        model.tokens.weight.add_(1.0)
    save_weights(model, tmp_path / "model.safetensors")
    load_weights(other, tmp_path / "model.safetensors")
    assert other.head.weight is other.tokens.weight
    tokens = torch.randint(50, (1, 5))
    torch.testing.assert_close(other(tokens), model(tokens))


def test_it_is_as_large_as_counted():
    assert sum(p.numel() for p in LanguageModel(2048, width=128, layers=1).parameters()) == (
        2048 * 128 + 128 * 128 + 4 * 128**2 + 4 * 128 + 8 * 128**2 + 5 * 128 + 3 * 2 * 128
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"width": 15}, "a multiple of its heads, found 15 and 2"), ({"layers": 0}, "layers")],
)
def test_bad_numbers_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        small(**settings)


def test_longer_texts_are_refused():
    with pytest.raises(UserError, match="takes 12 tokens, found 13"):
        small()(torch.zeros(1, 13, dtype=torch.long))
