"""A search of settings: the trials of an Optuna study as jobs of a sweep, kept in the sweep's folder."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Transformer
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import OmegaConf

from ctkd_lightning.errors import UserError, check_number
from ctkd_lightning.job.measures import MEASURES
from ctkd_lightning.job.sweep import tell

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

log = logging.getLogger(__name__)

_OF = "search"  # the study's attribute that says what it searches


class Search:
    """A study, which goes on where an earlier process of it ended.

    Trials that were running then run again, with their settings and in their folders. No trial is pruned, and none that
    failed is tried again.

    Args:
        folder: the sweep's, with a job's folder for each trial, ``study.db`` and ``optimization_results.yaml``.
        objective: by its keys in ``summary.json``.
        direction: ``"maximize"`` or ``"minimize"`` it.
        n_trials: of the whole search.
        n_jobs: trials at once.
        sampler: makes one of Optuna's, for each trial, from ``seed=``.
        seed: of the sampler. A search one trial at a time draws the same trials whether or not it was stopped.

    Raises:
        UserError: settings that make no search, or Optuna is not installed.
    """

    def __init__(
        self,
        folder: str | Path,
        objective: str,
        direction: str,
        n_trials: int,
        n_jobs: int,
        sampler: Callable[..., BaseSampler],
        seed: int,
    ) -> None:
        try:
            import optuna
        except ModuleNotFoundError as error:
            raise UserError(
                "hparams_search=optuna needs a package that is not installed: pip install 'ctkd-lightning[optuna]'"
            ) from error
        if direction not in ("maximize", "minimize"):
            raise UserError(f"hydra.sweeper.direction must be maximize or minimize, found {direction}")
        less = [m.name for measures in MEASURES.values() for m in measures if m.less_is_better]
        if direction == "maximize" and objective.rpartition(".")[2] in less:
            raise UserError(
                f"objective={objective}: of that less is better, and the search makes the most of it: set "
                "hydra.sweeper.direction=minimize"
            )
        check_number("hydra.sweeper.n_trials", n_trials, least=1, whole=True)
        check_number("hydra.sweeper.n_jobs", n_jobs, least=1, whole=True)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.optuna, self.folder, self.objective, self.direction = optuna, Path(folder), objective, direction
        self.n_trials, self.n_jobs, self.sampler, self.seed = n_trials, n_jobs, sampler, seed

    def run(self, arguments: Sequence[str], launcher: Launcher) -> None:
        """Run the trials that the study still lacks.

        Args:
            arguments: the command line's overrides: what is searched, and what is the same for all trials.
            launcher: of the jobs.

        Raises:
            UserError: nothing is searched, or the folder has another search.
        """
        space, fixed = _split(arguments, self.optuna.distributions)
        study = self._study(space, fixed)
        for trial in study.trials:
            if trial.state.is_finished():
                tell(self.folder, trial.number, "" if self._complete(trial) else "it failed in an earlier part")
        while batch := self._next(study, space):
            jobs = [[*(f"{key}={value}" for key, value in trial.params.items()), *fixed] for trial in batch]
            for trial, ended in zip(batch, launcher.launch(jobs, initial_job_idx=batch[0].number), strict=True):
                self._tell(study, trial, ended)
        self._close(study)

    def _study(self, space: Mapping[str, BaseDistribution], fixed: Sequence[str]) -> Study:
        self.folder.mkdir(parents=True, exist_ok=True)
        study = self.optuna.create_study(
            study_name=_OF,
            storage=f"sqlite:///{self.folder / 'study.db'}",
            direction=cast(Any, self.direction),
            load_if_exists=True,
        )
        to_json = self.optuna.distributions.distribution_to_json
        searched = {
            "space": {key: json.loads(to_json(distribution)) for key, distribution in space.items()},
            "fixed": sorted(fixed),
            "objective": self.objective,
            "direction": self.direction,
        }
        before = study.user_attrs.get(_OF)
        if before is None:
            study.set_user_attr(_OF, searched)
        elif before != searched:
            other = [key for key in searched if searched[key] != before[key]]
            raise UserError(
                f"run_dir={self.folder} has a search of another {' and '.join(other)}: go on with its command, "
                "remove study.db there, or give another run_dir"
            )
        return study

    def _next(self, study: Study, space: Mapping[str, BaseDistribution]) -> list[FrozenTrial]:
        """The trials that an earlier part has left, which follow on each other; then new ones."""
        running = self.optuna.trial.TrialState.RUNNING
        left = study.get_trials(deepcopy=False, states=(running,))
        while len(left) < self.n_jobs and len(study.trials) < self.n_trials:
            study.sampler = self.sampler(seed=self.seed + len(study.trials))
            study.ask(dict(space))
            left = study.get_trials(deepcopy=False, states=(running,))
        return left

    def _tell(self, study: Study, trial: FrozenTrial, ended: JobReturn) -> None:
        value = ended.return_value if ended.status == JobStatus.COMPLETED else None
        if isinstance(value, float) and math.isfinite(value):
            study.tell(trial.number, value)
            return
        study.tell(trial.number, state=self.optuna.trial.TrialState.FAIL)
        log.warning("trial %d has failed: %s is %s", trial.number, self.objective, value)
        tell(self.folder, trial.number, f"{self.objective} is {value}")

    def _complete(self, trial: FrozenTrial) -> bool:
        return bool(trial.state == self.optuna.trial.TrialState.COMPLETE)

    def _close(self, study: Study) -> None:
        complete = [trial for trial in study.trials if self._complete(trial)]
        log.info("Search: %d trials, %d of them failed", len(study.trials), len(study.trials) - len(complete))
        if not complete:
            return
        best = study.best_trial
        settings = ", ".join(f"{key}={value}" for key, value in best.params.items())
        log.info("Best %s: %s in trial %d, with %s", self.objective, best.value, best.number, settings)
        found = {"name": "optuna", "best_params": best.params, "best_value": best.value, "best_trial": best.number}
        OmegaConf.save(OmegaConf.create(found), self.folder / "optimization_results.yaml")


def _split(arguments: Sequence[str], distributions: Any) -> tuple[dict[str, BaseDistribution], list[str]]:
    """What is searched, by key, and the other overrides."""
    parsed = OverridesParser.create().parse_overrides(list(arguments))
    space = {}
    for override in parsed:
        if override.is_sweep_override():
            try:
                space[override.get_key_element()] = _distribution(override, distributions)
            except ValueError as error:
                raise UserError(f"{override.input_line} is nothing to search: {error}") from error
    if not space:
        raise UserError(
            "hparams_search=optuna needs settings to search: give some, as in temperature=fixed,global or "
            "'optimizer.optimizer.lr=tag(log,interval(0.01,0.2))'"
        )
    return space, [str(override.input_line) for override in parsed if not override.is_sweep_override()]


def _distribution(override: Override, distributions: Any) -> BaseDistribution:
    value = override.value()
    if isinstance(value, IntervalSweep):
        whole = isinstance(value.start, int) and isinstance(value.end, int)
        kind = distributions.IntDistribution if whole else distributions.FloatDistribution
        return kind(value.start, value.end, log="log" in value.tags)
    if isinstance(value, RangeSweep) and not value.shuffle:
        choices = list(value.range())
        whole = all(isinstance(number, int) for number in choices)
        kind = distributions.IntDistribution if whole else distributions.FloatDistribution
        return kind(min(choices), max(choices), step=abs(value.step))
    return distributions.CategoricalDistribution(list(override.sweep_iterator(transformer=Transformer.encode)))
