"""Checks of a data module's settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctkd_lightning.data._augmentation import RandomResizedCropFlip
from ctkd_lightning.errors import UserError

if TYPE_CHECKING:
    from ctkd_lightning.data._base import ImageDataModule


def check_settings(data: ImageDataModule) -> None:
    """Refuse settings that cannot be.

    Raises:
        UserError: naming the first such setting and what it may be.
    """
    for setting in ("batch_size", "eval_batch_size", "image_size", "resize", "limit_train", "limit_eval"):
        value = getattr(data, setting)
        if value is not None and (not isinstance(value, int) or value < 1):
            raise UserError(f"{setting} must be a whole number of 1 or more, found {value!r}")
    for setting in ("num_workers", "seed"):
        value = getattr(data, setting)
        if not isinstance(value, int) or value < 0:
            raise UserError(f"{setting} must be a whole number of 0 or more, found {value!r}")
    if data.resize < data.image_size:
        raise UserError(f"resize={data.resize} is below image_size={data.image_size}: the crop would need padding")
    _check_normalisation(data.mean, data.std)
    if not 0 <= data.val_size < (1 if isinstance(data.val_size, float) else float("inf")):
        raise UserError(
            f"val_size must be a fraction from 0 to below 1 or a whole number of images, found {data.val_size}"
        )
    if data.in_memory not in (True, False, "auto"):
        raise UserError(f"in_memory must be true, false or auto, found {data.in_memory!r}")
    if data.in_memory is True and isinstance(data.augmentation, RandomResizedCropFlip):
        raise UserError(
            "augmentation=random_resized_crop needs the undecoded images, in_memory=true keeps them at one size: "
            "set in_memory=auto, or augmentation=crop_flip"
        )


def _check_normalisation(mean: list[float], std: list[float]) -> None:
    for setting, values in (("mean", mean), ("std", std)):
        if len(values) != 3:
            raise UserError(f"{setting} needs three values, one a channel, found {values}")
    if min(std) <= 0:
        raise UserError(f"std must be positive in each channel, found {std}")
