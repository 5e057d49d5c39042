"""Images for training and evaluation."""

from ctkd_lightning.data.base import ImageDataModule
from ctkd_lightning.data.batch import Batch
from ctkd_lightning.data.cifar import CIFAR10, CIFAR100
from ctkd_lightning.data.digits import Digits
from ctkd_lightning.data.fake import Fake
from ctkd_lightning.data.image_folder import ImageFolder
from ctkd_lightning.data.imagenet import ImageNet
from ctkd_lightning.data.tiny_imagenet import TinyImageNet

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "Batch",
    "Digits",
    "Fake",
    "ImageDataModule",
    "ImageFolder",
    "ImageNet",
    "TinyImageNet",
]
