import io

import numpy as np
import pytest
from matplotlib import rcParams
from matplotlib.pyplot import get_fignums
from PIL import Image

from ctkd_lightning.reporting.figures._canvas import canvas, class_label, legend, literal, style, wide_axis, wrapped


def test_transparent_grey_and_out_of_all_state():
    before = dict(rcParams)
    with style():
        figure, (axes,) = canvas(2.0)
        axes.plot([1, 2])
    assert dict(rcParams) == before
    assert not get_fignums()
    figure.savefig(buffer := io.BytesIO(), format="png")  # outside the style
    pixels = np.asarray(Image.open(buffer).convert("RGBA"))
    assert (pixels[0, 0, 3], pixels[-1, -1, 3]) == (0, 0)
    assert pixels.shape[1] == 520
    ink = pixels[pixels[..., 3] == 255][:, :3]
    assert not (ink.max(axis=1) < 60).any()  # nothing black, which a dark page would hide


@pytest.mark.parametrize(("values", "scale"), [([1, 2], "linear"), ([1, 20], "log"), ([0.0, float("nan")], "linear")])
def test_wide_axes_are_logarithmic_with_plain_numbers(values, scale):
    figure, (axes,) = canvas(3.0)
    axes.plot(values)
    wide_axis(axes.yaxis, values)
    assert axes.get_yscale() == scale
    figure.canvas.draw()
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert not any("10^" in label or "e" in label for label in labels)
    if scale == "log":
        assert {"1", "10"} <= set(labels)


def test_no_formula_and_no_end():
    assert literal("$x$") == r"\$x\$"
    assert literal("abcdef", 4) == "abc…"


def test_names_in_lines_without_an_end():
    name = "kd, global τ, optimizer.lr=0.1, max_epochs=30"
    assert wrapped(name, 20) == "kd, global τ,\noptimizer.lr=0.1,\nmax_epochs=30"
    assert "".join(wrapped("a" * 99, 20).split()) == "a" * 99


def test_a_long_legend_makes_the_figure_higher():
    heights = []
    for lines in (1, 12):
        figure, (axes,) = canvas(3.0)
        for number in range(lines):
            axes.plot([1, 2], label=wrapped(f"kd, global τ, data.augmentation={number:030}"))
        legend(figure, axes.lines)
        figure.draw_without_rendering()
        heights.append(axes.get_position().height * figure.get_figheight())
    assert heights[1] == pytest.approx(heights[0], rel=0.15)


def test_letters_that_the_font_has_not():
    assert [class_label(["猫", "кот", "chat"], number, 10) for number in range(3)] == ["0", "кот", "chat"]
    assert literal("a猫\n") == "a?\n"
