"""The list of all methods, which carries them through the same checks: here, in training, on resume, under DDP."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ctkd_lightning import methods
from ctkd_lightning._facts import choices
from ctkd_lightning.features.outputs import Step
from ctkd_lightning.methods import Method, NetworkOutput
from ctkd_lightning.temperature import Softening
from tests.methods.setting import NUM_SAMPLES, Setting

TARGET = torch.arange(NUM_SAMPLES) % 2  # of all samples: fits two classes and more


def _rows() -> dict[str, Setting]:
    rows: dict[str, Setting] = {}
    for file in dict.fromkeys(method.__module__.rpartition(".")[2] for method in METHODS.values()):
        path = f"tests.methods.test_{file}"
        if importlib.util.find_spec(path):  # one that is not there is told in tests/test_facts.py
            rows |= getattr(importlib.import_module(path), "SETTINGS", {})
    return dict(sorted(rows.items()))


METHODS: dict[str, type[Method]] = choices(methods, Method)
"""All of them, by name."""
SETTINGS = _rows()
"""How to check each: the rows ``SETTINGS`` in ``test_NAME.py``."""


@dataclass
class Example:
    """Outputs of two networks for a batch, and what else a method is called with."""

    student: NetworkOutput
    teacher: NetworkOutput
    target: Tensor
    temperature: Tensor
    index: Tensor

    def built(self, setting: Setting) -> Method:
        """The method, with its parts for these outputs."""
        torch.manual_seed(0)
        method = setting.make()
        method.build(self.student, self.teacher)
        return method

    def loss(self, method: Method) -> Tensor:
        """The method's term."""
        step = Step(target=self.target, index=self.index)
        return method(self.student, self.teacher, step, Softening.at(self.temperature, self.student.logits))

    def gradients(self, loss: Tensor, method: Method) -> list[Tensor]:
        """With respect to all that the term can train: student, temperature, own parameters."""
        sources = [self.student.logits, *self.student.features.values(), self.temperature, *method.parameters()]
        found = torch.autograd.grad(loss, [s for s in sources if s.requires_grad], allow_unused=True)
        return [g for g in found if g is not None]


def example(
    setting: Setting,
    batch: int = 4,
    classes: int = 5,
    logits_scale: float = 1.0,
    features_scale: float = 1.0,
    same_shapes: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Example:
    """Random outputs of a student and a wider teacher, unless the method or the caller wants the same shapes."""
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(1)  # of the teacher's classifier
    widths = (4, 5, 6) if setting.same_widths or same_shapes else (6, 7, 8)
    student = _network(batch, classes, (4, 5, 6), 6, generator, dtype)
    teacher = _network(batch, classes, widths, 6 if same_shapes else 9, generator, dtype)
    for output in (student, teacher):
        output.logits.mul_(logits_scale)
        for feature in set(output.features.values()):  # one may have two roles
            feature.mul_(features_scale)
    for leaf in (student.logits, *student.features.values()):
        leaf.requires_grad_()
    temperature = torch.full((batch, 1), 4.0, requires_grad=True)
    return Example(student, teacher, TARGET[:batch], temperature, torch.arange(batch))


def _network(
    batch: int, classes: int, widths: tuple[int, ...], vector: int, generator: torch.Generator, dtype: torch.dtype
) -> NetworkOutput:
    def draw(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=generator).to(dtype)

    maps = {f"stage{i}": draw(d, 16 >> i, 16 >> i) for i, d in enumerate(widths, start=1)}
    classifier = nn.Linear(vector, classes).requires_grad_(False).to(dtype)
    pooled, logits = draw(vector), draw(classes)
    preacts = {f"{stage}_preact": draw(*x.shape[1:]) for stage, x in maps.items()}
    return NetworkOutput(logits, {**maps, "last": maps["stage3"], "pooled": pooled, **preacts}, classifier)
