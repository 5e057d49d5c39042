"""Lightning callbacks."""

from typing import TYPE_CHECKING, Any

from ctkd_lightning._lazy import lazy_names

if TYPE_CHECKING:
    from ctkd_lightning.callbacks.curriculum import CurriculumTemperatureCallback
    from ctkd_lightning.callbacks.finite import FiniteSteps
    from ctkd_lightning.callbacks.progress import EpochLines, ProgressBar, TQDMBar

__all__ = ["CurriculumTemperatureCallback", "EpochLines", "FiniteSteps", "ProgressBar", "TQDMBar"]

_find, __dir__ = lazy_names(
    __name__,
    {
        "CurriculumTemperatureCallback": "ctkd_lightning.callbacks.curriculum",
        "EpochLines": "ctkd_lightning.callbacks.progress",
        "FiniteSteps": "ctkd_lightning.callbacks.finite",
        "ProgressBar": "ctkd_lightning.callbacks.progress",
        "TQDMBar": "ctkd_lightning.callbacks.progress",
    },
)


def __getattr__(name: str) -> Any:
    found = _find(name)
    if name == "CurriculumTemperatureCallback":
        # Each time: a command line looks at the class's bases before it makes a callback.
        from ctkd_lightning.callbacks._distributions import join_distributions

        join_distributions()
    return found
