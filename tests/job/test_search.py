"""A search by Optuna: each trial once, whatever stops it."""

import os
import signal
from collections import Counter
from pathlib import Path

import pytest
from lightning.pytorch import Callback

from ctkd_lightning.errors import UserError
from ctkd_lightning.job.objective import read_objective
from ctkd_lightning.job.run_directory import RunDirectory
from tests.processes import FORK

optuna = pytest.importorskip("optuna")

SPACE = "optimizer.optimizer.lr=tag(log,interval(0.01,0.2))"


class Note(Callback):
    """The trainings in a file; one ends early, at its first or second batch."""

    def __init__(self, job, stop=None, fail=None):
        self.job, self.stop, self.fail = job, stop, fail

    def on_train_start(self, trainer, module):
        with open("trainings", "a") as file:
            file.write(f"{self.job}\n")
        if self.job == self.fail:
            raise UserError("as the test has it")

    def on_train_batch_start(self, trainer, module, batch, number):
        if self.job == self.stop and number == 1 and trainings()[self.job] == 1:
            os.kill(os.getpid(), signal.SIGKILL)


def trainings():
    return Counter(map(int, Path("trainings").read_text().split()))


@pytest.fixture
def search(command):
    def call(folder="search", space=SPACE, n_trials=6, **note):
        settings = "".join(f", {key}: {value}" for key, value in note.items())
        node = f"{{_target_: tests.job.test_search.Note, job: '${{hydra:job.num}}'{settings}}}"
        command(
            "-m",
            "hparams_search=optuna",
            f"run_dir={folder}",
            space,
            f"hydra.sweeper.n_trials={n_trials}",
            "method=none",
            "data.test_size=8",
            "progress=none",
            f"+callbacks.note={node}",
        )

    return call


def trials(folder="search"):
    return optuna.load_study(study_name="search", storage=f"sqlite:///{folder}/study.db").trials


@pytest.mark.slow
def test_killed_and_gone_on_with(search):
    killed = FORK.Process(target=search, kwargs={"stop": 2})
    killed.start()
    killed.join(120)
    assert killed.exitcode == -signal.SIGKILL
    assert [trial.state.name for trial in trials()] == ["COMPLETE", "COMPLETE", "RUNNING"]
    search(stop=2)
    assert trainings() == {0: 1, 1: 1, 2: 2, 3: 1, 4: 1, 5: 1}
    found = trials()
    assert [trial.state.name for trial in found] == ["COMPLETE"] * 6
    assert [trial.value for trial in found] == [
        read_objective(RunDirectory(f"search/{n}"), "best.top1") for n in range(6)
    ]
    assert len({trial.params["optimizer.optimizer.lr"] for trial in found}) == 6
    search("whole", stop=9)  # another sixth would be drawn if the search knew less of the first five
    assert [trial.params for trial in trials("whole")] == [trial.params for trial in found]


def test_a_trial_that_fails_is_counted_each_time(search):
    for _ in range(2):
        with pytest.raises(SystemExit) as stopped:
            search(n_trials=3, fail=1)
        assert stopped.value.code == "error: 1 of 3 jobs failed: 1; see their lines above"
        assert [trial.state.name for trial in trials()] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert trainings() == {0: 1, 1: 1, 2: 1}


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            "optimizer.optimizer.lr=interval(0.01,0.3)",
            "run_dir=.* has a search of another space: go on with its command",
        ),
        ("seed=3", "needs settings to search"),
        ("optimizer.optimizer.lr=interval(0.3,0.01)", "is nothing to search: "),
    ],
)
def test_no_search(search, space, message):
    search(n_trials=1)
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        search(space=space)
    assert trainings() == {0: 1}


def test_the_space_is_hydras():
    from ctkd_lightning.job.search import _split

    space, fixed = _split(
        ["a=interval(1,4)", "b=int(interval(1,4))", "c=range(1,10,3)", "d=x,y", "+e=[1,2]", "f=tag(log,interval(1,8))"],
        optuna.distributions,
    )
    assert space == {
        "a": optuna.distributions.FloatDistribution(1, 4),
        "b": optuna.distributions.IntDistribution(1, 4),
        "c": optuna.distributions.IntDistribution(1, 7, step=3),
        "d": optuna.distributions.CategoricalDistribution(["x", "y"]),
        "f": optuna.distributions.FloatDistribution(1, 8, log=True),
    }
    assert fixed == ["+e=[1,2]"]


def test_the_objective_is_a_number_of_the_summary(command, tmp_path):
    run = RunDirectory(tmp_path)
    run.summary.write_text('{"best": {"top1": 61.5}, "final": {"ctkd/temperature": 4}, "status": "complete"}')
    assert read_objective(run, "best.top1") == 61.5
    assert read_objective(run, "final.ctkd/temperature") == 4.0
    assert read_objective(run, "status") is read_objective(run, "final.loss") is None
    with pytest.raises(SystemExit, match=r"objective=bset\.top1 is no number of summary\.json: did you mean best"):
        command("objective=bset.top1")


@pytest.mark.parametrize("objective", ["best.nats", "student.bits"])
def test_a_loss_is_not_made_the_most_of(tmp_path, objective):
    from ctkd_lightning.job.search import Search

    settings = {"n_trials": 1, "n_jobs": 1, "sampler": None, "seed": 1}
    with pytest.raises(UserError, match=f"objective={objective}: .*hydra.sweeper.direction=minimize"):
        Search(tmp_path, objective, direction="maximize", **settings)
    Search(tmp_path, objective, direction="minimize", **settings)
    Search(tmp_path, "best.top1", direction="maximize", **settings)
