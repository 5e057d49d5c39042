from omegaconf import OmegaConf

from ctkd_lightning.reporting.runs import read_runs
from ctkd_lightning.reporting.settings import apart_from, decisive, differences, differing, flat
from tests.reporting.made_up import write_run


def runs(*folders):
    return read_runs([folder.path for folder in folders]).runs


def test_flat_does_not_resolve():
    cfg = OmegaConf.create({"seed": 1, "data": {"seed": "${seed}", "size": [8, 8], "none": None}, "logger": {}})
    assert flat(cfg) == {
        "seed": "1", "data.seed": "${seed}", "data.size": "[8, 8]", "data.none": "None", "logger": "{}"
    }  # fmt: skip


def test_apart_from_takes_whole_names():
    settings = {"seed": "1", "seeds": "2", "data.seed": "3", "data": "4"}
    assert apart_from(settings, ["seed"]) == {"seeds": "2", "data.seed": "3", "data": "4"}
    assert apart_from(settings, ["data"]) == {"seed": "1", "seeds": "2"}


def test_differing_counts_what_one_lacks():
    assert differing([{"a": "1", "b": "2"}, {"a": "1", "b": "2", "c": "3"}]) == ["c"]


def test_neither_seed_nor_place_nor_what_has_no_effect_decides():
    a = write_run("a", 90.0, seed=1, settings={"keep_outputs": True})
    b = write_run("b", 91.0, seed=2, settings={"curriculum": {"epochs": 3}, "report": False})
    first, second = map(decisive, runs(a, b))
    assert first == second
    other = decisive(runs(write_run("c", 90.0, settings={"max_epochs": 3}))[0])
    assert differing([first, other]) == ["max_epochs"]


def test_a_choice_stands_for_its_settings():
    found = differences(
        runs(write_run("a", 90.0), write_run("b", 90.0, temperature="global"), write_run("c", 90.0, seed=7))
    )
    assert found == {"temperature": ["fixed", "global", "fixed"], "seed": ["1", "1", "7"]}


def test_settings_that_differ_within_a_choice_are_named():
    found = differences(runs(write_run("a", 90.0), write_run("b", 90.0, settings={"temperature": {"tau": 2.0}})))
    assert found == {"temperature.tau": ["4.0", "2.0"]}
