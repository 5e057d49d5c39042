import json
from pathlib import Path

import pytest

from ctkd_lightning.errors import UserError
from ctkd_lightning.reporting.runs import find_runs, read_runs


def test_a_sweep_single_runs_and_globs(command):
    command("-m", "run_dir=sweep", "temperature=fixed,global", "method=kd,none")
    command("run_dir=single")
    Path("empty").mkdir()
    expected = [Path(f"sweep/{number}") for number in range(4)]
    assert find_runs(["sweep"]) == expected
    assert find_runs(["sweep/[12]", "single", "single"]) == [*expected[1:3], Path("single")]
    assert find_runs(["empty"]) == [Path("empty")]  # named on the page as no run
    found = read_runs(find_runs(["sweep", "single", "empty"]))
    assert [run.arm for run in found.runs] == [
        "kd, fixed τ", "student alone", "kd, global τ", "student alone", "kd, global τ"
    ]  # fmt: skip
    assert [(left.path, "no run's folder" in left.why) for left in found.left_out] == [(Path("empty"), True)]


def test_ten_is_after_nine(tmp_path):
    for number in range(11):
        (tmp_path / str(number) / ".hydra").mkdir(parents=True)
        (tmp_path / str(number) / ".hydra/config.yaml").touch()
    assert [path.name for path in find_runs([str(tmp_path)])] == [str(number) for number in range(11)]


def test_what_is_left_out(command):
    for name in "abcdef":
        command(f"run_dir={name}", *(["data.test_size=30"] if name == "b" else []))
    Path("c/summary.json").write_text("{}")
    Path("d/metrics.csv").write_text("epoch,step,val/top1\n0,1,abc\n")
    content = json.loads(Path("e/summary.json").read_text())
    Path("e/summary.json").write_text(json.dumps(content | {"status": "stopped"}))
    found = read_runs(find_runs(list("abcdef")))
    assert [str(run.files) for run in found.runs] == ["a", "f"]
    why = {str(left.path): left.why for left in found.left_out}
    assert "other samples" in why["b"]
    assert "c/summary.json is damaged" in why["c"]
    assert "metrics.csv is damaged" in why["d"]
    assert "unfinished: stopped" in why["e"]


def test_nothing_there():
    with pytest.raises(UserError, match="runs is empty"):
        find_runs([])
    with pytest.raises(UserError, match="no folder at nowhere"):
        find_runs(["nowhere"])
