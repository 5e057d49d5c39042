"""Images, images with boxes, samples of several modalities and texts, for training and evaluation."""

from typing import TYPE_CHECKING

from ctkd_lightning._lazy import lazy_names

if TYPE_CHECKING:
    from ctkd_lightning.data._base import ImageDataModule
    from ctkd_lightning.data._detection import DetectionDataModule
    from ctkd_lightning.data._loading.batch import Batch
    from ctkd_lightning.data._maps import SegmentationDataModule
    from ctkd_lightning.data._multimodal import MultimodalDataModule
    from ctkd_lightning.data._samples import Samples
    from ctkd_lightning.data._tokens import TokenDataModule
    from ctkd_lightning.data.cifar import CIFAR10, CIFAR100
    from ctkd_lightning.data.coco import Coco
    from ctkd_lightning.data.digit_masks import DigitMasks
    from ctkd_lightning.data.digit_scenes import DigitScenes
    from ctkd_lightning.data.digit_views import DigitViews
    from ctkd_lightning.data.digits import Digits
    from ctkd_lightning.data.fake import Fake
    from ctkd_lightning.data.image_folder import ImageFolder
    from ctkd_lightning.data.imagenet import ImageNet
    from ctkd_lightning.data.six_views import SixViews
    from ctkd_lightning.data.stdlib_tokens import StdlibTokens
    from ctkd_lightning.data.text_files import TextFiles
    from ctkd_lightning.data.tiny_imagenet import TinyImageNet
    from ctkd_lightning.data.watch_sensors import WatchSensors

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "Batch",
    "Coco",
    "DetectionDataModule",
    "DigitMasks",
    "DigitScenes",
    "DigitViews",
    "Digits",
    "Fake",
    "ImageDataModule",
    "ImageFolder",
    "ImageNet",
    "MultimodalDataModule",
    "Samples",
    "SegmentationDataModule",
    "SixViews",
    "StdlibTokens",
    "TextFiles",
    "TinyImageNet",
    "TokenDataModule",
    "WatchSensors",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "CIFAR10": "ctkd_lightning.data.cifar",
        "CIFAR100": "ctkd_lightning.data.cifar",
        "Batch": "ctkd_lightning.data._loading.batch",
        "Coco": "ctkd_lightning.data.coco",
        "DetectionDataModule": "ctkd_lightning.data._detection",
        "DigitMasks": "ctkd_lightning.data.digit_masks",
        "DigitScenes": "ctkd_lightning.data.digit_scenes",
        "DigitViews": "ctkd_lightning.data.digit_views",
        "Digits": "ctkd_lightning.data.digits",
        "Fake": "ctkd_lightning.data.fake",
        "ImageDataModule": "ctkd_lightning.data._base",
        "ImageFolder": "ctkd_lightning.data.image_folder",
        "ImageNet": "ctkd_lightning.data.imagenet",
        "MultimodalDataModule": "ctkd_lightning.data._multimodal",
        "SegmentationDataModule": "ctkd_lightning.data._maps",
        "Samples": "ctkd_lightning.data._samples",
        "SixViews": "ctkd_lightning.data.six_views",
        "StdlibTokens": "ctkd_lightning.data.stdlib_tokens",
        "TextFiles": "ctkd_lightning.data.text_files",
        "TokenDataModule": "ctkd_lightning.data._tokens",
        "TinyImageNet": "ctkd_lightning.data.tiny_imagenet",
        "WatchSensors": "ctkd_lightning.data.watch_sensors",
    },
)
