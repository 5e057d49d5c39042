import math

import pytest

from ctkd_lightning.reporting.figures._comparison import Missing
from ctkd_lightning.reporting.figures.temperature import temperature
from tests.reporting.figures.made_up import comparison, drawn, run

TAU, LAMBDA = "ctkd/temperature", "ctkd/lambda"


def test_means_and_ranges_over_seeds_with_lambda_below(tmp_path):
    runs = [
        run(tmp_path, "fixed", series={TAU: [4.0, 4.0]}),
        run(tmp_path, "global", 1, series={TAU: [15.0, 14.0], LAMBDA: [0.0, 0.5]}),
        run(tmp_path, "global", 2, series={TAU: [15.0, 10.0], LAMBDA: [0.0, 0.5]}),
    ]
    picture = temperature(comparison(*runs))
    upper, lower = picture.figure.axes
    assert drawn(upper) == {"kd, fixed τ": ([1, 2], [4, 4]), "kd, global τ": ([1, 2], [15, 12])}
    band = upper.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (10, 15)
    assert drawn(lower) == {"kd, global τ": ([1, 2], [0, 0.5])}
    assert len({line.get_color() for line in upper.lines}) == 2
    assert upper.lines[1].get_color() == lower.lines[0].get_color()
    assert "kd, global τ: τ from 15 in epoch 1 to 12 in epoch 2" in picture.alt
    assert "Mean over 1 to 2 seeds an arm" in picture.caption


def test_a_temperature_for_each_method_and_one_a_sample(tmp_path):
    series = {f"{TAU}/kd": [2.0, 3.0], f"{TAU}/dkd": [30.0, 20.0], f"{TAU}_std": [0.1, 0.1]}
    picture = temperature(comparison(run(tmp_path, series=series)))
    (axes,) = picture.figure.axes
    assert drawn(axes) == {"kd, global τ: kd": ([1, 2], [2, 3]), "kd, global τ: dkd": ([1, 2], [30, 20])}
    assert axes.get_yscale() == "log"
    assert "where each sample has its own" in picture.caption


def test_of_a_rule_it_is_what_the_rule_builds_on(tmp_path):
    rule = run(tmp_path, "normkd", series={TAU: [2.0]}, settings={"temperature": {"base": {"tau": 2.0}}})
    picture = temperature(comparison(run(tmp_path, "fixed", series={TAU: [4.0]}), rule))
    assert picture.caption.endswith(" Of kd, normkd τ it is the τ on which the rule for each sample builds.")


def test_an_arm_without_a_temperature_has_no_strength(tmp_path):
    runs = [run(tmp_path, series={TAU: [4.0], LAMBDA: [1.0]}), run(tmp_path, method="crd", series={LAMBDA: [1.0]})]
    assert drawn(temperature(comparison(*runs)).figure.axes[1]) == {"kd, global τ": ([1], [1])}


def test_one_epoch_and_what_is_not_finite(tmp_path):
    (axes,) = temperature(comparison(run(tmp_path, series={TAU: [5.0, math.nan]}))).figure.axes
    assert drawn(axes) == {"kd, global τ": ([1], [5])}


@pytest.mark.parametrize("series", [{}, {TAU: [math.nan]}])
def test_nothing_to_draw(tmp_path, series):
    with pytest.raises(Missing, match="no run has logged a temperature: train with"):
        temperature(comparison(run(tmp_path, series=series)))
