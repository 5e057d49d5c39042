from importlib.util import find_spec

import numpy as np
import pytest
import torch

from ctkd_lightning.data import WatchSensors, watch_sensors
from ctkd_lightning.errors import UserError
from tests.data.sets import write_watch_sensors

PLACES = {
    "sensors": {"accelerometer": [0, 1, 2], "gyroscope": [3, 4, 5]},
    "axes": {"x": [0, 3], "y": [1, 4], "z": [2, 5]},
    "channels": {"ax": [0], "ay": [1], "az": [2], "wx": [3], "wy": [4], "wz": [5]},
}


def recordings(root) -> dict:
    return np.load(root / "watch_dataset.npy", allow_pickle=True).item()


def rewrite(root, **changes) -> None:
    content = np.array({**recordings(root), **changes}, dtype=object)
    np.save(root / "watch_dataset.npy", content, allow_pickle=True)


@pytest.mark.parametrize("grouping", PLACES)
@pytest.mark.parametrize(("window", "step"), [(10, 5), (26, 3), (7, 9)])
def test_windows_are_cut_from_the_recordings(tmp_path, grouping, window, step):
    data = WatchSensors(**{**write_watch_sensors(tmp_path, 0), "window": window, "step": step}, grouping=grouping)
    content = recordings(tmp_path)
    test = watch_sensors.TEST_SUBJECTS[0]
    for split in ("train", "test"):
        samples = data.load(split)
        expected = [
            (signal[start : start + window].T, target, subject)
            for signal, target, subject in zip(content["X"], content["y"], content["subject"], strict=True)
            for start in range(0, len(signal) - window + 1, step)
            if (subject in test) == (split == "test")
        ]
        windows = np.stack([window for window, _, _ in expected])
        for name, channels in PLACES[grouping].items():
            assert np.array_equal(samples.values[name].numpy(), windows[:, channels])
            assert data.modalities[name] == (len(channels), window)
        assert samples.targets.tolist() == [target for _, target, _ in expected]
        assert samples.groups.tolist() == [subject for _, _, subject in expected]


@pytest.mark.parametrize(("val_size", "validate"), [(1, 1), (3, 3), (0.3, 2)])
def test_no_subject_is_in_two_sets(tmp_path, val_size, validate):
    write_watch_sensors(tmp_path, 0)
    for split in (0, 1, 119):
        data = WatchSensors(tmp_path, window=10, step=5, split=split, val_size=val_size)
        training = data.load("train").groups
        assert set(data.load("test").groups.tolist()) == set(watch_sensors.TEST_SUBJECTS[split])
        parts = [training[data.train_indices], training[data.val_indices], data.load("test").groups]
        train, val, test = (set(part.tolist()) for part in parts)
        assert (len(train), len(val), len(test)) == (7 - validate, validate, 3)
        assert train | val | test == set(range(1, 11))


def test_one_subject_validates_by_default_and_none_if_so_wished(tmp_path):
    settings = write_watch_sensors(tmp_path, 0)
    data = WatchSensors(**settings)
    assert len(data.load("train").groups[data.val_indices].unique()) == 1
    assert WatchSensors(val_size=0, **settings).validates_on_test
    with pytest.raises(UserError, match="val_size=7 of 7 training subjects leaves none"):
        WatchSensors(val_size=7, **settings).train_dataloader()


def test_every_split_tests_three_others():
    splits = watch_sensors.TEST_SUBJECTS
    assert len({frozenset(subjects) for subjects in splits}) == len(splits) == 120
    assert all(len(set(subjects)) == 3 and set(subjects) <= set(range(1, 11)) for subjects in splits)
    assert splits[0] == [2, 7, 9]  # what was measured on a split must be found again


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"grouping": "axis"}, "unknown grouping 'axis': did you mean axes"),
        ({"grouping": "axes", "modalities": ["gyroscope"]}, "has no modality 'gyroscope': Valid: x, y, z"),
        ({"window": 0}, "window must be a whole number from 1, found 0"),
        ({"step": 0}, "step must be a whole number from 1, found 0"),
        ({"split": 120}, "split must be a whole number from 0 to 119, found 120"),
        ({"split": 1.5}, "split must be a whole number"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(UserError, match=message):
        WatchSensors(**settings)


def test_windows_longer_than_the_recordings(tmp_path):
    write_watch_sensors(tmp_path, 0)
    with pytest.raises(UserError, match="window=31 is longer than all recordings, up to 30: take a shorter one"):
        WatchSensors(tmp_path, window=31).setup()


@pytest.mark.parametrize(
    "changes",
    [
        {"X_labels": ["ay", "ax", "az", "wx", "wy", "wz"]},
        {"y_labels": ["PEN"]},
        {"y": np.full(70, 7)},
        {"y": np.zeros(69)},
        {"subject": np.ones(70)},
        {"X": [np.zeros((30, 5))] * 70},
        {"X": 3},
    ],
)
def test_another_file_is_named_in_one_line(tmp_path, changes):
    write_watch_sensors(tmp_path, 0)
    rewrite(tmp_path, **changes)
    with pytest.raises(UserError, match=r"watch_dataset\.npy is not seglearn's watch_dataset\.npy \(found ") as error:
        WatchSensors(tmp_path, window=10).setup()
    assert "\n" not in str(error.value)


def test_signals_that_are_no_numbers(tmp_path):
    write_watch_sensors(tmp_path, 0)
    signals = recordings(tmp_path)["X"]
    signals[0][:, 4] = np.nan
    rewrite(tmp_path, X=signals)
    with pytest.raises(UserError, match="the modality gyroscope holds NaN or infinity, first in sample 0"):
        WatchSensors(tmp_path, window=10).setup()


def test_without_the_package_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(watch_sensors, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"of seglearn: pip install 'ctkd-lightning\[sensors\]'"):
        WatchSensors().setup()


@pytest.mark.skipif(find_spec("seglearn") is None, reason="needs seglearn's file")
def test_the_packages_own_file():
    data = WatchSensors()
    samples = [data.load(split) for split in ("train", "test")]
    assert sum(map(len, samples)) == 4677
    assert [len(x.groups.unique()) for x in samples] == [7, 3]
    assert set(torch.cat([x.targets for x in samples]).tolist()) == set(range(7))
