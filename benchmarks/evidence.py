"""Which temperature should a user take? Every one of them on one footing.

    python -m benchmarks.evidence --study temperatures --data DIR --teacher FILE [--stage 1|2] [--seeds N] [--arms …]
    python -m benchmarks.evidence --study temperatures --data digits
    python -m benchmarks.evidence --study temperatures --table      what is known, into docs/results.md

``DIR/train`` and ``DIR/test`` hold a folder of images a class. A run that the file of results already holds is not
repeated: an interrupted command is started again. Each line of that file is one run, and the table and the figures are
made of those lines alone.

The protocol, written before the first run (what was changed since, and by what, stands at the end of
``docs/results.md``):

- What counts is the last epoch's accuracy on the test images. Nothing is chosen by them within a stage: no epoch, no
  setting, no arm. There is no validation.
- All arms of a seed start from the same student and see the same images in the same order under the same
  augmentation (``seed`` and ``data.seed`` are the seed); the file says so by a check sum of the student's start.
- The settings of the arms stand in ``benchmarks/evidence_arms.py``: the command's defaults (SGD 0.05, its rate divided
  by ten at 5/8, 6/8 and 7/8, rounded to epochs: 4, 4, 5 of 6, 8, 9, 10 of 12, 10, 12, 14 of 16; λ from 0 to 1 over the
  first 10 epochs; 0.1 CE + 0.9 τ² KL), and for rules the constants and weights of their authors, where they published
  some for a loss of another scale; that file says what is ours. None is tuned here, but that ``transformed``
  diverged at its authors' weight, and ``per_class`` has its third rule. Those that others tuned on CIFAR-100 have that
  advantage over ours. ``Annealing KD`` has no restart of the rate, which these steps do not have,
  and with so few epochs not all of its levels.
- All arms see the same images. ``global, held out`` learns τ from a tenth that stages 1 and 2 leave aside for all,
  4,500 labelled images beside the 10,000 or 20,000; on digits it trains on nine tenths of the others' images.
- Stage 1: all arms, 10,000 training images, 12 epochs, at least 3 seeds. Stage 2: fixed 2.87, fixed 4, the best of
  stage 1's grid of constants, global, its recorded path, cooperative, annealed (10 to 1) and instance; 20,000 images,
  16 epochs, at least 5 seeds. Batch 128; bf16-mixed, tests in float32. The best of the grid is chosen by stage 1's
  test accuracy, on the same test images: the one choice of that kind.
- ``digits``: all arms, 1,347 training images, 6 epochs, λ rising over 4, batch 32, 5 seeds; a check that the whole
  study runs, in minutes.
- Differences are to ``fixed 4``, paired by seed, with Student's interval at 95 %, and p-values of the same test under
  Holm's correction over the stage's arms, from three seeds on. Likewise for the negative log-likelihood, the
  calibration error and the agreement with the teacher.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hydra.utils import instantiate
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn

from benchmarks.evidence_arms import ARMS, GRID, STAGES, Stage, best_of_grid, settings_of
from benchmarks.evidence_table import Run, mean_of, read_runs, report
from benchmarks.quiet import hush
from ctkd_lightning import build
from ctkd_lightning.data import ImageDataModule
from ctkd_lightning.errors import UserError
from ctkd_lightning.job.outputs import RecordingModule
from ctkd_lightning.job.quality import agreement, quality
from ctkd_lightning.job.summary import describe_environment
from ctkd_lightning.job.teacher import ready_teacher
from ctkd_lightning.job.thresholds import fit_temperatures
from ctkd_lightning.job.training import run_test
from ctkd_lightning.modules import DistillationModule

RESULTS = Path(__file__).parent / "results" / "temperatures.jsonl"
PAGE = Path(__file__).parents[1] / "docs" / "results.md"
QUIET = ("logger=[]", "progress=none", "trainer=cpu", "report=false")


class TemperaturePath(Callback):
    """Keeps what each epoch logs of τ."""

    def __init__(self) -> None:
        self.tau: list[float] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take it after the curriculum's callback has logged it."""
        if (tau := trainer.callback_metrics.get("ctkd/temperature")) is not None:
            self.tau.append(float(tau))


