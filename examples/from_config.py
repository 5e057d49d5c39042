"""The objects of the command line in a script of one's own, from the same configuration.

    python examples/from_config.py [overrides, as of python -m ctkd_lightning.run]

An earlier run's objects come from ``build.config(run="outputs/DATE/TIME")``.
"""

import sys

from ctkd_lightning import build
from ctkd_lightning.job import ready_teacher


def main(*overrides: str) -> float:
    """Distil, and return the student's validation accuracy in percent."""
    cfg = build.config(*overrides)
    data = build.data(cfg)
    teacher, student = build.networks(cfg, data)
    module = build.module(cfg, teacher, student, data)
    trainer = build.trainer(cfg)

    ready_teacher(cfg, teacher, data)  # found in the cache, or trained; not needed with teacher.checkpoint=FILE
    trainer.fit(module, datamodule=data)
    return float(trainer.callback_metrics["val/top1"])


if __name__ == "__main__":
    print(f"validation top-1 {main(*sys.argv[1:]):.2f} %")
