"""The list of all temperatures, which carries them through the same checks; each is made as its configuration says."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig

from ctkd_lightning import temperature
from ctkd_lightning._facts import choices
from ctkd_lightning.job.configuration import config_dir
from ctkd_lightning.temperature import LearnedTemperature, Temperature
from ctkd_lightning.temperature._rule import RuleTemperature

TEMPERATURES: dict[str, type[Temperature]] = choices(temperature, Temperature)
"""All of them, by name."""
LEARNED = [name for name, kind in TEMPERATURES.items() if issubclass(kind, LearnedTemperature)]
RULES = {name: kind for name, kind in TEMPERATURES.items() if issubclass(kind, RuleTemperature)}


def closed_forms() -> dict[str, Callable]:
    """By name, the student's τ, the teacher's, the factor and any shifts, of student's and teacher's logits and τ.

    They are the rows ``CLOSED`` in ``test_NAME.py``.
    """
    rows: dict[str, Callable] = {}
    for file in dict.fromkeys(kind.__module__.rpartition(".")[2] for kind in TEMPERATURES.values()):
        path = f"tests.temperature.test_{file}"
        if importlib.util.find_spec(path):  # one that is not there is told in tests/test_facts.py
            rows |= getattr(importlib.import_module(path), "CLOSED", {})
    return rows


GIVEN: dict[str, dict[str, Any]] = {
    "energy": {"low": -9.0, "high": -8.0},
    "recorded": {"run": str(Path(__file__).parent / "recorded.csv")},
}
"""What a user must give, by name."""


@cache
def _configured(name: str) -> DictConfig:
    with initialize_config_dir(config_dir(), version_base="1.3"):
        return compose("config", [f"temperature={name}"]).temperature


def made(name: str, num_classes: int = 7) -> Temperature:
    """The temperature of a configuration, for logits of so many classes."""
    node = _configured(name)
    per_data = {"num_classes": num_classes} if "num_classes" in node else {}
    return instantiate(node, **per_data, **GIVEN.get(name, {}))
