"""Small language models of the Python standard library's source, for measurements on vocabularies.

    python -m benchmarks.language_models --folder DIR [--vocabularies 2048 32000]

For each vocabulary a byte-pair tokeniser, a teacher of four layers and a student of one, each trained for some minutes
and kept: what the folder already holds is not made again. One file name in twenty is held out.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional as F

from ctkd_lightning._files import written_whole

CONTEXT, BATCH = 128, 8
LARGE = 8192


@dataclass(frozen=True)
class Size:
    """A network, and how it is trained.

    Attributes:
        layers: number of blocks.
        width: of the hidden states.
        steps: of training.
        steps_of_large: with a large vocabulary, whose steps take long.
        rate: the peak.
    """

    layers: int
    width: int
    steps: int
    steps_of_large: int
    rate: float

    def steps_with(self, vocabulary: int) -> int:
        """Of training."""
        return self.steps if vocabulary <= LARGE else self.steps_of_large


TEACHER = Size(layers=4, width=256, steps=450, steps_of_large=150, rate=2e-3)
STUDENT = Size(layers=1, width=128, steps=300, steps_of_large=40, rate=5e-3)


class LanguageModel(nn.Module):
    """A causal transformer: from token ids (B, T) to logits (B, T, V).

    Args:
        vocabulary: V.
        layers: number of blocks.
        width: of the hidden states.
    """

    def __init__(self, vocabulary: int, layers: int, width: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.places = nn.Embedding(CONTEXT, width)
        block = nn.TransformerEncoderLayer(
            width, max(1, width // 64), 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.lm_head = nn.Linear(width, vocabulary, bias=False)
        for weight in (self.tokens.weight, self.places.weight, self.lm_head.weight):
            nn.init.normal_(weight, std=0.02)

    def hidden(self, input_ids: Tensor) -> Tensor:
        """What the head reads, (B, T, width)."""
        length = input_ids.shape[1]
        x = self.tokens(input_ids) + self.places.weight[:length]
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=x.device)
        return self.blocks(x, mask=mask, is_causal=True)

    def forward(self, input_ids: Tensor) -> Tensor:
        """The logits."""
        return self.lm_head(self.hidden(input_ids))

    def get_output_embeddings(self) -> nn.Linear:
        """The head, under transformers' name."""
        return self.lm_head


def corpus() -> tuple[str, str]:
    """The standard library's source for training, and what is held out by a file's name."""
    root = Path(sysconfig.get_paths()["stdlib"])
    kept: tuple[list[str], list[str]] = ([], [])
    for path in sorted(p for p in root.rglob("*.py") if "site-packages" not in p.parts):
        name = path.relative_to(root).as_posix()
        text = path.read_text(encoding="utf-8", errors="ignore")
        kept[hashlib.sha256(name.encode()).digest()[0] % 20 == 0].append(text)
    return "\n".join(kept[0]), "\n".join(kept[1])


def tokenised(folder: Path, vocabulary: int) -> tuple[Tensor, Tensor]:
    """Token ids of the training and of the held-out text."""
    path = folder / f"tokens_{vocabulary}.safetensors"
    if not path.exists():
        training, held_out = corpus()
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False)
        tokenizer.train_from_iterator(training.splitlines(keepends=True), trainer)
        parts = {"training": training, "held_out": held_out}
        ids = {name: torch.from_numpy(np.array(_encoded(tokenizer, text), np.int32)) for name, text in parts.items()}
        with written_whole(path) as partial:
            save_file(ids, partial)
    found = load_file(path)
    return found["training"].long(), found["held_out"].long()


def _encoded(tokenizer: Tokenizer, text: str) -> list[int]:
    lines = text.splitlines(keepends=True)
    return [i for encoding in tokenizer.encode_batch(lines) for i in encoding.ids]


def batch_at(tokens: Tensor, step: int, seed: int) -> Tensor:
    """Sequences (8, 129) that a seed draws for a step."""
    generator = torch.Generator().manual_seed(1_000_003 * seed + step)
    starts = torch.randint(len(tokens) - CONTEXT - 1, (BATCH,), generator=generator)
    return torch.stack([tokens[s : s + CONTEXT + 1] for s in starts])


def rate_at(step: int, steps: int) -> float:
    """Of the peak: up over a twentieth of the training, then a half cosine down to a tenth."""
    rise = steps / 20
    if step < rise:
        return (step + 1) / rise
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - rise) / (steps - rise)))


@torch.enable_grad()
def network(folder: Path, vocabulary: int, size: Size, seed: int = 0) -> LanguageModel:
    """A network in eval mode, trained if the folder does not have it."""
    torch.manual_seed(seed)
    model = LanguageModel(vocabulary, size.layers, size.width)
    steps = size.steps_with(vocabulary)
    path = folder / f"network_{vocabulary}_{size.layers}x{size.width}_{steps}_{seed}.safetensors"
    if path.exists():
        model.load_state_dict(load_file(path))
        return model.eval()
    tokens, _ = tokenised(folder, vocabulary)
    optimizer = torch.optim.AdamW(model.parameters(), lr=size.rate, betas=(0.9, 0.95), weight_decay=0.01)
    start = time.perf_counter()
    for step in range(steps):
        batch = batch_at(tokens, step, seed)
        optimizer.param_groups[0]["lr"] = size.rate * rate_at(step, steps)
        loss = F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 25 == 0 or step == steps - 1:
            seconds = time.perf_counter() - start
            print(f"{path.stem}: step {step}, {float(loss.detach()):.3f} nats, {seconds:.0f} s", flush=True)
    with written_whole(path) as partial:
        save_file(model.state_dict(), partial)
    return model.eval()


def main() -> None:
    """Make what is not there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[2048, 32000])
    arguments = parser.parse_args()
    for vocabulary in arguments.vocabularies:
        for size in (TEACHER, STUDENT):
            network(arguments.folder, vocabulary, size)


if __name__ == "__main__":
    main()
