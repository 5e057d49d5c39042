"""The temperature of a distillation for which the user names none."""

from __future__ import annotations

import warnings

from torch import nn

from ctkd_lightning.temperature import GlobalTemperature
from ctkd_lightning.tokens.vocabulary import vocabulary_size


def default_temperature(student: nn.Module | None, *, detects: bool = False) -> GlobalTemperature:
    """CTKD's learned temperature, in the range that goes with what the student scores; says so where it is another.

    Args:
        student: ``None`` where it is not known.
        detects: whether it is a detector.
    """
    if detects:
        warnings.warn(
            "the student is a detector, and no temperature is given: it is learned in [0.5, 2.5] from 1 "
            "(GlobalTemperature.for_detectors()), not in [1, 21] from 15.6 as for images; name another with "
            "temperature=",
            stacklevel=3,
        )
        return GlobalTemperature.for_detectors()
    tokens = None if student is None else vocabulary_size(student)
    if tokens is None:
        return GlobalTemperature()
    warnings.warn(
        f"the student scores a vocabulary of {tokens} tokens, and no temperature is given: it is learned in [1, 5] "
        "from 1.2 (GlobalTemperature.for_tokens()), not in [1, 21] from 15.6 as for images; name another with "
        "temperature=",
        stacklevel=3,
    )
    return GlobalTemperature.for_tokens()
