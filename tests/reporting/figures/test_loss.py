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
    assert "kd, global τ, KD at τ = 4 for all: from 2 in epoch 1 to 1.5 in epoch 2" in picture.alt
    assert [text.get_text() for text in picture.figure.legends[0].texts] == ["kd, fixed τ", "kd, global τ"]


def test_a_run_of_before(tmp_path):
    (axes,) = kd_loss(comparison(run(tmp_path, series={"train/kd": [3.0]}))).figure.axes
    assert drawn(axes) == {"kd, global τ": ([1], [3])}


def test_each_method_by_its_own_column(tmp_path):
    runs = [
        run(tmp_path, "fixed", series={"train/kd": [3.0, 1.0], "train/kd_at_4": [3.0, 1.0]}),
        run(tmp_path, "fixed", series={"train/dkd": [0.5, 0.25], "train/kd_at_4": [2.0, 1.0]}, method="dkd"),
    ]
    picture = kd_loss(comparison(*runs))
    optimised, at_four = picture.figure.axes
    assert drawn(optimised) == {"kd, fixed τ": ([1, 2], [3, 1]), "dkd, fixed τ": ([1, 2], [0.5, 0.25])}
    assert drawn(at_four) == {"kd, fixed τ": ([1, 2], [3, 1]), "dkd, fixed τ": ([1, 2], [2, 1])}
    assert optimised.get_title() == "as optimised, each arm’s own loss"
    assert "a function of its own for each method, and KD at one constant temperature" in picture.caption
    assert "factor τ²" not in picture.caption


def test_several_terms(tmp_path):
    terms = {name: {"_target_": f"ctkd_lightning.methods.{name.upper()}"} for name in ("kd", "crd")}
    one = run(tmp_path, series={"train/kd": [3.0], "train/crd": [9.0]}, settings={"method": {"terms": terms}})
    picture = kd_loss(comparison(one))
    assert drawn(picture.figure.axes[0]) == {"kd, global τ: kd": ([1], [3]), "kd, global τ: crd": ([1], [9])}


def test_a_rule_has_a_factor_of_its_own(tmp_path):
    plain, rule = (kd_loss(comparison(run(tmp_path, t, series={"train/kd": [3.0]}))) for t in ("global", "normkd"))
    assert "factor τ²" in plain.caption
    assert "factor τ²" not in rule.caption


def test_a_column_that_is_not_there_is_named(tmp_path):
    runs = [
        run(tmp_path, "fixed", series={"train/kd": [3.0], "train/kd_at_4": [3.0]}),
        run(tmp_path, "fixed", series={"train/kd_at_4": [2.0]}, method="dkd"),
    ]
    assert "Not logged “as optimised, each arm’s own loss”: dkd, fixed τ." in kd_loss(comparison(*runs)).caption


def test_a_seed_that_ran_twice_counts_once(tmp_path):
    runs = [run(tmp_path, seed=seed, series={"train/kd": [loss]}) for seed, loss in ((1, 2.0), (1, 4.0), (2, 9.0))]
    assert drawn(kd_loss(comparison(*runs)).figure.axes[0]) == {"kd, global τ": ([1], [6])}


def test_nothing_logged(tmp_path):
    with pytest.raises(Missing, match="no run has logged a distillation loss: train by this version"):
        kd_loss(comparison(run(tmp_path, series={"train/loss": [3.0], "train/ce": [1.0]})))
