import pytest

from ctkd_lightning.reporting.figures._comparison import Missing
from ctkd_lightning.reporting.figures.loss import kd_loss
from tests.reporting.figures.made_up import comparison, drawn, run


def test_as_optimised_and_at_one_temperature_on_the_same_axes(tmp_path):
    runs = [
        run(tmp_path, "fixed", series={"train/kd": [3.0, 1.0], "train/kd_at_4": [3.0, 1.0]}),
        run(tmp_path, "global", 1, series={"train/kd": [8.0, 4.0], "train/kd_at_4": [2.0, 1.0]}),
        run(tmp_path, "global", 2, series={"train/kd": [6.0, 4.0], "train/kd_at_4": [2.0, 2.0]}),
    ]
    picture = kd_loss(comparison(*runs))
    optimised, at_four = picture.figure.axes
    assert drawn(optimised) == {"kd, fixed τ": ([1, 2], [3, 1]), "kd, global τ": ([1, 2], [7, 4])}
    assert drawn(at_four) == {"kd, fixed τ": ([1, 2], [3, 1]), "kd, global τ": ([1, 2], [2, 1.5])}
    assert optimised.get_ylim() == at_four.get_ylim()
    assert "at τ = 4" in at_four.get_title()
    assert "kd, global τ, at τ = 4 for all: from 2 in epoch 1 to 1.5 in epoch 2" in picture.alt
    assert [text.get_text() for text in picture.figure.legends[0].texts] == ["kd, fixed τ", "kd, global τ"]


def test_a_run_of_before(tmp_path):
    (axes,) = kd_loss(comparison(run(tmp_path, series={"train/kd": [3.0]}))).figure.axes
    assert drawn(axes) == {"kd, global τ": ([1], [3])}


def test_no_kd(tmp_path):
    with pytest.raises(Missing, match="no run has logged a KD loss: train with method=kd"):
        kd_loss(comparison(run(tmp_path, series={"train/dkd": [3.0]})))
