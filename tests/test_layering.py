"""Imports go only downwards, and never in a circle."""

import ast
import configparser
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ctkd_lightning"
# From the bottom up, by whole name; a package stands for its modules. A layer may import itself and those below it.
LAYERS = [
    {"_facts", "_lazy", "_words", "errors"},
    {"_files", "_pickles", "_reading", "_store_settings"},
    {"_across_processes", "_masks", "_modes", "curriculum", "schedule", "features"},
    {"temperature"},
    {"_scores"},
    {"models", "data", "methods", "fusion", "tokens"},
    {"teacher_cache"},
    {"token_store"},
    {
        "detection",
        "_default_temperature",
        "_given",
        "_fused_heads",
        "_held_out",
        "_loss_record",
        "_resuming",
        "_term_inputs",
        "_trying",
        "_training_progress",
        "_vectors",
    },
    {"distillation"},
    {"callbacks"},
    {"modules"},
    {"module", "supervised"},  # names of version 0.1
    {"build", "job"},
    {"exporting", "reporting", "storing"},
    {"evaluate", "export", "report", "run", "store"},
]
COMMANDS = {"evaluate", "export", "report", "run", "store"}
KNOW_LIGHTNING = {"data", "callbacks", "modules", "module", "supervised", "build", "job", "reporting"} | COMMANDS
KNOW_HYDRA = {"build", "job", "exporting", "reporting", "storing"} | COMMANDS


def modules(package: Path = PACKAGE) -> dict[str, Path]:
    """Each module by its name within the package; a package's own file by the package's."""
    named = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    named.pop("")  # the public names
    return named


def imported(path: Path) -> Iterator[str]:
    """Names of the modules that a file imports, but not those that only a type checker sees."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    unseen = [
        inner
        for node in nodes
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in node.body
    ]
    for node in nodes:
        if node in unseen:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def graph(package: Path = PACKAGE) -> dict[str, set[str]]:
    """From each module to those of the package that it imports."""
    named = modules(package)
    edges = {}
    for name, path in named.items():
        found = {other.removeprefix("ctkd_lightning.") for other in imported(path) if other.startswith("ctkd_")}
        known = {other for other in found if other in named} - {name}
        # of "from package import module" the module counts
        edges[name] = {other for other in known if not any(inner.startswith(f"{other}.") for inner in known)}
    return edges


def violations(edges: dict[str, set[str]], layers: list[set[str]]) -> list[str]:
    """Imports that go upwards, and modules without a layer."""
    height = {name: level for level, names in enumerate(layers) for name in names}
    wrong = [f"{name} has no layer: give it one" for name in edges if name.partition(".")[0] not in height]
    for name, others in edges.items() if not wrong else ():
        for other in sorted(others):
            if height[other.partition(".")[0]] > height[name.partition(".")[0]]:
                wrong.append(f"{name} imports {other}, which is above it")
    return wrong


def circle(edges: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle, if there are any."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_imports_go_downwards():
    assert violations(graph(), LAYERS) == []


def test_no_module_is_in_a_circle():
    assert circle(graph()) == []


@pytest.mark.parametrize("name", modules())
def test_only_the_upper_layers_know_lightning_and_only_the_commands_hydra(name):
    roots = {other.partition(".")[0] for other in imported(modules()[name])}
    layer = name.partition(".")[0]
    assert layer in KNOW_LIGHTNING or not roots & {"lightning", "pytorch_lightning"}
    assert layer in KNOW_HYDRA or not roots & {"hydra", "omegaconf"}


def test_a_violation_and_a_circle_are_found(tmp_path):
    for name, text in {
        "__init__": "",
        "errors": "from ctkd_lightning.methods import kd",
        "methods/__init__": "",
        "methods/kd": "from ctkd_lightning.methods._base import Method",
        "methods/_base": "def late():\n    import ctkd_lightning.methods.kd",
    }.items():
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    edges = graph(tmp_path)
    assert violations(edges, [{"errors"}, {"methods"}]) == [
        "errors imports methods.kd, which is above it",
    ]
    assert violations(edges, [{"methods"}]) == ["errors has no layer: give it one"]
    assert set(circle(edges)) == {"methods._base", "methods.kd"}


def test_an_installed_package_has_all_folders():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    listed = set(settings["options"]["packages"].split())
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in PACKAGE.rglob("__init__.py")}
    assert listed == found | {"ctkd_lightning.conf", "hydra_plugins.ctkd_search"}


def test_an_installed_package_has_all_files_that_are_no_modules():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    listed = {
        path
        for package, patterns in settings["options.package_data"].items()
        for pattern in patterns.replace(",", " ").split()
        for path in ROOT.joinpath(*package.split(".")).glob(pattern)
    }
    found = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert PACKAGE / "reporting/template.html.j2" in found
    assert found <= listed
