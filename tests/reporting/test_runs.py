import json
import re
from pathlib import Path

import pytest

from ctkd_lightning.errors import UserError
from ctkd_lightning.reporting.runs import find_runs, read_runs
from tests.reporting.made_up import write_run


def test_a_sweep_single_runs_and_globs():
    arms = [("kd", "fixed"), ("none", "fixed"), ("kd", "global"), ("none", "global")]
    for number, (method, temperature) in enumerate(arms):
        write_run(f"sweep/{number}", 50.0, method=method, temperature=temperature)
    write_run("single", 50.0, temperature="global")
    Path("empty").mkdir()
    Path("link").symlink_to("single")
    expected = [Path(f"sweep/{number}") for number in range(4)]
    assert find_runs(["sweep"]) == expected
    assert find_runs(["sweep/[12]", "single", "single", "sweep/../single", "link"]) == [*expected[1:3], Path("single")]
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


def lines(path, kept):
    return "".join(path.read_text().splitlines(keepends=True)[:kept])


DAMAGE = {
    "no summary": (lambda run: run.summary.write_text("{}"), "summary.json is damaged"),
    "words in the metrics": (
        lambda run: run.metrics.write_text("epoch,step,val/top1\n0,1,abc\n"),
        "metrics.csv is damaged",
    ),
    "half of the metrics": (
        lambda run: run.metrics.write_text(lines(run.metrics, 2)),
        "metrics.csv is damaged: it ends with epoch 1 of 2",
    ),
    "empty metrics": (lambda run: run.metrics.write_text(""), "metrics.csv is damaged: it ends with epoch 0 of 2"),
    "no yaml": (lambda run: run.configuration.write_text("a: [b"), "config.yaml is damaged"),
    "a list": (lambda run: run.configuration.write_text("[1, 2]"), "config.yaml is damaged"),
    "bytes": (lambda run: run.configuration.write_bytes(b"\xff\xfe\x00"), "config.yaml"),
    "stopped": (
        lambda run: run.summary.write_text(json.dumps(json.loads(run.summary.read_text()) | {"status": "stopped"})),
        "unfinished: stopped",
    ),
    "going on": (
        lambda run: run.summary.write_text(json.dumps(json.loads(run.summary.read_text()) | {"status": "student"})),
        "is going on, or was killed .*wait for its end",
    ),
    "other data": (
        lambda run: run.summary.write_text(json.dumps(json.loads(run.summary.read_text()) | {"test_data": "x"})),
        "other samples",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_is_left_out(kind):
    damage, why = DAMAGE[kind]
    written = {name: write_run(name, 50.0) for name in "abc"}
    damage(written["b"])
    found = read_runs(find_runs(["a", "b", "c"]))
    assert [str(run.files) for run in found.runs] == ["a", "c"]
    (left,) = found.left_out
    assert str(left.path) == "b"
    assert re.search(why, left.why)
    assert "\n" not in left.why


def test_nothing_there():
    with pytest.raises(UserError, match="runs is empty"):
        find_runs([])
    with pytest.raises(UserError, match="no folder at nowhere"):
        find_runs(["nowhere"])


def test_without_metrics_there_is_nothing_to_be_damaged():
    run = write_run("a", 50.0)
    run.metrics.unlink()
    assert len(read_runs(find_runs(["a"])).runs) == 1
