"""What decides a run's result, of all that its configuration says."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ctkd_lightning.reporting.runs import ReportedRun

Settings = dict[str, str]
"""From dotted key to value, as it is written."""

_PLACES_AND_RECORDS = (
    "run_dir", "resume", "report", "keep_outputs", "with_baseline", "teacher_cache", "teacher.cache_dir",
    "teacher.check", "logger", "progress", "callbacks.progress", "experiment", "data.num_workers", "data.in_memory",
    "trainer.log_every_n_steps", "trainer.enable_model_summary", "trainer.enable_progress_bar",
)  # fmt: skip
CHOICES = ("model", "method", "temperature", "curriculum")
"""Groups whose choice stands in a run's summary."""


def flat(configuration: DictConfig) -> Settings:
    """All settings, interpolations as they are written: ``${seed}`` is the same setting whatever the seed.

    Example:
        >>> flat(OmegaConf.create({"seed": 1, "data": {"seed": "${seed}", "mean": [0.5]}}))
        {'seed': '1', 'data.seed': '${seed}', 'data.mean': '[0.5]'}
    """
    found: Settings = {}

    def walk(prefix: str, node: Any) -> None:
        if isinstance(node, dict) and node:
            for key, value in node.items():
                walk(f"{prefix}.{key}" if prefix else str(key), value)
        else:
            found[prefix] = str(node)

    walk("", OmegaConf.to_container(configuration, resolve=False))
    return found


def decisive(run: ReportedRun) -> Settings:
    """Settings of a run that decide its result, but for the seed: not where its files lie, nor what it records."""
    without_effect = list(run.summary.without_effect)
    if "temperature" in without_effect:  # nor has what moves it
        without_effect.append("curriculum")
    return apart_from(flat(run.configuration), ("seed", *_PLACES_AND_RECORDS, *without_effect))


def apart_from(settings: Mapping[str, str], groups: Collection[str]) -> Settings:
    """Those that are neither one of these keys nor below one."""
    return {key: value for key, value in settings.items() if not any(_in(key, group) for group in groups)}


def within(settings: Mapping[str, str], groups: Collection[str]) -> Settings:
    """Those that are one of these keys or below one."""
    return {key: value for key, value in settings.items() if any(_in(key, group) for group in groups)}


def differing(several: Iterable[Mapping[str, str]]) -> list[str]:
    """Keys that not all have with the same value, in the order of the first that has each."""
    several = list(several)
    keys = dict.fromkeys(key for settings in several for key in settings)
    return [key for key in keys if len({settings.get(key) for settings in several}) > 1]


def differences(runs: list[ReportedRun]) -> dict[str, list[str]]:
    """What differs between runs: from each choice or key to its value in each run; ``""`` where a run has none.

    Of a group that is chosen by a word (``temperature=fixed``), the word stands for all settings that go with it.
    """
    chosen = {group: [str(getattr(run.summary, group)) for run in runs] for group in CHOICES}
    everything = [apart_from(flat(run.configuration), _PLACES_AND_RECORDS) for run in runs]
    found = {group: words for group, words in chosen.items() if len(set(words)) > 1}
    for key in differing(everything):
        values = [settings.get(key, "") for settings in everything]
        words = chosen.get(key.partition(".")[0])
        if words is None or len(set(zip(words, values, strict=True))) > len(set(words)):
            found[key] = values
    return found


def _in(key: str, group: str) -> bool:
    return key == group or key.startswith(f"{group}.")
