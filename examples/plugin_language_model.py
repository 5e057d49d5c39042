"""Token-level distillation of a small language model on the manual that ships with Python, padding left out.

It shows how a plain LightningModule of tokens is distilled, unedited. It shows no gain: with so many texts for so small
a student the teacher adds nothing (seeds 0 to 2: 3.22 ± 0.04 bits a character alone, 3.28 ± 0.05 distilled).
``distillation_sequences.py`` has few texts, and gains.

python examples/plugin_language_model.py
"""

from __future__ import annotations

import math
from pydoc_data.topics import topics

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ctkd_lightning import CurriculumTemperatureCallback, GlobalTemperature, LinearCurriculum

PAD = 0
LENGTH = 64


class LanguageModel(LightningModule):
    """Predicts the next character."""

    def __init__(self, characters: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(characters, width, padding_idx=PAD)
        self.rnn = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, characters)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (B, T, C) of tokens (B, T)."""
        return self.head(self.rnn(self.embed(tokens))[0])

    def loss(self, batch: Tensor) -> Tensor:
        """Mean cross-entropy over the characters."""
        logits, target = self(batch[:, :-1]), batch[:, 1:]
        return F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=PAD)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """The loss."""
        return self.loss(batch)

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        """Log how good it is."""
        self.log("bits", self.loss(batch) / math.log(2))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimizer."""
        return torch.optim.Adam(self.parameters(), lr=0.01)


def paragraphs() -> tuple[Tensor, Tensor, int]:
    """Training and test paragraphs (N, T), padded, and the number of characters."""
    texts = [" ".join(p.split())[:LENGTH] for name in sorted(topics) for p in topics[name].split("\n\n")]
    texts = [text for text in dict.fromkeys(texts) if len(text) > 10]
    alphabet = {c: i for i, c in enumerate(sorted(set("".join(texts))), start=1)}
    tokens = torch.full((len(texts), LENGTH), PAD)
    for row, text in zip(tokens, texts, strict=True):
        row[: len(text)] = torch.tensor([alphabet[c] for c in text])
    tokens = tokens[torch.randperm(len(tokens), generator=torch.Generator().manual_seed(0))]
    return tokens[:1500], tokens[1500:1800], len(alphabet) + 1


def not_padding(batch: Tensor) -> Tensor:
    """Positions (B, T − 1) whose next character is none of the padding."""
    return batch[:, 1:] != PAD


def main() -> dict[str, float]:
    seed_everything(0, verbose=False)
    train_tokens, test_tokens, characters = paragraphs()

    def train(module: LanguageModel, epochs: int, *callbacks: CurriculumTemperatureCallback) -> float:
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            callbacks=list(callbacks),
            gradient_clip_val=1.0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, DataLoader(train_tokens, batch_size=64, shuffle=True))
        return trainer.test(module, DataLoader(test_tokens, batch_size=300), verbose=False)[0]["bits"]

    teacher = LanguageModel(characters, width=128)
    distil = CurriculumTemperatureCallback(
        LinearCurriculum(epochs=3),
        teacher,
        temperature=GlobalTemperature(tau_init=1.0, tau_range=2.0, initial_value=0.0),  # from 1 to 3, starts at 2
        mask=not_padding,
        class_dim=-1,
        ce_weight=1.0,
        kd_weight=1.0,
    )
    return {
        "teacher": train(teacher, 6),
        "student alone": train(LanguageModel(characters, width=32), 4),
        "student distilled": train(LanguageModel(characters, width=32), 4, distil),
        "temperature": distil.temperature(None, None).item(),
    }


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:20}{value:8.3f}" + ("" if name == "temperature" else " bits a character"))
