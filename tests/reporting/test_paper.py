import pytest
from scipy import stats

from ctkd_lightning.reporting.arms import find_arms
from ctkd_lightning.reporting.paper import paper_table
from ctkd_lightning.reporting.runs import read_runs
from tests.reporting.made_up import comparison, write_run

PAIRS = ("big_to_small", "big_to_tiny")


def written(top1):
    """Runs of two seeds, by method, pair and temperature."""
    files = [
        write_run(f"{method}{pair}{temperature}{seed}", value, seed=seed, method=method, pair=pair,
                  temperature=temperature, baseline=60.0 + seed)
        for (method, pair, temperature), values in top1.items()
        for seed, value in enumerate(values, 1)
    ]  # fmt: skip
    return find_arms(read_runs([file.path for file in files]).runs)


def test_a_pair_of_rows_for_each_method():
    top1 = {
        (method, pair, temperature): [70.0 + i + j + (2 + i + j * j if temperature == "global" else 0), 75.0 + i]
        for i, method in enumerate(("kd", "dkd"))
        for j, pair in enumerate(PAIRS)
        for temperature in ("fixed", "global")
    }
    del top1["dkd", PAIRS[1], "global"]
    table = paper_table(written(top1))
    assert [column.title for column in table.columns] == ["", *PAIRS]
    found = {}
    heading = ""
    for first, *cells in table.rows:
        heading = first.text if not first.text.startswith("+") else heading
        found[heading, first.text] = cells
    assert list(found) == [
        ("teacher", "teacher"), ("student alone", "student alone"), ("kd", "kd"), ("kd", "+ global τ"), ("dkd", "dkd"),
        ("dkd", "+ global τ"),
    ]  # fmt: skip
    assert [cell.text for cell in found["teacher", "teacher"]] == ["90.00", "90.00"]
    assert found["student alone", "student alone"][0].text == f"61.50 ± {stats.tstd([61, 62]):.2f}"
    for (method, pair, temperature), values in top1.items():
        cell = found[method, method if temperature == "fixed" else "+ global τ"][PAIRS.index(pair)]
        assert cell.text == f"{sum(values) / 2:.2f} ± {stats.tstd(values):.2f}"
        gained = sum(values) / 2 - sum(top1[method, pair, "fixed"]) / 2
        assert cell.note == ("" if temperature == "fixed" else f"{gained:+.2f}")
    assert found["dkd", "+ global τ"][1].text == "–"


@pytest.mark.parametrize(("fixed", "learned"), [([85.0, 86.0], [86.0, 88.0]), ([85.0], []), ([], [85.0])])
def test_one_method_of_one_pair_has_its_table_already(fixed, learned):
    assert paper_table(find_arms(comparison("runs", fixed, learned))) is None


def test_every_other_temperature_has_its_row_and_fixed_ones_none():
    files = [
        write_run(f"a{seed}{number}", value + seed, seed=seed, temperature=temperature, settings=settings)
        for seed in (1, 2)
        for number, (value, temperature, settings) in enumerate([
            (70.0, "fixed", {"temperature": {"tau": 4.0}}),
            (72.0, "fixed", {"temperature": {"tau": 2.0}}),
            (73.0, "global", {"temperature": {"objective": "adversarial"}}),
            (80.0, "global", {"temperature": {"objective": "cooperative"}}),
        ])
    ]  # fmt: skip
    files += [write_run("b", 60.0, pair=PAIRS[1])]
    table = paper_table(find_arms(read_runs([file.path for file in files]).runs))
    found = {row[0].text: row[1] for row in table.rows}
    assert list(found) == [
        "teacher", "student alone", "kd", "+ global τ, temperature.objective=adversarial",
        "+ global τ, temperature.objective=cooperative",
    ]  # fmt: skip
    assert found["kd"].text.startswith("73.50")
    assert [cell.note for cell in list(found.values())[3:]] == ["+1.00", "+8.00"]
    assert "the best of them" in table.words
