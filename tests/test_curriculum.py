import json
import math
from pathlib import Path

import pytest

from ctkd_lightning import ConstantCurriculum, CosineCurriculum, LinearCurriculum
from ctkd_lightning.errors import UserError

BY_EPOCH_FROM_1 = json.loads((Path(__file__).parent / "temperature" / "golden.json").read_text())[
    "lambda_by_epoch_from_1"
]


def test_cosine_equals_the_authors_code_shifted_by_one_epoch():
    paper, code = CosineCurriculum(), CosineCurriculum(first_epoch=1)
    for epoch, expected in enumerate(BY_EPOCH_FROM_1):
        assert paper(epoch) == pytest.approx(expected, abs=1e-15)
        if epoch > 0:
            assert code(epoch - 1) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("kind", [CosineCurriculum, LinearCurriculum])
@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (0.2, 0.7), (1.0, 0.0)])
def test_ramps_meet_their_ends_exactly_and_are_monotonic(kind, start, end):
    curriculum = kind(epochs=7, start=start, end=end)
    values = [curriculum(step / 10) for step in range(200)]
    assert values[0] == start
    assert curriculum(7) == curriculum(1000) == end
    assert values == sorted(values, reverse=end < start)
    assert all(0.0 <= value <= 1.0 for value in values)


def test_shapes():
    assert LinearCurriculum(epochs=10)(3) == pytest.approx(0.3)
    assert CosineCurriculum(epochs=10)(2.5) == pytest.approx(0.5 - math.cos(math.pi / 4) / 2)
    assert CosineCurriculum(epochs=10)(5) == pytest.approx(0.5)
    assert ConstantCurriculum(0.4)(0) == ConstantCurriculum(0.4)(99) == 0.4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CosineCurriculum(epochs=0), "curriculum's epochs must be a finite number above 0, found 0"),
        (lambda: CosineCurriculum(epochs=-3), "epochs must be a finite number above 0, found -3"),
        (lambda: LinearCurriculum(epochs=math.inf), "epochs must be a finite number above 0, found inf"),
        (lambda: LinearCurriculum(epochs="10"), "epochs must be a finite number above 0, found '10'"),
        (lambda: ConstantCurriculum("1"), "curriculum's value must be a finite number, found '1'"),
        (lambda: LinearCurriculum(start=-0.1), "start must be between 0 and 1, found -0.1"),
        (lambda: LinearCurriculum(end=1.1), "end must be between 0 and 1, found 1.1"),
        (lambda: LinearCurriculum(first_epoch=-1), "first_epoch must be a finite number from 0, found -1"),
        (lambda: ConstantCurriculum(2.0), "value must be between 0 and 1, found 2.0"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(UserError, match=message):
        make()
