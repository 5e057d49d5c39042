"""Detectors: what a student scores in its own forward pass, and what a teacher says of the same places."""

from ctkd_lightning.detection.box_kd import BoxKD, box_kd_loss
from ctkd_lightning.detection.detector import Detector
from ctkd_lightning.detection.find import find_detector
from ctkd_lightning.detection.output import DetectorOutput
from ctkd_lightning.detection.pair import DetectorPair
from ctkd_lightning.detection.tap import DetectorTap

__all__ = ["BoxKD", "Detector", "DetectorOutput", "DetectorPair", "DetectorTap", "box_kd_loss", "find_detector"]
