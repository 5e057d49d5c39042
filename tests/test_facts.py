"""What is said of methods and temperatures: nothing is forgotten, each thing agrees with the others, and it is true."""

import functools
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from ctkd_lightning import methods, temperature
from ctkd_lightning.errors import UserError
from ctkd_lightning.features.outputs import Step
from ctkd_lightning.methods import NetworkOutput
from ctkd_lightning.temperature import Softening
from docs import tables
from tests.methods.settings import METHODS, SETTINGS, example
from tests.temperature.settings import TEMPERATURES, closed_forms

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
PAIRS = {path.stem for path in (CONF / "model").glob("*.yaml")}


@functools.cache
def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", [*overrides, "run_dir=out"])


def forgotten(needed: dict[str, bool]) -> list[str]:
    return [f"there is no {thing}" for thing, there in needed.items() if not there]


@pytest.mark.parametrize("name", METHODS)
def test_nothing_of_a_method_is_forgotten(name):
    kind = METHODS[name]
    file = kind.__module__.rpartition(".")[2]
    needed = {
        f"facts = MethodFacts(...) in {kind.__name__}": "facts" in vars(kind),
        f"{name}_loss among the exports of ctkd_lightning.methods": f"{name}_loss" in methods.__all__,
        f"conf/method/{name}.yaml": (CONF / "method" / f"{name}.yaml").is_file(),
        f"row of {name!r} in SETTINGS of tests/methods/test_{file}.py": name in SETTINGS,
    }
    assert not forgotten(needed)


@pytest.mark.parametrize("name", TEMPERATURES)
def test_nothing_of_a_temperature_is_forgotten(name):
    kind = TEMPERATURES[name]
    file = kind.__module__.rpartition(".")[2]
    needed = {
        f"facts = TemperatureFacts(...) in {kind.__name__}": "facts" in vars(kind),
        f"conf/temperature/{name}.yaml": (CONF / "temperature" / f"{name}.yaml").is_file(),
        f"row of {name!r} in CLOSED of tests/temperature/test_{file}.py": name in closed_forms(),
    }
    assert not forgotten(needed)


@pytest.mark.parametrize(("package", "kinds"), [(methods, METHODS), (temperature, TEMPERATURES)])
def test_every_file_exports_what_it_defines(package, kinds):
    files = {path.stem for path in Path(package.__file__).parent.glob("[a-z]*.py")}
    assert files == {kind.__module__.rpartition(".")[2] for kind in kinds.values()}, "a class is not in __all__"


@pytest.mark.parametrize("table", tables.TABLES)
def test_the_tables_of_the_docs_are_as_they_are_made(table):
    page, _ = tables.TABLES[table]
    text = page.read_text()
    assert tables.written(table, text) == text, f"{page} is not up to date: run python -m docs.tables"


@pytest.mark.parametrize("name", METHODS)
def test_configuration_and_class_agree(name):
    cfg = composed(f"method={name}", "model.student.name=nobody")  # a pair for which nothing is published
    assert list(cfg.method.terms) == [name]
    node = dict(cfg.method.terms[name])
    kind = METHODS[name]
    assert node.pop("_target_") == f"ctkd_lightning.methods.{kind.__name__}"
    settings = {key: value for key, value in tables.defaults(kind).items() if value is not None or key in node}
    for key, value in settings.items():
        expected = list(value) if isinstance(value, tuple) else value
        assert node.pop(key, "missing") == expected, f"{key} of {kind.__name__} in conf/method/{name}.yaml"
    assert not node, "settings that the class does not have"
    assert type(instantiate(cfg.method.terms[name], _convert_="all")) is kind


@pytest.mark.parametrize("name", TEMPERATURES)
def test_configuration_and_class_of_a_temperature_agree(name):
    node = dict(composed(f"temperature={name}").temperature)
    kind = TEMPERATURES[name]
    assert node.pop("_target_") == f"ctkd_lightning.temperature.{kind.__name__}"
    for key, value in tables.defaults(kind).items():
        found = node.pop(key, "missing")
        expected = kind().base.tau if key == "base" else value
        assert (found.tau if key == "base" else found) == expected, f"{key} in conf/temperature/{name}.yaml"
    assert set(node) <= {"num_classes"}, "settings that the class does not have"


def published(name):
    return tables.config("method", name).get("by_pair", {}).get(name, {})


BY_PAIR = [name for name in METHODS if (CONF / "method" / f"{name}.yaml").is_file() and published(name)]


