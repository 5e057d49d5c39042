"""Does a detector's temperature matter? Seven ways to train a small Faster R-CNN on digit scenes, on one footing.

    python -m benchmarks.detection [--seeds N] [--arms …]     what the file of results does not hold yet
    python -m benchmarks.detection --table                    what is known, into docs/detectors.md

The settings are those of ``experiment=detection_digits``: 600 scenes, 8 epochs of 75 steps. The teacher is trained
once, on one core for some minutes, and kept as teachers are. A run that the file holds is not repeated: an interrupted
command is started again. Each line is one run, and the table is made of those lines alone.

The protocol, fixed before the first run:

- What counts is the average precision on the 200 test scenes after the last epoch, mAP (over IoU from 0.50 to 0.95) and
  AP50. Nothing is chosen by them; there is no validation.
- All arms of a seed start from the same student and see the same scenes in the same order.
- The detector's own losses have weight 1. Distillation is of the scores of the student's proposals; its weight is 1 or
  3. The learned temperature starts at 1 and stays between 0.5 and 2.5.
- Boxes and attention have the weights of their configurations, 1 and 1000; no other was tried.
- Differences are to the student alone, paired by seed, with Student's interval at 95 %.
"""

from __future__ import annotations

from benchmarks.task_study import ROOT, TaskStudy
from ctkd_lightning.job.measures import MEASURES

_KD = "method.terms.kd.weight"
_FIXED = ("temperature=fixed", "temperature.tau=1")
_LAYERS = tuple(
    f"{side}_layers={{stage1: backbone.0, stage2: backbone.1, stage3: backbone.2}}" for side in ("student", "teacher")
)
STUDY = TaskStudy(
    name="detection",
    experiment="detection_digits",
    arms={
        "alone": ("method=none",),
        "fixed 1, weight 1": (*_FIXED, f"{_KD}=1"),
        "fixed 1, weight 3": (*_FIXED, f"{_KD}=3"),
        "learned from 1, weight 3": ("temperature=global_near_one", f"{_KD}=3"),
        "learned from 1, weight 1": ("temperature=global_near_one", f"{_KD}=1"),
        "fixed 1, weight 1, boxes": (*_FIXED, f"{_KD}=1", "method=[kd_detection,box_kd]"),
        "fixed 1, weight 1, attention": (*_FIXED, f"{_KD}=1", "method=[kd_detection,at]", *_LAYERS),
    },
    reference="alone",
    compared=tuple((f"learned from 1, weight {weight}", f"fixed 1, weight {weight}") for weight in (1, 3)),
    measures=MEASURES["detection"],
    page=ROOT / "docs" / "detectors.md",
)

if __name__ == "__main__":
    STUDY.main(__doc__)
