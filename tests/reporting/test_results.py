import pytest
from scipy import stats

from ctkd_lightning.reporting.arms import find_arms
from ctkd_lightning.reporting.results import results_table, worth_table
from ctkd_lightning.reporting.runs import read_runs
from tests.reporting.made_up import comparison, write_run

FIXED, LEARNED, ALONE = [85.0, 86.0, 84.5], [86.5, 87.0, 86.2], [80.0, 81.0, 80.5]


@pytest.fixture
def arms():
    return find_arms(comparison("runs", FIXED, LEARNED, ALONE))


def row(table, name):
    return next(cells[1:] for cells in table.rows if cells[0].text == name)


def test_the_results_table(arms):
    table = results_table(arms)
    assert table.groups == [("", 1), ("big_to_small", 3)]
    accuracy, seeds, against = row(table, "kd, global τ")
    assert accuracy.text == f"{sum(LEARNED) / 3:.2f} ± {stats.tstd(LEARNED):.2f}"
    assert (seeds.text, accuracy.best) == ("3", True)
    low, high = stats.ttest_rel(LEARNED, FIXED).confidence_interval(0.95)
    assert against.text == f"+{(sum(LEARNED) - sum(FIXED)) / 3:.2f}"
    assert against.note == f"95 %: +{low:.2f} to +{high:.2f}"
    assert not row(table, "kd, fixed τ")[0].best
    assert row(table, "student alone")[2].text == "–"


def test_a_column_a_pair():
    files = [write_run("a", 85.0), write_run("b", 75.0, pair="big_to_tiny"), write_run("c", 1.0, temperature="global")]
    table = results_table(find_arms(read_runs([file.path for file in files]).runs))
    assert [title for title, _ in table.groups] == ["", "big_to_small", "big_to_tiny"]
    assert [cell.text for cell in row(table, "kd, fixed τ")[::3]] == ["85.00", "75.00"]
    assert [cell.text for cell in row(table, "kd, global τ")[::3]] == ["1.00", "–"]
    assert "one seed each" in table.words


def test_why_there_is_no_difference():
    files = [
        write_run("a", 85.0, seed=1),
        write_run("b", 86.0, seed=2, temperature="global"),
        write_run("c", 86.0, temperature="instance", method="dkd"),
        write_run("d", 84.0, method="pkt", without_effect=["temperature", "curriculum"]),
    ]
    table = results_table(find_arms(read_runs([file.path for file in files]).runs))
    notes = {cells[0].text: cells[3].note for cells in table.rows}
    assert notes == {
        "kd, fixed τ": "it is the fixed one",
        "kd, global τ": "no run with temperature=fixed has its seeds",
        "dkd, instance τ": "no run of it with temperature=fixed",
        "pkt": "no temperature",
    }


def test_what_it_was_worth(arms):
    alone, distilled, teacher, gained, share, *times, small, large = row(worth_table(arms), "kd, global τ")
    assert alone.text == f"80.50 ± {stats.tstd(ALONE):.2f}"
    assert distilled.text == f"{sum(LEARNED) / 3:.2f} ± {stats.tstd(LEARNED):.2f}"
    assert teacher.text == "90.00"
    low, high = stats.ttest_rel(LEARNED, ALONE).confidence_interval(0.95)
    assert (gained.text, gained.note) == ("+6.07", f"95 %: +{low:.2f} to +{high:.2f}")
    assert share.text == f"{(sum(LEARNED) / 3 - 80.5) / (90 - 80.5):.0%}" == "64%"
    assert [time.text for time in times] == ["30.0 s", "1 min 00 s", "10 min 00 s"]
    assert (small.text, small.note, large.text) == ("100", "25% of teacher", "400")


def test_worth_without_a_student_alone_or_with_a_weak_teacher():
    table = worth_table(find_arms(comparison("a", [85.0], [])))
    assert "no student alone" in table.words
    assert [cell.text for cell in row(table, "kd, fixed τ")[:5]] == ["–", "85.00", "90.00", "–", "–"]
    table = worth_table(find_arms(comparison("b", [85.0], [], [80.0], teacher=70.0)))
    assert "not better" in row(table, "kd, fixed τ")[4].note
    assert worth_table(find_arms(comparison("c", [], [], [80.0]))) is None


def test_a_teacher_is_one_network_for_all_seeds_or_several():
    files = [write_run("a", 85.0, teacher=90.0), write_run("b", 86.0, seed=2, teacher=92.0)]
    table = worth_table(find_arms(read_runs([file.path for file in files]).runs))
    assert row(table, "kd, fixed τ")[2].text == "91.00 ± 1.41"


def test_the_teachers_are_those_of_the_seeds():
    teachers = [90.0, 90.0, 96.0, 60.0]
    files = [write_run(f"{seed}", 85.0 + seed, seed=seed, teacher=t) for seed, t in enumerate(teachers)]
    files += [write_run(f"alone{seed}", 80.0 + seed, seed=seed, method="none") for seed in range(3)]
    cells = row(worth_table(find_arms(read_runs([file.path for file in files]).runs)), "kd, fixed τ")
    assert cells[2].text == f"92.00 ± {stats.tstd(teachers[:3]):.2f}"
    assert cells[4].text == f"{5 / (92 - 81):.0%}"


def test_the_students_alone_beside_the_runs():
    """They have a row, and none of the others is the best that is not above them too."""
    files = [
        write_run(f"{temperature}-{seed}", top1, temperature=temperature, seed=seed, baseline=alone)
        for temperature, values in (("fixed", FIXED), ("global", LEARNED))
        for seed, (top1, alone) in enumerate(zip(values, [90.0, 91.0, 90.5], strict=True), start=1)
    ]
    arms = find_arms(read_runs([file.path for file in files]).runs)
    assert [cell.text for cell in row(worth_table(arms), "kd, fixed τ")[5:7]] == ["45.0 s", "1 min 00 s"]
    table = results_table(arms)
    accuracy, seeds, against = row(table, "student alone")
    assert accuracy.text == f"90.50 ± {stats.tstd([90.0, 91.0, 90.5]):.2f}"
    assert (seeds.text, against.text) == ("3", "–")
    assert not any(cell.best for cells in table.rows for cell in cells)


def test_students_alone_that_differ_for_a_seed_have_no_row():
    files = [write_run("a", 85.0, baseline=80.0), write_run("b", 86.0, temperature="global", baseline=81.0)]
    table = results_table(find_arms(read_runs([file.path for file in files]).runs))
    assert [cells[0].text for cells in table.rows] == ["kd, fixed τ", "kd, global τ"]
