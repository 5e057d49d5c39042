"""What is to be said of a run's student where it is taken away."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from ctkd_lightning.data import ImageDataModule
from ctkd_lightning.job.configuration import plain
from ctkd_lightning.job.summary import package_version
from ctkd_lightning.models import StudentDescription
from ctkd_lightning.models._factory import options_without_download


def describe(
    cfg: DictConfig, data: ImageDataModule, final: dict[str, float], *, normalize: bool = False
) -> StudentDescription:
    """The student of a run.

    Args:
        cfg: the run's configuration.
        data: the run's.
        final: the last values of λ and τ by metric name.
        normalize: whether the network in the file normalises its images itself.
    """
    student: dict[str, Any] = plain(cfg.model.student)
    name = student.pop("name")
    return StudentDescription(
        network=name,
        options=options_without_download(name, **student),
        classes=list(data.class_names),
        image_size=data.image_size,
        mean=list(data.mean),
        std=list(data.std),
        normalize=normalize,
        temperature=_temperature(final),
        version=package_version("ctkd-lightning") or "",
    )


def _temperature(final: dict[str, float]) -> float | dict[str, float] | None:
    """τ at the end: one (of one a sample the mean), or several by name."""
    several = {name.rpartition("/")[2]: value for name, value in final.items() if name.startswith("ctkd/temperature/")}
    return several or final.get("ctkd/temperature")
