import numpy as np
import pytest
import torch
from scipy import fft
from sklearn.datasets import load_digits
from sklearn.linear_model import RidgeClassifier

from ctkd_lightning.data import Digits, DigitViews
from ctkd_lightning.data.digit_views import VIEWS, cosines, edges, fourier, noise, pixels, profiles

IMAGES = load_digits().images[:20]
PATCH = np.zeros((1, 8, 8))
PATCH[0, 2:5, 3:5] = 16  # rows 2 to 4, columns 3 and 4


def test_the_test_set_is_that_of_the_digits():
    views, digits = DigitViews(modalities=["pixels"]), Digits(image_size=8)
    for split, count in (("train", 1347), ("test", 450)):
        ours, images = views.load(split), digits.load(split)
        assert len(ours) == count
        assert torch.equal(ours.targets, images.targets)
        expected = (ours.values["pixels"] * (255 / 16)).round().view(-1, 8, 8)
        assert torch.equal(expected, images.pixels[:, 0].double())


def test_pixels_and_profiles():
    assert pixels(PATCH).reshape(8, 8)[3, 4] == 16
    rows, columns, left, right, top, bottom = profiles(PATCH).reshape(6, 8)
    assert rows.tolist() == [0, 0, 32, 32, 32, 0, 0, 0]
    assert columns.tolist() == [0, 0, 0, 48, 48, 0, 0, 0]
    assert left.tolist() == [8, 8, 3, 3, 3, 8, 8, 8]
    assert right.tolist() == [8, 8, 3, 3, 3, 8, 8, 8]
    assert top.tolist() == [8, 8, 8, 2, 2, 8, 8, 8]
    assert bottom.tolist() == [8, 8, 8, 3, 3, 8, 8, 8]


def test_fourier_has_each_magnitude_of_the_transform_once():
    """34 of 64: a real image has 4 magnitudes of their own, and 30 that come in pairs."""
    found = np.expm1(fourier(IMAGES))
    assert found.shape == (20, 34)
    whole = np.abs(np.fft.fft2(IMAGES))
    mirrored = whole[:, -np.arange(8)][:, :, -np.arange(8)]
    np.testing.assert_allclose(whole, mirrored, atol=1e-9)
    rows, columns = np.indices((8, 8))
    once = {min((r, c), (-r % 8, -c % 8)) for r, c in zip(rows.ravel(), columns.ravel(), strict=True)}
    assert len(once) == 34
    for image, spectrum in zip(found, whole, strict=True):
        np.testing.assert_allclose(np.sort(image), np.sort([spectrum[place] for place in once]), atol=1e-9)


def test_the_magnitudes_do_not_follow_a_cyclic_shift():
    np.testing.assert_allclose(fourier(np.roll(IMAGES, (2, 3), axis=(1, 2))), fourier(IMAGES), atol=1e-9)


def test_edges_of_ramps():
    """One orientation each: a ramp to the right, down, and down to the right, in bins of 45 degrees."""
    row, column = np.indices((8, 8)).astype(float)
    for number, ramp in ((0, column), (1, row + column), (2, row), (4, -column), (5, -row - column), (6, -row)):
        inside = edges(ramp[None]).reshape(4, 8)
        assert inside.argmax(axis=1).tolist() == [number] * 4
    np.testing.assert_allclose(edges(column[None]).reshape(4, 8), np.eye(8)[[0] * 4])
    assert not edges(np.ones((1, 8, 8))).any()


def test_cosines():
    found = cosines(IMAGES)
    assert found.shape == (20, 15)
    np.testing.assert_allclose(found[:, 0], IMAGES.sum(axis=(1, 2)) / 8)  # the orthonormal transform's mean term
    wave = np.cos(np.pi * (np.arange(8) + 0.5) / 8 * 3)[:, None] * np.ones(8)  # the third of the rows' cosines
    places = [(r, c) for r in range(8) for c in range(8) if r + c <= 4]
    expected = [np.sqrt(8 * 8 / 2) if place == (3, 0) else 0 for place in places]
    np.testing.assert_allclose(cosines(wave[None])[0], expected, atol=1e-9)
    np.testing.assert_allclose(found[3], [fft.dctn(IMAGES[3], norm="ortho")[place] for place in places])


@pytest.mark.parametrize("view", [view for view in VIEWS if view != "noise"])
def test_a_view_of_a_digit_depends_on_that_digit_alone(view):
    make, features = VIEWS[view]
    whole = make(IMAGES)
    assert whole.shape == (20, features)
    np.testing.assert_allclose(np.concatenate([make(image[None]) for image in IMAGES]), whole)


def test_noise_is_normal_and_the_same_for_everybody():
    found = noise(load_digits().images)
    assert found.shape == (1797, 64)
    assert abs(found.mean()) < 4 / np.sqrt(found.size)
    assert abs(found.std() - 1) < 4 / np.sqrt(2 * found.size)
    np.random.seed(5)
    assert np.array_equal(noise(load_digits().images), found)


def test_every_view_but_one_tells_the_digits():
    data = DigitViews(val_size=0)
    train, test = (list(loader) for loader in (data.train_dataloader(), data.test_dataloader()))
    score = {}
    for name in data.modalities:
        (x, y), (x_test, y_test) = (
            [torch.cat([batch[key] for batch in part]).numpy() for key in (name, "target")] for part in (train, test)
        )
        score[name] = RidgeClassifier().fit(x, y).score(x_test, y_test)
    assert score.pop("noise") < 0.2
    assert min(score.values()) > 0.75