def for_pair(model):
    return composed(f"method=[{','.join(BY_PAIR)}]", f"model={model}")


@pytest.mark.parametrize("name", BY_PAIR)
def test_settings_by_pair_reach_the_method(name):
    rows, usual = published(name), tables.defaults(METHODS[name])
    pairs = {cfg.model.pair: cfg for cfg in map(for_pair, PAIRS)}
    assert set(rows) <= set(pairs), "a pair that is not in conf/model"
    for pair, cfg in pairs.items():
        row = dict(rows.get(pair, {}))
        assert set(row) <= set(usual)
        for key, value in (usual | row).items():
            assert cfg.method.terms[name][key] == value, pair


# of the authors' published configurations and scripts
PUBLISHED = {
    ("dkd", "beta", 2.0): {"resnet56_to_resnet20", "resnet110_to_resnet32"},
    ("dkd", "beta", 6.0): {"vgg13_to_vgg8", "vgg13_to_mobilenetv2", "wrn40_2_to_wrn16_2", "wrn40_2_to_wrn40_1"},
    ("dkd", "beta", 0.5): {"resnet34_to_resnet18"},
    ("dkd", "warmup_epochs", 1): {"resnet34_to_resnet18"},
    ("reviewkd", "weight", 0.6): {"resnet56_to_resnet20"},
    ("reviewkd", "weight", 5.0): {
        "resnet32x4_to_resnet8x4", "resnet32x4_to_shufflenetv1", "wrn40_2_to_wrn16_2", "wrn40_2_to_wrn40_1",
        "wrn40_2_to_shufflenetv1",
    },
    ("reviewkd", "weight", 8.0): {"resnet32x4_to_shufflenetv2"},
    ("reviewkd", "warmup_epochs", 1): {"resnet34_to_resnet18"},
}  # fmt: skip


@pytest.mark.parametrize(("name", "key", "value"), PUBLISHED)
def test_published_settings_by_pair(name, key, value):
    having = {pair for pair in PAIRS if for_pair(pair).method.terms[name][key] == value}
    assert having == PUBLISHED[name, key, value]


def test_a_variant_of_a_method_is_made_of_the_method():
    others = {"none", "box_kd"}  # no method, and one of detectors alone
    for name in sorted({path.stem for path in (CONF / "method").glob("*.yaml")} - set(METHODS) - others):
        (base,) = tables.config("method", name).defaults  # else it would say again what the method says
        assert base in METHODS


def test_dkd_as_ctkds_code_has_it():
    term = composed("method=dkd_ctkd", "model=resnet56_to_resnet20").method.terms.dkd
    assert (term.weight, term.alpha, term.beta, term.warmup_epochs) == (1.0, 1.0, 2.0, 0)


@pytest.mark.parametrize("name", METHODS)
def test_what_is_said_of_a_method_is_true(name):
    kind, case = METHODS[name], example(SETTINGS[name])
    facts = kind.facts
    method = case.built(SETTINGS[name])
    assert bool(facts.own) == bool(list(method.parameters())), "its trainable parts"
    assert facts.url in getattr(methods, f"{name}_loss").__doc__ + kind.__doc__, "the paper"
    softening = Softening.at(case.temperature, case.student.logits)

    def fails(target=case.target, index=case.index, teacher=case.teacher):
        try:
            method(case.student, teacher, Step(target=target, index=index), softening)
        except UserError as error:
            return str(error)
        return ""

    assert not fails()
    assert ("needs the class indices" in fails(target=None)) == kind.needs_target, "whether it reads the target"
    assert ("indices" in fails(index=None)) == facts.index, "whether it reads the sample's index"
    bare = NetworkOutput(case.teacher.logits, case.teacher.features)
    assert ("classifier" in fails(teacher=bare)) == facts.classifier, "whether it reads the teacher's classifier"


@pytest.mark.parametrize("name", [name for name, kind in METHODS.items() if {"stages", "preacts"} & set(kind.needs)])
def test_whether_a_method_wants_the_same_widths(name):
    case = example(SETTINGS[name], same_shapes=True)
    case.teacher.features["stage2"] = torch.randn(4, 9, *case.teacher.features["stage2"].shape[2:])
    try:
        case.loss(case.built(SETTINGS[name]))
        failed = False
    except UserError:
        failed = True
    assert failed == METHODS[name].facts.same_widths
