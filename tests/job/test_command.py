import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ctkd_lightning.errors import UserError
from ctkd_lightning.job.command import config_dir, explained, hydra_main, one_line

ROOT = Path(__file__).resolve().parents[2]


def test_configuration_is_found():
    assert (Path(config_dir()) / "config.yaml").is_file()


def chained(outer, cause):
    try:
        raise outer from cause
    except Exception as error:
        return error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("x is 3: use 4"), "x is 3: use 4"),
        (chained(InstantiationException("in call to Y:\n full_key: y"), UserError("x is 3: use 4")), "x is 3: use 4"),
        (InstantiationException("in call to Y:\n  TypeError"), "in call to Y: TypeError"),
        (chained(InstantiationException("a"), OmegaConfBaseException("b\nc")), "a b c"),
        (
            PermissionError(13, "Permission denied", "out"),
            "cannot use out: Permission denied; check its permissions or choose another path",
        ),
        (
            OSError(28, "No space left on device", "out"),
            "cannot use out: No space left on device; free some space or choose another path",
        ),
    ],
)
def test_one_line(error, line):
    assert one_line(error) == line


def refuse(error):
    raise error


@pytest.mark.parametrize(
    ("node", "line"),
    [
        ({"root": "???"}, "data.root must be given: data.root=VALUE"),
        ({"root": "${nope}"}, "data.root: Interpolation key 'nope' not found"),
        (
            {"_target_": "ctkd_lightning.CosineCurriculum", "rate": 1},
            "data: cannot make CosineCurriculum: CosineCurriculum.__init__() got an unexpected keyword argument 'rate'",
        ),
        (
            {"_target_": "tests.test_cli.refuse", "error": {"_target_": "builtins.KeyError", "_args_": ["x"]}},
            "data: cannot make refuse: KeyError: 'x'",
        ),
        (
            {"_target_": "tests.test_cli.nope"},
            "data: Error loading 'tests.test_cli.nope': ModuleNotFoundError(\"No module named 'tests.test_cli.nope'; "
            "'tests.test_cli' is not a package\") Are you sure that 'nope' is importable from module 'tests.test_cli'?",
        ),
    ],
)
def test_what_a_configuration_lacks(node, line):
    cfg = OmegaConf.create({"data": node})
    with pytest.raises((HydraException, OmegaConfBaseException)) as error:
        instantiate(cfg.data) if "_target_" in node else cfg.data.root
    assert one_line(error.value) == line


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
        ("method=kdd", "error: Could not find 'method/kdd': did you mean kd or kdsvd or rkd? Valid: ab, at, cc,"),
        ("method=[at,kdd]", "error: Could not find 'method/kdd': did you mean kd or kdsvd or rkd? Valid: ab, at, cc,"),
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


def test_help_lists_groups_and_examples():
    command = [sys.executable, "-m", "ctkd_lightning.run", "--help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    temperatures = ", ".join(sorted(path.stem for path in Path(ROOT, "conf", "temperature").glob("*.yaml")))
    for text in (f"temperature: {temperatures}", "wrn40_2_to_wrn16_2", "max_epochs: 12", "Examples:"):
        assert text in shown
