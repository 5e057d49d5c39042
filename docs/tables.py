"""The tables of methods and temperatures in the docs, made from what classes and configuration say.

    python -m docs.tables     writes them into docs/methods.md and docs/temperatures.md

Each stands between two comments, ``<!-- table: NAME -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ctkd_lightning import methods, temperature
from ctkd_lightning._facts import choices
from ctkd_lightning.methods import LogitMethod, Method
from ctkd_lightning.temperature import LearnedTemperature, Temperature

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
METHODS = choices(methods, Method)
TEMPERATURES = choices(temperature, Temperature)
ROLES = {"last": "last map", "preacts": "stages before the activation"}  # in words, where the name of a role is not one


def config(group: str, name: str) -> DictConfig:
    """A configuration file, not composed."""
    loaded = OmegaConf.load(CONF / group / f"{name}.yaml")
    assert isinstance(loaded, DictConfig)
    return loaded


def defaults(kind: type) -> dict[str, Any]:
    """The arguments of a class and their defaults."""
    parameters = inspect.signature(kind).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def reads(method: type[Method]) -> str:
    """What a method reads."""
    facts = method.facts
    found = ["logits"] if issubclass(method, LogitMethod) else [ROLES.get(role, role) for role in method.needs]
    if method.needs_of_teacher() != method.needs:
        found[-1] += f"; of the teacher {', '.join(ROLES.get(role, role) for role in method.needs_of_teacher())}"
    more = [facts.reads] if facts.reads else []
    more += ["of the same widths"] if facts.same_widths else []
    if more:
        found[-1] += f" ({', '.join(more)})"
    extra = {"target": method.needs_target, "sample index": facts.index, "teacher's classifier": facts.classifier}
    return ", ".join([*found, *(name for name, read in extra.items() if read)])


def method_rows() -> Iterable[list[str]]:
    """The table of methods."""
    yield [
        "method",
        "paper",
        "reads",
        "weight, and whose",
        "temperature acts",
        "settings",
        "own parts",
        "beside the networks",
    ]
    for name, method in METHODS.items():
        facts, settings, file = method.facts, defaults(method), config("method", name)
        weight, warmup = settings.pop("weight"), settings.pop("warmup_epochs", 0)
        words = [f"{weight:g}"]
        words += [f"CE {file.ce_weight:g}"] if "ce_weight" in file else []
        words += [f"{warmup} epochs of warm-up"] if warmup else []
        words += ["by the pair"] if "by_pair" in file else []
        yield [
            f"`{name}`",
            f"[{facts.paper}]({facts.url})",
            reads(method),
            f"{'; '.join(words)} ({facts.weight_from})",
            ("✓" + (f" ({facts.tau})" if facts.tau else "")) if method.uses_temperature else "–",
            ", ".join(f"{k} {_word(v)}" for k, v in settings.items() if v is not None) or "–",
            facts.own or "–",
            facts.cost or "–",
        ]


def pair_rows() -> Iterable[list[str]]:
    """The table of settings that depend on the pair of networks; default and "ours" where nothing is published."""
    by_pair = {name: config("method", name).by_pair[name] for name in METHODS if "by_pair" in config("method", name)}
    yield ["model", *(f"`{name}`" for name in by_pair)]
    for path in sorted((CONF / "model").glob("*.yaml")):
        model = OmegaConf.load(path)
        if model.get("task") == "detection":  # of which nothing is published in these words
            continue
        pair = f"{model.teacher.name}_to_{model.student.name}"
        cells = []
        for name, pairs in by_pair.items():
            usual = [key for key in defaults(METHODS[name]) if all(key in row for row in pairs.values())]
            ours = {key: defaults(METHODS[name])[key] for key in usual}
            cell = ", ".join(f"{key} {_word(value)}" for key, value in pairs.get(pair, ours).items())
            cells.append(cell if pair in pairs else f"{cell} (ours)")
        yield [f"`{path.stem}`", *cells]


def temperature_rows() -> Iterable[list[str]]:
    """The table of temperatures."""
    yield ["`temperature=`", "paper", "τ", "student's τ", "teacher's τ", "factor of the loss", "at first"]
    for name, kind in TEMPERATURES.items():
        facts, file = kind.facts, config("temperature", name)
        if issubclass(kind, LearnedTemperature):
            settings = defaults(kind)
            low = settings["tau_init"]
            start = f"learned, from {_word(low)} to {_word(low + settings['tau_range'])}"
        else:
            start = _word(OmegaConf.select(file, "base.tau") or file.get("tau", "–"))
        paper = f"[{facts.paper}]({facts.url})"
        yield [f"`{name}`", paper, facts.what, facts.student, facts.teacher, facts.scale, start]


def needs_rows() -> Iterable[list[str]]:
    """What temperatures need, and where they break."""
    yield ["`temperature=`", "class", "needs, beside both logits", "where it breaks, and what is done here"]
    for name, kind in TEMPERATURES.items():
        yield [f"`{name}`", f"`{kind.__name__}`", kind.facts.needs or "–", kind.facts.breaks or "–"]


TABLES = {
    "methods": (ROOT / "docs" / "methods.md", method_rows),
    "pairs": (ROOT / "docs" / "methods.md", pair_rows),
    "temperatures": (ROOT / "docs" / "temperatures.md", temperature_rows),
    "needs": (ROOT / "docs" / "temperatures.md", needs_rows),
}


def written(name: str, text: str) -> str:
    """The text of a page with the table of that name as it should be."""
    first, *rows = TABLES[name][1]()
    lines = [_line(first), _line(["---"] * len(first)), *map(_line, rows)]
    start = f"<!-- table: {name}; python -m docs.tables -->"
    pattern = re.compile(f"({re.escape(start)}\n).*?(<!-- end -->)", re.DOTALL)
    table = "\n".join(["", *lines, "", ""])
    found, count = pattern.subn(lambda match: match[1] + table + match[2], text)
    if count != 1:
        raise ValueError(f"{TABLES[name][0]} must hold {start} and <!-- end --> once, found {count} times")
    return found


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _word(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return " ".join(map(_word, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Write the tables."""
    for name, (page, _) in TABLES.items():
        page.write_text(written(name, page.read_text()))


if __name__ == "__main__":
    main()
