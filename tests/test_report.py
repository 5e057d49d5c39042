import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from ctkd_lightning.report import main
from tests.reporting.made_up import Tables, comparison, write_run

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def report(monkeypatch):
    """Run the command in this process."""

    def call(*words):
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["ctkd-report", *words])
        main()

    yield call
    GlobalHydra.instance().clear()


def test_the_command(report, capsys):
    comparison("sweep", [85.0, 86.0], [86.5, 87.0])
    report("runs=[sweep]", "output=out/page.html")
    assert capsys.readouterr().out == "out/page.html\n"
    assert Tables(Path("out/page.html").read_text()).numbers("results")["kd, global τ"][0] == "86.75 ± 0.35"
    assert sorted(path.name for path in Path().iterdir()) == ["out", "sweep"]  # Hydra leaves nothing behind


@pytest.mark.parametrize("runs", ["runs=sweep", "runs=sweep/*", "runs=[sweep/kd-fixed-1,sweep/kd-fixed-*]"])
def test_ways_to_name_runs(report, runs):
    comparison("sweep", [85.0, 86.0], [])
    report(runs, "output=page.html")
    assert len(Tables(Path("page.html").read_text()).tables["runs"]) == 3


def test_globs_with_brackets_and_numbers(report):
    for name in ("1", "2", "3"):
        write_run(name, 90.0, seed=int(name))
    report('runs=["[12]"]', "output=page.html")
    assert len(Tables(Path("page.html").read_text()).tables["runs"]) == 3
    report("runs=[1,2,3]", "output=page.html", "overwrite=true")
    assert len(Tables(Path("page.html").read_text()).tables["runs"]) == 4


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "error: runs is empty: name run directories"),
        (["runs=[]"], "error: runs is empty: name run directories"),
        (["runs=null"], "error: runs is empty: name run directories"),
        (["runs=[nowhere]"], "error: no folder at nowhere: name run directories, sweep folders or globs of them"),
        (["runs=[empty]"], "error: no run to report on: empty: empty is no run's folder"),
        (["runs=[run]", "output=run/page.html", "overwrite=3"], "error: overwrite must be true or false, found 3"),
        (["runs=[run]", "output=there.html"], "error: there.html is there already: take another output"),
        (["runs=[run]", "output=3"], "error: output must be an HTML file such as report.html, found 3"),
        (["run=[run]"], "error: Could not override 'run'."),
    ],
)
def test_bad_input_is_told_in_a_line(report, words, line):
    write_run("run", 90.0)
    Path("empty").mkdir()
    Path("there.html").touch()
    with pytest.raises(SystemExit) as stopped:
        report(*words)
    assert str(stopped.value).startswith(line)
    assert "\n" not in str(stopped.value)


def test_help_comes_without_torch():
    program = (
        "import sys\nfrom ctkd_lightning.report import main\nmain()\n"
        "print('loaded:', {'torch', 'matplotlib', 'scipy', 'jinja2'} & set(sys.modules))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program, "--help"], capture_output=True, text=True, check=True, env=environment
    )
    for text in ("runs: []", "overwrite: false", "Examples:", "loaded: set()"):
        assert text in done.stdout
