"""Images for training and evaluation."""

from ctkd_lightning.data.base import ImageDataModule
from ctkd_lightning.data.batch import Batch
from ctkd_lightning.data.digits import Digits
from ctkd_lightning.data.fake import Fake
from ctkd_lightning.data.image_folder import ImageFolder

__all__ = ["Batch", "Digits", "Fake", "ImageDataModule", "ImageFolder"]
