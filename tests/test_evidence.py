"""The study's lines become its table; and a run becomes a line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from scipy import stats

from benchmarks.evidence_arms import ARMS, GRID, STAGES, best_of_grid, settings_of
from benchmarks.evidence_table import by_arm, holm, p_values, read_runs, report, table
from ctkd_lightning import build

ROOT = Path(__file__).resolve().parents[1]
TOP1 = {"fixed 4": [70.0, 72.0, 71.0], "global": [71.5, 73.0, 72.8], "instance": [69.0, 72.5, 71.0], "alone": [60.0]}


def lines(path, top1=TOP1, start="s"):
    about = {"date": "2030-01-02", "hardware": {"processor": "p", "cores": 2}, "versions": {"torch": "9"}}
    written = [
        {"stage": "1", "arm": arm, "seed": seed, "top1": value, "nll": value / 100, "ece": 0.01 * seed,
         "tau": [2.0, seed], "agreement": 50.0 + seed, "seconds": 1.0, "start": f"{start}{seed}", **about}
        for arm, values in top1.items()
        for seed, value in enumerate(values, 1)
    ]  # fmt: skip
    path.write_text("".join(f"{json.dumps(line)}\n" for line in written))
    return path


def test_the_table(tmp_path):
    runs = read_runs(lines(tmp_path / "runs.jsonl"))
    rows = {cells[1].strip(): cells[2:] for cells in (line.split("|") for line in table(runs))}
    low, high = stats.ttest_rel(TOP1["global"], TOP1["fixed 4"]).confidence_interval(0.95)
    assert rows["global"][:3] == [
        " 3 ",
        " 2.00 ",
        f" {sum(TOP1['global']) / 3:.2f} ± {stats.tstd(TOP1['global']):.2f} ",
    ]
    p = stats.ttest_rel(TOP1["global"], TOP1["fixed 4"]).pvalue
    star = "*" if 2 * p < 0.05 else ""  # two arms have an interval
    assert rows["global"][3].strip() == f"+{(low + high) / 2:.2f} ± {(high - low) / 2:.2f}{star}"
    assert [rows[arm][3].strip() for arm in ("fixed 4", "alone")] == ["–", "−10.00"]
    assert p_values(by_arm(runs, "top1")).keys() == {"global", "instance"}
    assert p_values(by_arm(runs, "agreement")) == {}  # no differences at all


def test_a_run_that_had_no_end_is_told_and_has_no_numbers(tmp_path):
    path = lines(tmp_path / "runs.jsonl")
    found = {
        "stage": "1",
        "arm": "global",
        "seed": 4,
        "tau": [3.0],
        "seconds": 1.0,
        "start": "s4",
        "error": "NaN",
    }
    path.write_text(path.read_text() + json.dumps(found) + "\n")
    *rows, last = table(read_runs(path))
    assert last.startswith("| global, seed 4 | – | – | stopped: NaN |")
    assert last.count("|") == rows[0].count("|")
    assert next(row for row in rows if row.startswith("| global")).split("|")[2] == " 3 "


def test_p_values_of_many_comparisons():
    adjusted = holm({"a": 0.001, "b": 0.02, "c": 0.04, "d": 0.03})
    assert adjusted == pytest.approx({"a": 0.004, "b": 0.06, "c": 0.06, "d": 0.06})
    assert holm({"a": 0.01, "b": 0.02}, family=5) == pytest.approx({"a": 0.05, "b": 0.08})
    assert holm({"a": 0.7, "b": 0.9}) == {"a": 1.0, "b": 1.0}


def test_the_page_and_its_figures(tmp_path):
    page = tmp_path / "results.md"
    page.write_text("a\n<!-- stage: 1 -->\nold\n<!-- end -->\nb\n")
    (tmp_path / "images").mkdir()
    report(lines(tmp_path / "runs.jsonl"), page)
    text = page.read_text()
    assert text.startswith("a\n<!-- stage: 1 -->\n\n10 runs, seeds 1 to 3, 2030-01-02; p, 2 cores; torch 9.")
    assert text.endswith("<!-- end -->\nb\n")
    assert "old" not in text
    for name in ("differences", "paths"):
        assert "<svg" in (tmp_path / "images" / f"temperatures_1_{name}.svg").read_text()
    page.write_text("nothing")
    with pytest.raises(SystemExit, match="must hold <!-- stage: 1 -->"):
        report(tmp_path / "runs.jsonl", page)


def test_arms_that_start_apart_are_not_paired(tmp_path):
    path = lines(tmp_path / "runs.jsonl")
    path.write_text(path.read_text() + lines(tmp_path / "other.jsonl", {"fixed 1": [1.0]}, start="other").read_text())
    with pytest.raises(SystemExit, match="stage 1, seed 1 start from different students"):
        read_runs(path)


@pytest.mark.parametrize("name", ARMS)
def test_arms_are_settings_of_the_command(name, tmp_path):
    cfg = build.config("data=digits", *settings_of(name, [3.0, 2.5], tmp_path))
    if ARMS[name].replays == "path":
        temperature = build.temperature(cfg, build.methods(cfg), 10)
        temperature.set_progress(1)
        assert temperature.tau == 2.5
    if ARMS[name].replays == "end":
        assert cfg.temperature.tau == 2.5


def test_stages():
    assert set(STAGES["1"].arms) == set(ARMS)
    assert best_of_grid({f"fixed {tau:g}": -abs(tau - 7) for tau in GRID}) == "fixed 8"
    assert set(STAGES["2"].arms) == {
        "fixed 2.87", "fixed 4", "global", "global's path, recorded", "global, cooperative", "instance",
        "scheduled, 10 to 1",
    }  # fmt: skip


@pytest.mark.slow
def test_a_run_becomes_a_line(tmp_path):
    command = [
        sys.executable,
        "-m",
        "benchmarks.evidence",
        "--data",
        "digits",
        "--seeds",
        "1",
        "--results",
        "lines.jsonl",
    ]
    settings = ["--set", "max_epochs=2", "teacher.max_epochs=1", "data.limit_train=128", "--arms", "fixed 4", "global"]
    for _ in range(2):  # the second finds all done
        subprocess.run(
            [*command, *settings, "global's path, recorded", "alone"],
            check=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        found = [json.loads(line) for line in (tmp_path / "lines.jsonl").read_text().splitlines()]
        assert [line["arm"] for line in found] == ["fixed 4", "global", "alone", "global's path, recorded"]
    assert found[1]["tau"] == pytest.approx(found[3]["tau"], abs=1e-3)
    assert len({line["start"] for line in found}) == 1
    assert found[2]["tau"] == []
