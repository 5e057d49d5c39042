import pytest
import torch

from ctkd_lightning.reporting.figures._comparison import Missing
from ctkd_lightning.reporting.figures.temperature_extremes import ends, temperature_extremes
from tests.reporting.figures.made_up import comparison, outputs, run


def pictured(samples=20, each=8, names=("cat", "$dog$")):
    tau = torch.linspace(1, 5, samples)[torch.randperm(samples, generator=torch.Generator().manual_seed(0))]
    order = tau.argsort().tolist()
    pictures = {p: torch.full((3, 4, 4), p, dtype=torch.uint8) for p in dict.fromkeys([*order[:each], *order[-each:]])}
    right, wrong = torch.eye(2)[[0] * samples], torch.eye(2)[[1] * samples]
    return outputs([0] * samples, tau=tau, pictures=pictures, names=list(names), teacher=right, student=wrong)


def test_the_images_at_both_ends(tmp_path):
    found = pictured()
    order = found.tau.argsort().tolist()
    assert ends(found) == (order[:8], order[-8:])
    picture = temperature_extremes(comparison(run(tmp_path), run(tmp_path, "instance", outputs=found)))
    panels = [axes for axes in picture.figure.axes if axes.images]
    assert [int(axes.images[0].get_array()[0, 0, 0]) for axes in panels] == [*order[:8], *order[-8:]]
    assert [float(axes.get_title()[2:]) for axes in panels] == pytest.approx(
        found.tau[[*order[:8], *order[-8:]]].tolist(), abs=0.006
    )
    assert [text.get_text() for text in panels[0].texts] == ["label cat", "teacher cat", r"student \$dog\$ ✗"]
    assert "8 with the lowest τ, 1 to 2.47: the teacher is wrong in 0, the student in 8" in picture.alt


def test_long_names_have_letters_before_them(tmp_path):
    found = pictured(names=["n02206856", "n03733131"])
    picture = temperature_extremes(comparison(run(tmp_path, "instance", outputs=found)))
    panel = next(axes for axes in picture.figure.axes if axes.images)
    assert [text.get_text() for text in panel.texts] == ["n02206856", "T n02206856", "S n03733131 ✗"]
    assert "the teacher's guess (T) and the student's (S)" in picture.caption
    picture.figure.draw_without_rendering()  # and nothing reaches into the next panel
    boxes = [text.get_window_extent() for axes in picture.figure.axes[:4] for text in axes.texts]
    assert not any(a.overlaps(b) for place, a in enumerate(boxes) for b in boxes[:place])


def test_of_a_rule_it_is_one_sides(tmp_path):
    words = "τ is that of the student's logits"
    rule = run(tmp_path, "normkd", outputs=pictured(), settings={"temperature": {"base": {"tau": 2.0}}})
    assert words in temperature_extremes(comparison(rule)).caption
    assert words not in temperature_extremes(comparison(run(tmp_path, "instance", outputs=pictured()))).caption


def test_few_samples_are_shown_once(tmp_path):
    found = pictured(samples=3)
    assert [len(end) for end in ends(found)] == [2, 1]
    picture = temperature_extremes(comparison(run(tmp_path, "instance", outputs=found)))
    assert sum(bool(axes.images) for axes in picture.figure.axes) == 3
    single = temperature_extremes(comparison(run(tmp_path, "instance", outputs=pictured(samples=1))))
    assert sum(bool(axes.images) for axes in single.figure.axes) == 1


def test_no_images(tmp_path):
    with pytest.raises(Missing, match="or a rule such as temperature=normkd, with keep_outputs=true"):
        temperature_extremes(comparison(run(tmp_path, outputs=outputs([0], teacher=[[1.0]], student=[[1.0]]))))
