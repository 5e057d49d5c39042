"""Object arrays are read as NumPy reads them, and no file runs code."""

import os
import pickle

import numpy as np
import pytest

from ctkd_lightning.data._pickled_array import read_object
from ctkd_lightning.errors import UserError

CONTENT = {
    "list": [np.arange(6.0).reshape(2, 3), np.arange(3, dtype=np.int32)],
    "nested": {"text": ["a", "ä"], "scalar": np.float64(2.5), "none": None},
    "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "objects": np.array(["x", 1, None], dtype=object),
}


def write(path, content, protocol=4):
    """As ``numpy.save`` does, in any protocol."""
    array = np.empty((), dtype=object)
    array[()] = content
    with path.open("wb") as file:
        header = {"descr": "|O", "fortran_order": False, "shape": ()}
        np.lib.format.write_array_header_1_0(file, header)
        pickle.dump(array, file, protocol=protocol)
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_what_numpy_reads(tmp_path, protocol):
    path = write(tmp_path / "x.npy", CONTENT, protocol)
    np.testing.assert_equal(read_object(path), np.load(path, allow_pickle=True).item())
    np.testing.assert_equal(read_object(path), CONTENT)


def test_what_numpy_saves(tmp_path):
    np.save(tmp_path / "x.npy", CONTENT, allow_pickle=True)
    np.testing.assert_equal(read_object(tmp_path / "x.npy"), CONTENT)


def test_under_the_other_name_of_numpys_core(tmp_path):
    path = write(tmp_path / "x.npy", {"a": np.arange(3)}, protocol=2)
    content = path.read_bytes()
    names = (b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    ours, other = names if names[0] in content else names[::-1]
    assert ours in content
    path.write_bytes(content.replace(ours, other))
    np.testing.assert_equal(read_object(path), {"a": np.arange(3)})


class Runs:
    """Unpickled, it calls something."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, ("touch ran",), r"\w+\.system"),
        (eval, ("open('ran', 'w')",), r"\w+\.eval"),
        (getattr, ("text", "upper"), r"\w+\.getattr"),
        (np.load, ("other.npy",), r"numpy\.load"),
        (np.ndarray.tofile, (np.zeros(1), "ran"), r"\w+\.getattr"),
    ],
    ids=["system", "eval", "getattr", "load", "method"],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_file_that_would_run_code_is_refused(tmp_path, monkeypatch, function, arguments, name, protocol):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "x.npy", {"a": [Runs(function, *arguments)]}, protocol)
    with pytest.raises(UserError, match=rf"x\.npy would run code to be read \({name}\) and is refused") as error:
        read_object(path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()


def test_no_encodings_are_looked_up(tmp_path):
    path = write(tmp_path / "x.npy", {"a": b"\xff"}, protocol=2)
    assert read_object(path) == {"a": b"\xff"}
    path.write_bytes(path.read_bytes().replace(b"latin1", b"rot_13"))
    with pytest.raises(UserError, match="bytes in the encoding rot_13"):
        read_object(path)


@pytest.mark.parametrize("change", [lambda x: b"", lambda x: x[:200], lambda x: x[:-1], lambda x: b"no array" * 9])
def test_a_damaged_file_is_named_in_one_line(tmp_path, change):
    path = write(tmp_path / "x.npy", CONTENT)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=r"x\.npy is damaged or no \.npy file .*: fetch it again$") as error:
        read_object(path)
    assert "\n" not in str(error.value)


def test_other_arrays_and_missing_files(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(3))
    with pytest.raises(UserError, match=r"an array of shape \(3,\) and type float64"):
        read_object(tmp_path / "x.npy")
    with pytest.raises(UserError, match=r"there is no file .*y\.npy: give the folder that holds it"):
        read_object(tmp_path / "y.npy")
