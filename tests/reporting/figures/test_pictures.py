import pytest
import torch

from ctkd_lightning.job.temperatures import SampleTemperatures
from ctkd_lightning.reporting.figures import FIGURES, pictures
from ctkd_lightning.reporting.runs import Runs, find_runs, read_runs
from tests.reporting.figures.made_up import outputs, run


def test_all_figures_of_real_runs(command):
    settings = ("temperature=instance", "with_baseline=true", "max_epochs=2", "curriculum.epochs=1")
    command("run_dir=a", *settings)
    command("run_dir=b", *settings, "seed=2")
    missing = []
    found = list(pictures(read_runs(find_runs(["a", "b"])), missing))
    assert missing == []
    assert len(found) == len(FIGURES)
    assert len({picture.name for picture in found}) == len(found)
    for picture in found:
        width, height = picture.figure.get_size_inches()
        assert width <= 6.4
        assert height <= 9
        assert picture.title
        assert picture.caption.endswith(".")
        assert any(c.isdigit() for c in picture.alt)
        assert picture.section in ("temperature", "loss", "features", "agreement", "samples", "surface")


def test_what_is_missing_is_told_and_the_rest_is_drawn(tmp_path):
    broken, empty = run(tmp_path, "fixed", series={"ctkd/temperature": [4.0]}), run(tmp_path)
    broken.files.test_outputs.write_bytes(b"damaged")
    broken.files.temperatures.write_text("damaged")
    missing = []
    found = list(pictures(Runs([broken, empty], []), missing))
    assert [picture.name for picture in found] == ["temperature"]
    assert len([line for line in missing if "is damaged" in line]) == 2
    told = {line.split(":")[0] for line in missing if "is damaged" not in line}
    assert told == FIGURES.keys() - {"temperature over the training"}


def test_no_runs():
    missing = []
    assert list(pictures(Runs([], []), missing)) == []
    assert missing == []


def pictures_of_classes(tmp_path, names):
    """All that a run with these names of its two classes gives."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 12, 2, generator=generator)
    found = outputs(
        torch.arange(12) % 2,
        torch.randn(12, 4, generator=generator),
        tau=torch.linspace(1, 2, 12),
        pictures={0: torch.zeros(3, 4, 4, dtype=torch.uint8)},
        names=names,
        teacher=logits[0],
        student=logits[1],
    )
    return pictures(Runs([run(tmp_path, outputs=found)], []))


def test_class_names_that_are_formulas(tmp_path):
    for picture in pictures_of_classes(tmp_path, ["$x^", "<b>\\frac"]):
        picture.figure.savefig(tmp_path / "picture.svg")  # a formula that is none would raise


@pytest.mark.filterwarnings("error:Glyph")
def test_class_names_in_letters_that_the_font_has_not(tmp_path):
    drawn = {picture.name: picture for picture in pictures_of_classes(tmp_path, ["猫", "犬"])}
    for picture in drawn.values():
        picture.figure.savefig(tmp_path / "picture.png")
    assert "class 猫" in drawn["class_accuracy"].alt
    ticks = {label.get_text() for label in drawn["class_accuracy"].figure.axes[0].get_yticklabels()}
    assert ticks == {"0", "1"}


def test_temperatures_of_a_stranger(tmp_path):
    one = run(tmp_path, "instance")
    SampleTemperatures(torch.linspace(1, 2, 3).double().numpy(), {}).write(one.files)
    missing = []
    assert list(pictures(Runs([one], []), missing)) == []
    assert len(missing) == len(FIGURES)


@pytest.mark.parametrize("task", ["detection", "language", "segmentation"])
def test_other_tasks_are_not_asked_for_outputs_that_they_do_not_keep(tmp_path, task):
    one = run(tmp_path, "fixed", series={"ctkd/temperature": [4.0], "train/kd": [1.0]})
    one.summary.task = task
    missing = []
    assert [picture.name for picture in pictures(Runs([one], []), missing)][:1] == ["temperature"]
    assert not [line for line in missing if "keep_outputs" in line]
    assert [line for line in missing if line.startswith("t-SNE") and line.endswith("are figures of classifiers")]
