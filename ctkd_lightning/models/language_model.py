"""A small causal language model."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctkd_lightning.errors import UserError, check_number, suggest
from ctkd_lightning.models._factory import explained_options


class LanguageModel(nn.Module):
    """A transformer that scores the next token at each position, with one table for embedding and head.

    Blocks of attention and of two linear layers, each behind a layer normalisation (as GPT-2, Radford et al. 2019),
    with learned positions.

    Args:
        vocabulary: how many tokens there are.
        width: of the hidden states; a multiple of ``heads``.
        layers: how many blocks.
        heads: of each attention.
        length: the most tokens that it takes.

    Raises:
        UserError: numbers that do not go together; in use, more tokens than ``length``.

    Example:
        >>> LanguageModel(100, width=16, layers=1, heads=2, length=8)(torch.zeros(2, 8, dtype=torch.long)).shape
        torch.Size([2, 8, 100])
    """

    def __init__(
        self, vocabulary: int, *, width: int = 128, layers: int = 1, heads: int = 4, length: int = 128
    ) -> None:
        super().__init__()
        for name, value in (("width", width), ("layers", layers), ("heads", heads), ("length", length)):
            check_number(f"a language model's {name}", value, least=1, whole=True)
        if width % heads:
            raise UserError(f"a language model's width must be a multiple of its heads, found {width} and {heads}")
        self.length = length
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(_Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        for part in self.modules():
            if isinstance(part, nn.Linear | nn.Embedding):
                nn.init.normal_(part.weight, std=0.02)
        self.head.weight = self.tokens.weight

    def hidden(self, tokens: Tensor) -> Tensor:
        """What the head reads, (B, T, width), of tokens (B, T)."""
        count = tokens.shape[1]
        if count > self.length:
            raise UserError(f"the language model takes {self.length} tokens, found {count}: cut them, or raise length=")
        places = self.places(torch.arange(count, device=tokens.device))
        found: Tensor = self.norm(self.blocks(self.tokens(tokens) + places))
        return found

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (B, T, vocabulary) of tokens (B, T)."""
        logits: Tensor = self.head(self.hidden(tokens))
        return logits


def create_language_model(name: str, vocabulary: int, length: int, **options: Any) -> nn.Module:
    """Create a language model by name: from tokens (B, T) to logits (B, T, vocabulary).

    Args:
        name: ``transformer``.
        vocabulary: how many tokens there are.
        length: the most tokens that it takes.
        **options: of :class:`LanguageModel`: ``width``, ``layers``, ``heads``.

    Raises:
        UserError: an unknown name or option, or numbers that do not go together.

    Example:
        >>> create_language_model("transformer", 100, 8, width=16, layers=2, heads=2)(torch.zeros(1, 8).long()).shape
        torch.Size([1, 8, 100])
    """
    if name not in _MODELS:
        raise UserError(f"unknown language model {name!r}: {suggest(name, _MODELS)}")
    if options.pop("pretrained", False):
        raise UserError(f"{name} has no weights to download: pass pretrained=False, then train it or load a checkpoint")
    with explained_options(name):
        return _MODELS[name](vocabulary, length=length, **options)


_MODELS = {"transformer": LanguageModel}


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values, self.joined = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Hidden states (B, T, width), each with what comes before it."""
        q, k, v = self.queries_keys_values(self.before(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.joined(seen.transpose(1, 2).flatten(-2))
        found: Tensor = x + self.narrow(F.gelu(self.wide(self.between(x))))
        return found
