import base64

from PIL import Image

from ctkd_lightning.reporting.drawing import draw
from tests.reporting.made_up import pictures


def test_files_and_data(tmp_path):
    (drawn,) = draw(pictures("temperature"), tmp_path)
    svg, png = (tmp_path / f"of_temperature.{kind}" for kind in ("svg", "png"))
    kind, _, content = drawn.source.partition(";base64,")
    assert (kind, base64.b64decode(content)) == ("data:image/svg+xml", svg.read_bytes())
    assert b"<svg" in svg.read_bytes()
    with Image.open(png) as image:
        assert image.size == (832, 480)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "of_temperature.png",
        "of_temperature.svg",
    ]
    assert drawn.least <= 390 - 2 * 16 < drawn.most


def test_a_picture_of_many_points_is_a_png_in_the_page(tmp_path):
    (drawn,) = draw(pictures("features", points=5000), tmp_path)
    kind, _, content = drawn.source.partition(";base64,")
    assert (kind, base64.b64decode(content)) == ("data:image/png", (tmp_path / "of_features.png").read_bytes())
    assert (tmp_path / "of_features.svg").stat().st_size > len(content)


def test_the_same_picture_is_the_same_file(tmp_path):
    first, second = (next(draw(pictures("loss"), tmp_path)) for _ in range(2))
    assert first.source == second.source


def test_one_figure_at_a_time(tmp_path):
    alive = []

    def counted():
        for picture in pictures("loss", "surface"):
            assert all(not earlier.figure.axes for earlier in alive)
            alive.append(picture)
            yield picture

    assert len(list(draw(counted(), tmp_path))) == 2
