"""The name under which version 0.1 had :func:`read_image`."""

from ctkd_lightning.data._image_files import read_image

__all__ = ["read_image"]
