import pytest

from ctkd_lightning.reporting.arms import alone_score, find_arms, fixed_reference, is_best, to_fixed
from ctkd_lightning.reporting.runs import read_runs
from tests.reporting.made_up import comparison, write_run


def read(*files):
    return find_arms(read_runs([file.path for file in files]).runs)


def test_seeds_are_one_arm_and_the_student_alone_is_last():
    arms = find_arms(comparison("runs", [90, 91], [92, 93], [80, 81]))
    assert [(arm.name, arm.score) for arm in arms] == [
        ("kd, fixed τ", {1: 90, 2: 91}),
        ("kd, global τ", {1: 92, 2: 93}),
        ("student alone", {1: 80, 2: 81}),
    ]


def test_other_settings_are_another_arm():
    arms = read(
        write_run("a", 90.0), write_run("b", 70.0, settings={"max_epochs": 1}), write_run("c", 80.0, pair="big_to_tiny")
    )
    assert [(arm.pair, arm.name) for arm in arms] == [
        ("big_to_small", "kd, fixed τ, max_epochs=2"),
        ("big_to_small", "kd, fixed τ, max_epochs=1"),
        ("big_to_tiny", "kd, fixed τ"),
    ]


def test_where_no_method_reads_a_temperature_neither_it_nor_its_curriculum_tells_arms_apart():
    runs = [
        write_run("a", 90.0, method="crd", temperature="fixed", without_effect=["temperature", "curriculum"]),
        write_run(
            "b", 91.0, method="crd", temperature="global", seed=2, without_effect=["temperature"],
            settings={"curriculum": {"epochs": 3}},
        ),
    ]  # fmt: skip
    assert [(arm.name, arm.score) for arm in read(*runs)] == [("crd", {1: 90.0, 2: 91.0})]


def test_runs_of_one_seed_count_once():
    (arm,) = read(write_run("a", 90.0), write_run("b", 92.0), write_run("c", 80.0, seed=2))
    assert arm.score == {1: 91.0, 2: 80.0}


def test_a_constant_of_one_is_a_fixed_reference():
    arms = read(write_run("a", 90.0, temperature="fixed_one"), write_run("b", 92.0, temperature="global"))
    of = {arm.name: arm for arm in arms}
    assert fixed_reference(of["kd, global τ"], arms) is of["kd, fixed_one τ"]


def test_the_fixed_reference_is_like_with_like():
    arms = read(
        write_run("a", 90.0),
        write_run("b", 91.0, settings={"temperature": {"tau": 2.0}}),
        write_run("c", 99.0, settings={"max_epochs": 5}),
        write_run("d", 92.0, temperature="global"),
        write_run("e", 92.0, temperature="global", method="dkd"),
        write_run("f", 80.0, method="none"),
    )
    by_name = {arm.name: arm for arm in arms}
    assert fixed_reference(by_name["kd, global τ"], arms).score == {1: 91.0}  # the best of two, not that of 5 epochs
    assert to_fixed(by_name["kd, global τ"], arms).mean == pytest.approx(1.0)
    assert fixed_reference(by_name["dkd, global τ"], arms) is None


def test_the_student_alone_of_own_runs_and_beside():
    arms = find_arms(comparison("a", [90, 91], [], [80, 81]))
    assert alone_score(arms[0], arms) == {1: 80, 2: 81}
    arms = read(write_run("b", 90.0, baseline=79.0))
    assert alone_score(arms[0], arms) == {1: 79.0}
    arms = read(write_run("c", 90.0), write_run("d", 80.0, method="none", settings={"max_epochs": 9}))
    assert alone_score(arms[0], arms) == {}


@pytest.mark.parametrize(
    ("fixed", "learned", "best"),
    [
        ([90.0, 91.0, 92.0], [92.0, 93.1, 93.9], {"kd, global τ"}),
        ([92.0, 93.1, 93.9], [90.0, 91.0, 92.0], {"kd, fixed τ"}),
        ([90.0, 91.0, 92.0], [95.0, 91.0, 92.0], set()),
        ([90.0], [95.0], set()),
    ],
)
def test_the_best_only_where_the_interval_says_so(fixed, learned, best):
    arms = find_arms(comparison("runs", fixed, learned))
    assert {arm.name for arm in arms if is_best(arm, arms)} == best


def test_an_arm_without_rivals_is_not_the_best():
    (arm,) = read(write_run("a", 90.0))
    assert not is_best(arm, [arm])


def test_the_best_must_be_above_every_other():
    fixed, learned = [80.0, 81.0, 82.0], [90.0, 91.3, 91.8]
    arms = find_arms(comparison("a", fixed, learned, [70.0, 71.2, 72.0]))
    assert [is_best(arm, arms) for arm in arms] == [False, True, False]
    arms = find_arms(comparison("b", fixed, learned, [95.0, 70.0, 91.0]))  # above the fixed one, not above the last
    assert not any(is_best(arm, arms) for arm in arms)
