"""Networks by name, and their weights."""

from ctkd_lightning.models._factory import available_models, create_model, pretrained_classes
from ctkd_lightning.models._student import StudentDescription, describe_student, load_student, save_student
from ctkd_lightning.models._weights import fingerprint, load_weights, read_state_dict, save_weights, serialized_size
from ctkd_lightning.models.detectors import available_detectors, create_detector
from ctkd_lightning.models.encoders import SeriesEncoder, VectorEncoder
from ctkd_lightning.models.language_model import LanguageModel, create_language_model
from ctkd_lightning.models.segmenters import SmallSegmenter, available_segmenters, create_segmenter

__all__ = [
    "LanguageModel",
    "SeriesEncoder",
    "SmallSegmenter",
    "StudentDescription",
    "VectorEncoder",
    "available_detectors",
    "available_models",
    "available_segmenters",
    "create_detector",
    "create_language_model",
    "create_model",
    "create_segmenter",
    "describe_student",
    "fingerprint",
    "load_student",
    "load_weights",
    "pretrained_classes",
    "read_state_dict",
    "save_student",
    "save_weights",
    "serialized_size",
]
