"""Which distillation serves a segmenter? Ways to train a small U-Net on digit scenes, on one footing.

    python -m benchmarks.segmentation [--seeds N] [--arms …]     what the file of results does not hold yet
    python -m benchmarks.segmentation --table                    what is known, into docs/segmentation.md

The settings are those of ``experiment=segmentation_digits``: 300 scenes of 128 × 128 pixels, 40 epochs of 75 steps. The
teacher is trained once and kept as teachers are.

The protocol, fixed before the first run:

- What counts is the mean intersection over union on the 200 test scenes after the last epoch, and the share of pixels
  whose class is right. Nothing is chosen by them; there is no validation.
- All arms of a seed start from the same student and see the same scenes in the same order.
- Cross-entropy has weight 1; KD a pixel its weight of 0.9, channel-wise distillation of the logits its authors' 3.
- Differences are to the student alone, paired by seed, with Student's interval at 95 %.
"""

from __future__ import annotations

from benchmarks.task_study import ROOT, TaskStudy
from ctkd_lightning.job.measures import MEASURES


def _kd(temperature: str, *settings: str) -> tuple[str, ...]:
    return "method=kd", f"temperature={temperature}", *settings


_NEAR_ONE = "KD, global, [0.5, 2.5] from 1"
STUDY = TaskStudy(
    name="segmentation",
    experiment="segmentation_digits",
    arms={
        "alone": ("method=none",),
        "KD, fixed 1": _kd("fixed", "temperature.tau=1"),
        "KD, fixed 4": _kd("fixed", "temperature.tau=4"),
        _NEAR_ONE: _kd("global_near_one"),
        "KD, global, [1, 21] from 15.6": _kd("global"),
        "KD, instance, one a pixel": _kd("instance"),
        "CWD": ("method=cwd_logits",),
        f"{_NEAR_ONE}, and CWD": (),
    },
    reference="alone",
    compared=((_NEAR_ONE, "KD, fixed 1"), ("KD, fixed 4", "KD, fixed 1"), (f"{_NEAR_ONE}, and CWD", "CWD")),
    measures=MEASURES["segmentation"],
    page=ROOT / "docs" / "segmentation.md",
)

if __name__ == "__main__":
    STUDY.main(__doc__)
