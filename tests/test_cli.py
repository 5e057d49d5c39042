import subprocess
import sys
from pathlib import Path

import pytest
from hydra.errors import InstantiationException
from omegaconf.errors import OmegaConfBaseException

from ctkd_lightning.cli import config_dir, explained, one_line
from ctkd_lightning.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


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
        (PermissionError(13, "Permission denied", "out"), "cannot use out: Permission denied; choose another"),
    ],
)
def test_one_line(error, line):
    assert one_line(error).startswith(line)
    assert "\n" not in one_line(error)


def test_bugs_are_not_explained_away():
    with pytest.raises(KeyError), explained():
        raise KeyError("a bug")


def test_help_lists_groups_and_examples():
    command = [sys.executable, "-m", "ctkd_lightning.run", "--help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for text in ("temperature: fixed, global, instance", "wrn40_2_to_wrn16_2", "max_epochs: 12", "Examples:"):
        assert text in shown
