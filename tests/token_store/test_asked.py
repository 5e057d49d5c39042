import pytest
import torch
from token_store.made import Tiny
from torch import nn

from ctkd_lightning.errors import UserError
from ctkd_lightning.token_store._asked import AskedModel

TOKENS = torch.arange(6).view(2, 3)


def test_the_head_s_input_gives_the_logits():
    network = Tiny()
    logits, hidden = AskedModel(network).with_hidden(TOKENS)
    torch.testing.assert_close(hidden @ network.head.weight.T + network.head.bias, logits)
    weight, bias = AskedModel(network).head
    assert weight.data_ptr() == network.head.weight.data_ptr()
    assert not bias.requires_grad
    assert AskedModel(Tiny(bias=False)).head[1] is None


class Scaled(Tiny):
    def forward(self, tokens):
        return 2 * super().forward(tokens)


class HeadTwice(Tiny):
    def forward(self, tokens):
        return super().forward(tokens) + 0 * super().forward(tokens)


@pytest.mark.parametrize("kind", [Scaled, HeadTwice])
def test_logits_that_are_not_the_head_s(kind):
    logits, hidden = AskedModel(kind()).with_hidden(TOKENS)
    assert logits.shape == (2, 3, 50)
    assert hidden is None


def test_no_linear_layer():
    asked = AskedModel(nn.Embedding(50, 50))
    assert asked.head is None
    assert asked.with_hidden(TOKENS)[1] is None


def test_the_network_is_in_eval_mode_and_without_gradients():
    network = nn.Sequential(nn.Embedding(50, 4), nn.Dropout(0.9), nn.Linear(4, 50)).train()
    asked = AskedModel(network)
    assert torch.equal(asked(TOKENS), asked(TOKENS))
    assert not asked(TOKENS).requires_grad


def test_logits_of_another_shape():
    with pytest.raises(UserError, match=r"logits of shape \(2, 150\) for tokens of shape \(2, 3\)"):
        AskedModel(nn.Sequential(nn.Embedding(50, 50), nn.Flatten()))(TOKENS)
