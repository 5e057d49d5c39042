import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ctkd_lightning.errors import UserError
from ctkd_lightning.storing.documents import read_documents

TEXTS = np.arange(12, dtype=np.uint16).reshape(3, 4)


def test_rows_of_an_array(tmp_path):
    np.save(tmp_path / "t.npy", TEXTS)
    found = read_documents(tmp_path / "t.npy")
    assert (len(found), found.tokens) == (3, 12)
    assert found[1][0] == 1
    assert torch.equal(found[1][1], torch.tensor([4, 5, 6, 7]))
    assert [key for key, _ in found[1:]] == [1, 2]


def test_keys_of_one_s_own(tmp_path):
    save_file(
        {"input_ids": torch.from_numpy(TEXTS.astype(np.int32)), "keys": torch.tensor([7, 3, 9])},
        tmp_path / "t.safetensors",
    )
    assert [key for key, _ in read_documents(tmp_path / "t.safetensors")] == [7, 3, 9]


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (TEXTS[0], r"has shape \(4,\) of uint16: expected whole numbers \(N, T\)"),
        (TEXTS.astype(float), r"of float64: expected whole numbers"),
        (TEXTS[:0], r"has shape \(0, 4\)"),
        (np.full((2, 2), -100), "has ids below 0, such as -100"),
    ],
)
def test_arrays_without_token_ids(tmp_path, array, words):
    np.save(tmp_path / "t.npy", array)
    with pytest.raises(UserError, match=words):
        read_documents(tmp_path / "t.npy")


def test_files_that_cannot_be_read(tmp_path):
    for name in ("t.npy", "t.safetensors"):
        (tmp_path / name).write_bytes(b"no file of tokens")
        with pytest.raises(UserError, match=f"{name} cannot be read"):
            read_documents(tmp_path / name)
    save_file({"labels": torch.zeros(2, 2)}, tmp_path / "t.safetensors")
    with pytest.raises(UserError, match="has labels: expected input_ids"):
        read_documents(tmp_path / "t.safetensors")
    save_file({"input_ids": torch.zeros(2, 2).int(), "keys": torch.zeros(3).int()}, tmp_path / "t.safetensors")
    with pytest.raises(UserError, match=r"keys in .* have shape \(3,\) of int32"):
        read_documents(tmp_path / "t.safetensors")
