"""Networks of timm, where it is installed."""

from __future__ import annotations

from typing import Any

from torch import nn

from ctkd_lightning.errors import UserError, suggest
from ctkd_lightning.models._download import explained_download


def create_timm(name: str, num_classes: int, *, pretrained: bool, in_channels: int, **kwargs: Any) -> nn.Module:
    """Create a network of timm, which itself adapts first and last layer of pretrained weights.

    Args:
        name: one of ``timm.list_models()``, with or without a tag.
        num_classes: size of the output.
        pretrained: load the published weights (of the tag, or timm's first choice).
        in_channels: channels of the image.
        **kwargs: for ``timm.create_model``.

    Raises:
        UserError: timm is not installed, an unknown name or tag, or weights that do not exist or cannot be downloaded.
    """
    try:
        import timm
    except ModuleNotFoundError as error:
        raise UserError(
            f'timm/{name} needs timm, which is not installed: pip install "ctkd-lightning[timm]"'
        ) from error
    with explained_download(f"timm/{name}"):
        try:
            return timm.create_model(
                name, pretrained=pretrained, num_classes=num_classes, in_chans=in_channels, **kwargs
            )
        except RuntimeError as error:
            if not str(error).startswith(("Unknown model", "Invalid pretrained tag", "No pretrained weights")):
                raise
            names = suggest(name, timm.list_models(), "All: timm.list_models()")
            raise UserError(f"timm/{name}: {str(error).rstrip('.')}: {names}") from error


def timm_classes(name: str) -> int | None:
    """How many classes a network's published weights have; ``None`` where there are none."""
    import timm

    cfg = timm.get_pretrained_cfg(name)
    return cfg.num_classes if cfg else None