class Study:
    """The runs of a stage.

    Args:
        stage: its setting.
        name: under which its lines stand.
        files: where the command line says that data and teacher are.
        options: what else it sets.
        results: the file of lines.
    """

    def __init__(self, stage: Stage, name: str, files: Sequence[str], options: Sequence[str], results: Path) -> None:
        self.stage, self.name, self.files, self.options, self.results = stage, name, files, options, results
        self.teacher_logits: Tensor | None = None

    def runs(self) -> dict[tuple[str, int], Run]:
        """What is done, by arm and seed."""
        return {(run.arm, run.seed): run for run in read_runs(self.results) if run.stage == self.name}

    def do(self, arm: str, seed: int) -> None:
        """Train, test, and write a line; nothing where the file has it."""
        done = self.runs()
        if (arm, seed) in done:
            self._check_same(done[arm, seed])
            return
        if ARMS[arm].replays and ("global", seed) not in done:
            raise SystemExit(f"{arm!r} replays 'global' of seed {seed}: run that arm first")
        if ARMS[arm].replays and (why := done["global", seed].error):
            print(f"{self.name}: {arm}, seed {seed}: left out, 'global' stopped: {why}", flush=True)
            return
        path = done["global", seed].tau if ARMS[arm].replays else []
        about = describe_environment()
        line: dict[str, Any] = {"study": "temperatures", "stage": self.name, "arm": arm, "seed": seed}
        with TemporaryDirectory() as folder:
            settings = [*self.stage.settings, *settings_of(arm, path, Path(folder)), f"seed={seed}"]
            line |= self._train(seed, settings)
        settings += self.options
        line["settings"] = [setting for setting in settings if not setting.startswith("temperature.run=")]
        line["date"] = datetime.now(UTC).date().isoformat()
        line |= {name: about[name] for name in ("versions", "hardware", "git")}
        with self.results.open("a") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        found = line["error"] or f"{line['top1']:.2f} % in {line['seconds']:.0f} s"
        print(f"{self.name}: {arm}, seed {seed}: {found}", flush=True)

    def _check_same(self, run: Run) -> None:
        """Refuse to go on beside runs of other settings.

        Raises:
            SystemExit: naming what differs.
        """
        expected = {*self.stage.settings, *self.options}
        if missing := sorted(expected - set(run.settings)):
            raise SystemExit(
                f"{self.results} has {run.arm!r}, seed {run.seed}, of stage {self.name} without {', '.join(missing)}: "
                "give another file with --results"
            )

    def _train(self, seed: int, settings: Sequence[str]) -> dict[str, Any]:
        cfg = build.config(*QUIET, *settings, *self.options, *self.files)
        data = build.data(cfg)
        teacher, student = build.networks(cfg, data)
        start = check_sum(student)
        ready_teacher(cfg, teacher, data)
        teacher_sum = check_sum(teacher)
        if self.teacher_logits is None:
            self.teacher_logits = _logits(cfg, teacher, data)[0]
        alone = cfg.method.alone
        module = build.student_alone(cfg, student) if alone else build.module(cfg, teacher, student, data)
        path = TemperaturePath()
        callbacks = [path] if alone else [instantiate(cfg.callbacks.curriculum, _convert_="all"), path]
        if isinstance(module, DistillationModule):
            fit_temperatures(module, data)
        seed_everything(seed, workers=True, verbose=False)
        if isinstance(module, DistillationModule):
            folder = Path(cfg.teacher.cache_dir).parent / "teacher_outputs"
            module.cache_teacher(data, folder, precision=str(build.precision(cfg)))
        trainer = build.trainer(cfg, callbacks=callbacks, limit_val_batches=0, enable_checkpointing=False)
        started, error = time.perf_counter(), None
        try:
            trainer.fit(module, datamodule=data)
        except UserError as stopped:
            if "finite" not in str(stopped):
                raise
            error = str(stopped)  # then that is what there is to know of the arm
        found: dict[str, Any] = {"error": error, "tau": [round(tau, 4) for tau in path.tau], "start": start}
        found["teacher"] = teacher_sum
        found["seconds"] = round(time.perf_counter() - started, 1)
        if error is None:
            logits, target = _logits(cfg, student, data)
            measured = quality(logits, target)
            found |= {"top1": measured.top1, "nll": measured.nll, "ece": measured.ece}
            found["agreement"] = agreement(logits, self.teacher_logits).top1
        return found


def _logits(cfg: Any, network: nn.Module, data: ImageDataModule) -> tuple[Tensor, Tensor]:
    """What a network gives for the test images, and their classes."""
    _, tested = run_test(cfg, RecordingModule, network, data)
    return tested.outputs.logits.cpu(), tested.target.cpu()


def check_sum(network: nn.Module) -> str:
    """What tells two starts apart."""
    found = hashlib.sha256()
    for value in network.state_dict().values():
        found.update(value.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def main() -> None:
    """Do what is not done, and show what is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", choices=("temperatures",), default="temperatures")
    parser.add_argument("--data", help="a folder with train/ and test/, or digits")
    parser.add_argument("--teacher", help="the checkpoint of the teacher; without one it is trained once")
    parser.add_argument("--stage", choices=("1", "2"), default="1", help="of a folder's study")
    parser.add_argument("--seeds", type=int, help="how many; those of the protocol by default")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), metavar="ARM", help="some alone")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="of the command, such as trainer=gpu")
    parser.add_argument(
        "--table",
        action="store_true",
        help="run nothing: tables and figures into docs/results.md",
    )
    arguments = parser.parse_args()
    if arguments.table:
        report(arguments.results, PAGE)
        print(PAGE)
        return
    if arguments.data is None:
        parser.error("--data DIR, or --data digits")
    hush("ctkd_lightning")
    name = "digits" if arguments.data == "digits" else arguments.stage
    files = [] if name == "digits" else [f"data.root={arguments.data}"]
    if arguments.teacher:
        files.append(f"teacher.checkpoint={arguments.teacher}")
    stage = STAGES[name]
    arms = arguments.arms or list(stage.arms)
    if name == "2" and not arguments.arms:
        arms = _with_best(arms, read_runs(arguments.results))
    study = Study(stage, name, files, arguments.set, arguments.results)
    for seed in range(1, (arguments.seeds or stage.seeds) + 1):
        for arm in sorted(arms, key=lambda arm: ARMS[arm].replays is not None):  # after what they replay
            study.do(arm, seed)


def _with_best(arms: list[str], runs: Sequence[Run]) -> list[str]:
    """Stage 2's arms, with the best constant of stage 1 after those that are there anyway.

    Raises:
        SystemExit: stage 1 has not been run.
    """
    first = [run for run in runs if run.stage == "1" and run.error is None]
    seeds = [{run.seed for run in first if run.arm == f"fixed {tau:g}"} for tau in GRID]
    if not seeds[0] or any(own != seeds[0] for own in seeds):
        raise SystemExit(
            "stage 2 takes the best constant of stage 1: run all of these there first, with the same seeds"
        )
    best = best_of_grid(mean_of(first, "top1"))
    return arms if best in arms else [*arms, best]


if __name__ == "__main__":
    main()
