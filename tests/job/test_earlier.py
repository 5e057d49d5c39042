import json
from pathlib import Path

import pytest

from ctkd_lightning.errors import UserError
from ctkd_lightning.job.earlier import need_student, read_run


def test_a_run_that_has_ended(command):
    command("run_dir=run", "seed=3")
    earlier = read_run("run")
    assert earlier.configuration.seed == earlier.summary.seed == 3
    assert need_student(earlier).student.name == "resnet8"
    Path("run").rename("elsewhere")
    assert read_run("elsewhere").configuration.run_dir == "elsewhere"


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda run: (run / "summary.json").write_text("{"), "summary.json is damaged"),
        (lambda run: (run / "summary.json").unlink(), "summary.json is missing"),
        (lambda run: (run / ".hydra/config.yaml").unlink(), "is no run's folder"),
        (lambda run: run.rename("gone"), "no folder at run"),
        (lambda run: set_status(run, "student"), "is going on, or was killed"),
    ],
)
def test_what_cannot_be_read(command, break_it, message):
    command("run_dir=run")
    break_it(Path("run"))
    with pytest.raises(UserError, match=message):
        read_run("run")


def set_status(run, status):
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"status": status}))


def test_a_run_without_a_student(command):
    command("run_dir=run")
    Path("run/student.safetensors").unlink()
    with pytest.raises(UserError, match="without a student"):
        need_student(read_run("run"))
