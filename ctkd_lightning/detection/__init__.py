"""Detectors: what a student scores in its own forward pass, and what a teacher says of the same places."""

from ctkd_lightning.detection.detector import Detector
from ctkd_lightning.detection.find import find_detector
from ctkd_lightning.detection.output import DetectorOutput
from ctkd_lightning.detection.pair import DetectorPair
from ctkd_lightning.detection.tap import DetectorTap

__all__ = ["Detector", "DetectorOutput", "DetectorPair", "DetectorTap", "find_detector"]
