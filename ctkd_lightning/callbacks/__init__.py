"""Lightning callbacks."""

from typing import TYPE_CHECKING, Any

from ctkd_lightning.callbacks import curriculum, distributions

if TYPE_CHECKING:
    from ctkd_lightning.callbacks.curriculum import CurriculumTemperatureCallback

__all__ = ["CurriculumTemperatureCallback"]


def __getattr__(name: str) -> Any:
    # Asked anew each time: a command line looks at the class's bases before it makes a callback.
    if name == "CurriculumTemperatureCallback":
        distributions.join_distributions()
        return curriculum.CurriculumTemperatureCallback
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
