import pytest

from ctkd_lightning.reporting.arms import find_arms
from ctkd_lightning.reporting.figures._comparison import MOST_ARMS, MOST_OUTPUTS, over_seeds
from tests.reporting.figures.made_up import comparison, outputs, run


def test_arms_by_method_and_temperature_each_with_its_colour(tmp_path):
    runs = [run(tmp_path, t, s) for s in (1, 2) for t in ("fixed", "global")] + [run(tmp_path, alone=True)]
    found = comparison(*runs)
    assert {arm.label: [r.summary.seed for r in arm.runs] for arm in found.arms} == {
        "kd, fixed τ": [1, 2], "kd, global τ": [1, 2], "student alone": [1]
    }  # fmt: skip
    assert [arm.label for arm in found.distilled] == ["kd, fixed τ", "kd, global τ"]
    assert len({arm.colour for arm in found.arms}) == 3
    # a run of no teacher before them changes none of their colours
    other = comparison(run(tmp_path, alone=True), *runs)
    assert {a.label: a.colour for a in other.arms} == {a.label: a.colour for a in found.arms}


def test_arms_are_those_of_the_tables(tmp_path):
    runs = [run(tmp_path, seed=s, settings={"max_epochs": epochs}) for epochs in (2, 9) for s in (1, 2)]
    found = comparison(*runs)
    tables = find_arms(runs)
    assert [arm.label for arm in found.arms] == [arm.name for arm in tables]
    assert [arm.label for arm in found.arms] == ["kd, global τ, max_epochs=2", "kd, global τ, max_epochs=9"]
    assert [arm.runs for arm in found.arms] == [arm.runs for arm in tables]


def test_pairs_of_networks_are_told_apart(tmp_path):
    found = comparison(run(tmp_path, model="a"), run(tmp_path, model="b"))
    assert [arm.label for arm in found.arms] == ["kd, global τ, a", "kd, global τ, b"]


def test_many_arms(tmp_path):
    found = comparison(*(run(tmp_path, f"t{i}") for i in range(20)))
    assert len(found.arms) == MOST_ARMS == 12
    assert len({(arm.colour, arm.line) for arm in found.arms}) == 12
    assert found.caption("Words.", found.arms) == "Words. 8 more arms are not drawn."
    assert found.caption("Words.", found.arms[:11], found.arms) == "Words. 9 more arms are not drawn."


def test_outputs_of_an_arm(tmp_path):
    full = outputs([0], teacher=[[1.0]], student=[[1.0]])
    lone, empty = outputs([0], student=[[1.0]]), outputs([], teacher=[], student=[])
    runs = [run(tmp_path, seed=seed, outputs=o) for seed, o in enumerate([full, lone, empty, None, full, full])]
    runs[4].files.test_outputs.write_bytes(b"damaged")
    (arm,) = comparison(*runs).arms
    assert MOST_OUTPUTS == 5
    assert [found.summary.seed for found, _ in arm.outputs("teacher", "student")] == [0]
    assert [found.summary.seed for found, _ in arm.outputs("student")] == [0, 1]


@pytest.mark.parametrize(
    ("sizes", "expected"), [([1, 1], ""), ([3, 3], "Mean over 3 seeds"), ([1, 3], "Mean over 1 to 3 seeds an arm")]
)
def test_over_how_many_seeds(tmp_path, sizes, expected):
    arms = comparison(*(run(tmp_path, f"t{i}", s) for i, size in enumerate(sizes) for s in range(size))).arms
    assert over_seeds(arms) == expected
