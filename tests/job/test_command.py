import importlib
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobReturn, JobStatus

from ctkd_lightning._files import owned
from ctkd_lightning.errors import UserError
from ctkd_lightning.job.command import explained, hydra_main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def main(monkeypatch):
    """Run a task with the package's configuration."""

    def call(task, *overrides):
        monkeypatch.setattr(sys, "argv", ["task", *overrides])
        with pytest.raises(SystemExit) as stopped:
            hydra_main("config", task)
        return stopped.value.code

    yield call
    GlobalHydra.instance().clear()


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("method=[]", "error: method must name at least one: method=kd, or several as in method=[kd,at]"),
        (
            "method=kdd",
            "error: Could not find 'method/kdd': did you mean kd or kdsvd or rkd? Valid: ab, annealing_kd,",
        ),
        (
            "method=[at,kdd]",
            "error: Could not find 'method/kdd': did you mean kd or kdsvd or rkd? Valid: ab, annealing_kd,",
        ),
        (
            "methd.weight=1",
            "error: Could not override 'methd.weight'. To append to your config use +methd.weight=1",
        ),
    ],
)
def test_wrong_choices(main, override, line):
    code = main(lambda cfg: cfg.method.terms, override, "run_dir=run")
    assert code.startswith(line)
    for noise in ("\n", "full_key", "object_type", "search path"):
        assert noise not in code


def test_a_sweep_goes_on_after_a_job_that_fails(main, capsys):
    seeds = []

    def task(cfg):
        seeds.append(cfg.seed)
        if cfg.seed != 2:
            raise UserError(f"seed is {cfg.seed}: use 2")

    code = main(task, "-m", "seed=1,2,3", "run_dir=sweep")
    assert seeds == [1, 2, 3]
    assert capsys.readouterr().err == "error in job 0: seed is 1: use 2\nerror in job 2: seed is 3: use 2\n"
    assert code == "error: 2 of 3 jobs failed: 0, 2; see their lines above"


@pytest.mark.parametrize("sweep", [[], ["-m", "seed=1,2"]])
def test_stopped_by_the_user(main, capsys, sweep):
    def task(cfg):
        raise KeyboardInterrupt

    assert main(task, *sweep, "run_dir=run") == 130
    assert capsys.readouterr().err == "stopped by the user\n"


def test_a_tasks_own_processes_explain_their_errors(main, monkeypatch):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)

    def task(cfg):
        raise UserError(os.environ.get("HYDRA_FULL_ERROR", "not set"))

    assert main(task, "run_dir=run") == "error: not set"
    assert "HYDRA_FULL_ERROR" not in os.environ


def test_bugs_are_not_explained_away():
    with pytest.raises(KeyError), explained():
        raise KeyError("a bug")


# Runs a command line in a process of its own and says whether it loaded what takes seconds to load.
WITHOUT_TORCH = """
import sys
from ctkd_lightning.run import main
try:
    main()
except SystemExit as stopped:
    print(stopped.code)
print("loaded:", sorted({"torch", "lightning", "torchvision", "sklearn"} & set(sys.modules)))
"""


def early(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *arguments], capture_output=True, text=True, check=True, env=environment
    )
    return done.stdout


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_groups_and_examples(flag):
    shown = early(flag, "max_epochs=7")
    temperatures = ", ".join(sorted(path.stem for path in (ROOT / "conf" / "temperature").glob("*.yaml")))
    for text in (f"temperature: {temperatures}", "wrn40_2_to_wrn16_2", "max_epochs: 7", "Examples:", "[]"):
        assert text in shown


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("modle=vgg", "error: Could not override 'modle'."),
        ("data=cifar", "error: Could not find 'data/cifar': did you mean cifar10 or cifar100"),
        ("optimizer.lr=1", "error: Could not override 'optimizer.lr'."),
    ],
)
def test_errors_of_composition_come_before_torch(override, line):
    shown = early(override)
    assert shown.startswith(line)
    assert "loaded: []" in shown


def test_what_the_task_returns_is_what_a_sweeper_sees(monkeypatch):
    """Through a launcher, as a sweeper does."""
    from hydra._internal.core_plugins.basic_launcher import BasicLauncher

    returned = []
    launch = BasicLauncher.launch

    def spy(self, *args, **kwargs):
        jobs = launch(self, *args, **kwargs)
        returned.extend(job.return_value for job in jobs)
        return jobs

    monkeypatch.setattr(BasicLauncher, "launch", spy)
    monkeypatch.setattr(sys, "argv", ["task", "-m", "seed=3,5", "run_dir=sweep"])
    hydra_main("config", lambda cfg: cfg.seed * 2.5)
    assert returned == [7.5, 12.5]


def test_a_home_directory_in_run_dir(main, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def task(cfg):
        raise UserError("done")

    main(task, "run_dir=~/runs/a")
    assert (tmp_path / "home/runs/a/.hydra/config.yaml").is_file()
    main(task, "-m", "seed=1,2", "run_dir=~/runs/b")
    assert (tmp_path / "home/runs/b/1/.hydra/config.yaml").is_file()


def test_jobs_in_other_processes_are_counted(main, monkeypatch):
    """A launcher may run them anywhere: one here is killed, and one fails there."""
    from hydra._internal.core_plugins.basic_launcher import BasicLauncher

    launch = BasicLauncher.launch

    def elsewhere(self, job_overrides, initial_job_idx):
        jobs = []
        for number, overrides in enumerate(job_overrides, start=initial_job_idx):
            child = os.fork()
            if not child:
                launch(self, [overrides], number)
                os._exit(0)
            os.waitpid(child, 0)
            jobs.append(JobReturn(overrides=overrides, status=JobStatus.COMPLETED))
        return jobs

    def task(cfg):
        if cfg.seed == 2:
            raise UserError("two")
        if cfg.seed == 3:
            os.kill(os.getpid(), 9)

    monkeypatch.setattr(BasicLauncher, "launch", elsewhere)
    assert main(task, "-m", "seed=1,2,3,4", "run_dir=sweep") == (
        "error: 2 of 4 jobs failed: 1, 2; see their lines above"
    )
    assert not Path("sweep/.jobs").exists()


@pytest.mark.parametrize("word", ["-m", "--multirun"])
@pytest.mark.parametrize("command", ["report", "evaluate", "export", "store"])
def test_commands_that_do_not_sweep(monkeypatch, command, word):
    module = importlib.import_module(f"ctkd_lightning.{command}")
    monkeypatch.setattr(sys, "argv", [command, word, "run=a,b"])
    with pytest.raises(SystemExit, match=r"-m is of ctkd_lightning\.run alone"):
        module.main()
    assert not list(Path().iterdir())


@pytest.mark.parametrize("sweep", [[], ["-m", "seed=1,2"]])
def test_the_run_directory_has_one_owner(main, monkeypatch, sweep):
    """A second run leaves no trace in it."""
    monkeypatch.setattr("ctkd_lightning.job.owner.owned", partial(owned, patience=0.2))
    read, write = os.pipe()

    def task(cfg):
        os.write(write, b"x")
        time.sleep(60)

    child = os.fork()
    if not child:
        main(task, *sweep, "run_dir=run")
    os.read(read, 1)
    files = {path: path.stat().st_mtime_ns for path in Path("run").rglob("*")}
    assert main(task, *sweep, "run_dir=run", "seed=7").startswith(
        f"error: run_dir=run is in use by process {child} on "
    )
    assert {path: path.stat().st_mtime_ns for path in Path("run").rglob("*")} == files
    os.kill(child, 9)
    os.waitpid(child, 0)
