"""A class a position of padded sequences: the next character in the manual that ships with Python.

Texts end at different lengths; behind the end the target is -100 and counts nowhere. The teacher has learned from 1500
texts. The student has 150 of them, and learns twice from the same weights and as long: from these alone, and with the
teacher's answers for the same 150 texts. So long a training on so few texts overfits without a teacher; in fewer epochs
the gain is smaller. The score is bits a character on other texts: less is better.

python examples/distillation_sequences.py
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from copy import deepcopy
from pydoc_data.topics import topics
from statistics import mean, pstdev

import torch
from lightning.pytorch import Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from ctkd_lightning import CosineCurriculum, DistillationModule, GlobalTemperature
from ctkd_lightning.modules import ClassifierModule, SupervisedModule

PAD, IGNORED = 0, -100
LENGTH, EPOCHS = 29, 30


class Network(nn.Module):
    """From characters (B, T) to logits (B, T, C) of the next ones."""

    def __init__(self, characters: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(characters, width, padding_idx=PAD)
        self.rnn = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, characters)

    def forward(self, characters: Tensor) -> Tensor:
        """The logits."""
        return self.head(self.rnn(self.embed(characters))[0])


def adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer of all networks."""
    return torch.optim.Adam(parameters, lr=0.01)


def alone(network: nn.Module) -> ClassifierModule:
    """A network that learns from the texts: cross-entropy of each character."""
    return ClassifierModule(network, class_dim=-1, ignore_index=IGNORED, optimizer=adam)


def distilled(teacher: nn.Module, student: nn.Module) -> DistillationModule:
    """A student that learns from both, at a learned temperature from 1 to 2; the padding is in neither loss."""
    return DistillationModule(
        teacher,
        student,
        temperature=GlobalTemperature(tau_init=1.0, tau_range=1.0),
        curriculum=CosineCurriculum(epochs=EPOCHS // 2),
        class_dim=-1,
        ignore_index=IGNORED,
        optimizer=adam,
    )


def texts() -> tuple[Tensor, Tensor, int]:
    """Characters (N, T), the next ones (N, T) with -100 behind the end, and how many characters there are."""
    found = [" ".join(p.split())[:LENGTH] for name in sorted(topics) for p in topics[name].split("\n\n")]
    found = [text for text in dict.fromkeys(found) if len(text) > 10]
    alphabet = {c: i for i, c in enumerate(sorted(set("".join(found))), start=1)}
    rows = [torch.tensor([alphabet[c] for c in text]) for text in found]
    rows = [rows[i] for i in torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
    x = nn.utils.rnn.pad_sequence([row[:-1] for row in rows], batch_first=True, padding_value=PAD)
    y = nn.utils.rnn.pad_sequence([row[1:] for row in rows], batch_first=True, padding_value=IGNORED)
    return x, y, len(alphabet) + 1


def fit(module: SupervisedModule, train: Dataset, test: Dataset, epochs: int = EPOCHS) -> float:
    """Train; bits a character on test data."""
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(train, batch_size=25, shuffle=True))
    # in one batch: the mean over all characters
    return trainer.test(module, DataLoader(test, batch_size=1000), verbose=False)[0]["test/loss"] / math.log(2)


def main(seeds: Sequence[int] = (0, 1, 2)) -> dict[str, float]:
    """Print means and deviations over the seeds, and return the means."""
    seed_everything(0, verbose=False)
    x, y, characters = texts()
    test = TensorDataset(x[-300:], y[-300:])
    teacher = Network(characters, width=96)
    bits = fit(alone(teacher), TensorDataset(x[:1500], y[:1500]), test, epochs=4)

    def compare(seed: int) -> dict[str, float]:
        seed_everything(seed, verbose=False)
        chosen = torch.randperm(1500)[:150]
        few = TensorDataset(x[chosen], y[chosen])
        student = Network(characters, width=48)
        module = distilled(teacher, deepcopy(student))
        lone, guided = fit(alone(student), few, test), fit(module, few, test)
        temperature = module.temperature(None, None).item()
        return {"student alone": lone, "student distilled": guided, "gain": lone - guided, "temperature": temperature}

    runs = [compare(seed) for seed in seeds]
    results = {"teacher": [bits]} | {name: [run[name] for run in runs] for name in runs[0]}
    for name, values in results.items():
        unit = "" if name == "temperature" else " bits a character"
        print(f"{name:20}{mean(values):8.3f} ± {pstdev(values):.3f}{unit}")
    return {name: mean(values) for name, values in results.items()}


if __name__ == "__main__":
    main()
