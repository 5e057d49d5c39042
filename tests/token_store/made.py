"""Small language models without a training, and their texts."""

import torch
from torch import nn

VOCABULARY, WIDTH = 50, 12


class Tiny(nn.Module):
    """Logits whose hidden states are wide in few directions, as those of trained models are."""

    def __init__(self, vocabulary=VOCABULARY, width=WIDTH, seed=0, bias=True):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.embedding = nn.Embedding(vocabulary, width)
        self.head = nn.Linear(width, vocabulary, bias=bias)
        spread = 2.0 ** -torch.arange(width)
        with torch.no_grad():
            self.embedding.weight.copy_(3 * torch.randn(vocabulary, width, generator=generator) * spread)
            self.head.weight.copy_(torch.randn(vocabulary, width, generator=generator))
            if bias:
                self.head.bias.copy_(torch.randn(vocabulary, generator=generator))

    def forward(self, tokens):
        return self.head(self.embedding(tokens).cumsum(dim=1) / 2)


def documents(count=40, length=24, vocabulary=VOCABULARY, seed=1, first_key=100):
    generator = torch.Generator().manual_seed(seed)
    texts = torch.randint(vocabulary, (count, length), generator=generator)
    return [(first_key + number, text) for number, text in enumerate(texts)]
