"""Whatever shapes, types, scales, masks and temperatures meet: no loss and no gradient is ever NaN or infinite."""

import math
import os

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctkd_lightning.errors import UserError
from tests.methods.settings import SETTINGS, example

TRIES = int(os.environ.get("CTKD_TRIES", 12))
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
FILLS = (-math.inf, "least", -1e4)


@st.composite
def scales(draw, low, high):
    return 10.0 ** draw(st.floats(low, high, allow_nan=False))


@st.composite
def cases(draw):
    dtype = draw(st.sampled_from(DTYPES))
    half = dtype is torch.float16
    return {
        "example": {
            "batch": draw(st.integers(0, 6)),
            "classes": draw(st.integers(1, 9)),
            "logits_scale": draw(scales(-6, 3 if half else 4)),
            "features_scale": draw(scales(-1, 1) if half else scales(-6, 3)),
            "dtype": dtype,
            "same_shapes": draw(st.booleans()),
        },
        "temperature": draw(st.lists(scales(-2, 3), min_size=6, max_size=6)),
        "one_temperature": draw(st.booleans()),
        "fill": draw(st.sampled_from(FILLS)),
        "masked": draw(st.lists(st.lists(st.booleans(), min_size=9, max_size=9), min_size=6, max_size=6)),
        "masks": draw(st.sampled_from(("none", "of all samples", "of each sample"))),
        "same": draw(st.booleans()),
    }


def outputs(name, case):
    """The example that a case says, with at least the target's class left."""
    made = example(SETTINGS[name], **case["example"])
    batch, classes = made.student.logits.shape
    made.target = made.target % classes
    if case["same"] and case["example"]["same_shapes"]:
        made.teacher.logits.copy_(made.student.logits.detach())
    tau = torch.tensor(case["temperature"][:batch])[:, None]
    made.temperature = (tau[:1].mean() if case["one_temperature"] and batch else tau).clone().requires_grad_()
    masked = torch.tensor(case["masked"])[:batch, :classes]
    if case["masks"] == "of all samples":
        masked = masked[:1].expand(batch, classes)
    if case["masks"] != "none" and batch:
        kept = torch.zeros(batch, classes, dtype=torch.bool)
        kept[torch.arange(batch), made.target] = True
        if case["masks"] == "of all samples":
            kept = kept.any(dim=0, keepdim=True)
        dtype = made.student.logits.dtype
        fill = torch.finfo(dtype).min if case["fill"] == "least" else case["fill"]
        for output in (made.student, made.teacher):
            output.logits.data.masked_fill_(masked & ~kept, fill)
    return made


@pytest.mark.parametrize("name", SETTINGS)
@settings(
    max_examples=TRIES, deadline=None, derandomize="CTKD_TRIES" not in os.environ, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(case=cases())
def test_finite(name, case):
    made = outputs(name, case)
    try:
        method = made.built(SETTINGS[name])
        loss = made.loss(method)
    except UserError:
        return
    assert loss.isfinite()
    if loss.requires_grad:
        assert all(gradient.isfinite().all() for gradient in made.gradients(loss, method))
