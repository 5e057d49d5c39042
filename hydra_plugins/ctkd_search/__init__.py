"""Where Hydra looks for sweepers: the search by Optuna."""

from __future__ import annotations

from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class OptunaSweeper(Sweeper):
    """A sweep whose jobs are the trials of an Optuna study.

    Args:
        **settings: of :class:`ctkd_lightning.job.search.Search`.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.launcher: Launcher

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Make the launcher of the jobs."""
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            config=config, hydra_context=hydra_context, task_function=task_function
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run the trials that the study still lacks."""
        from ctkd_lightning.job.search import Search  # here, since Hydra reads every plug-in at every start

        Search(self.config.hydra.sweep.dir, self.config.objective, **self.settings).run(arguments, self.launcher)
