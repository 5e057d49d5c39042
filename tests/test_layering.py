"""Imports go only downwards."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "ctkd_lightning"
# From the bottom up. A layer may import itself and those below it.
LAYERS = [
    {"errors", "lazy"},
    {"outputs"},
    {
        "arguments",
        "curriculum",
        "temperature",
        "models",
        "data",
        "schedule",
        "accuracy",
        "asking",
        "hardware",
        "teacher_cache",
        "frozen",
        "loss_record",
        "scores",
    },
    {"batches", "feature_layers", "ignored", "methods", "features", "score_checks"},
    {"cached_teacher", "task_loss", "term_inputs"},
    {"distillation"},
    {"supervised", "module", "callbacks", "training_progress"},
    {"metrics_csv", "figures", "summary", "teacher", "cli", "preflight"},
    {"run"},
]
KNOWS_LIGHTNING = {"data", *set().union(*LAYERS[6:])}


def modules():
    return [path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent != PACKAGE]


def layer_name(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downwards(path):
    height = {name: level for level, names in enumerate(LAYERS) for name in names}
    name = layer_name(path)
    assert name in height, f"{name} has no place in LAYERS: give it one"
    for imported in imports(path):
        root, _, rest = imported.partition(".")
        if root == "ctkd_lightning" and rest:
            other = rest.partition(".")[0]
            assert height[other] <= height[name], f"{name} imports {other}, which is above it"
        if root in ("lightning", "pytorch_lightning"):
            assert name in KNOWS_LIGHTNING, f"{name} imports {imported}"
        assert root != "hydra" or name in ("cli", "preflight", "run"), f"{name} imports {imported}"
