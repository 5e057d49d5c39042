import os
import subprocess
import sys
from pathlib import Path

import pytest

from ctkd_lightning.errors import UserError
from ctkd_lightning.job.configuration import compose
from ctkd_lightning.storing.settings import read_settings

ROOT = Path(__file__).parents[2]


@pytest.fixture
def given(tmp_path):
    (tmp_path / "tokens.npy").touch()
    return [f"tokens={tmp_path}/tokens.npy", f"output={tmp_path}/store", "teacher=model"]


def test_defaults(given, tmp_path):
    settings = read_settings(compose(given, "store"))
    assert (settings.teacher, settings.tokens, settings.output) == (
        "model",
        tmp_path / "tokens.npy",
        tmp_path / "store",
    )
    assert (settings.tolerance, settings.top, settings.rank, settings.batch_size) == (0.03, 16, None, 8)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("teacher=3", "teacher must be a model, found 3"),
        ("tokens=text.txt", "ends in .npy or .safetensors, found text.txt"),
        ("tokens=none.npy", "none.npy is not there"),
        ("tolerance=0", "tolerance must be a finite number above 0"),
        ("top=1.5", "top must be a whole number from 0"),
        ("top=null", "top must be a whole number from 0"),
        ("rank=0", "rank must be a whole number from 1"),
        ("batch_size=0", "batch_size must be a whole number from 1"),
        ("device=tpu", "device must be auto, cpu, cuda, found tpu"),
    ],
)
def test_what_cannot_be(given, override, message):
    with pytest.raises(UserError, match=message):
        read_settings(compose([*given, override], "store"))


def test_an_output_that_is_a_file(given, tmp_path):
    with pytest.raises(UserError, match=r"tokens\.npy is a file: give a folder"):
        read_settings(compose([*given, f"output={tmp_path}/tokens.npy"], "store"))


def test_help_and_errors_of_settings_come_before_torch(given):
    program = (
        "import sys\nfrom ctkd_lightning.store import main\n"
        "try:\n    main()\nexcept SystemExit as stopped:\n    print(stopped.code)\n"
        "print('loaded:', sorted({'torch', 'lightning'} & set(sys.modules)))"
    )
    for arguments, said in ((["--help"], "teacher=MODEL"), ([*given, "top=-1"], "error: top must be a whole number")):
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert said in done.stdout
        assert "loaded: []" in done.stdout
