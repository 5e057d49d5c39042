import os
import pickle
import warnings

import numpy as np
import pytest
import safetensors.torch
import torch

from ctkd_lightning.errors import UserError
from ctkd_lightning.models._checkpoint import DamagedCheckpoint, read_state_dict, without_wrappers

WEIGHTS = {"conv1.weight": torch.arange(6.0).reshape(2, 3), "bn1.num_batches_tracked": torch.tensor(5)}


def prefixed(*prefixes):
    return {prefix + name: tensor for prefix in prefixes for name, tensor in WEIGHTS.items()}


def lightning(state_dict):
    return {
        "pytorch-lightning_version": "2.6.6",
        "epoch": 3,
        "state_dict": {**state_dict, "temperature.value": torch.tensor(1.0)},
        "optimizer_states": [{"state": {}, "param_groups": [{"lr": 0.05}]}],
        "hyper_parameters": {"learning_rate": 0.05},
    }


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(WEIGHTS, id="bare"),
        pytest.param({"epoch": 240, "model": WEIGHTS, "best_acc": 75.6}, id="zoo"),
        pytest.param({"model": WEIGHTS, "best_acc": np.float64(75.6), "n": np.int64(3)}, id="numpy float64"),
        pytest.param({"model": WEIGHTS, "best_acc": np.float32(75.6)}, id="numpy float32"),
        pytest.param({"state_dict": WEIGHTS, "optimizer": {"state": {}, "param_groups": []}}, id="state_dict"),
        pytest.param({"net": WEIGHTS, "acc": torch.tensor(95.1), "epoch": 3}, id="a key of its own"),
        pytest.param({"run": {"weights": WEIGHTS, "lr": 0.1}, "rng": torch.zeros(9)}, id="nested keys"),
        pytest.param({"model": prefixed("module.")}, id="data parallel"),
        pytest.param(prefixed("_orig_mod."), id="compiled"),
        pytest.param(prefixed("module._orig_mod."), id="data parallel, compiled"),
        pytest.param(lightning(prefixed("student.")), id="student"),
        pytest.param(lightning(prefixed("network.")), id="network"),
        pytest.param(lightning(prefixed("student._orig_mod.")), id="compiled student"),
        pytest.param(lightning(prefixed("_orig_mod.student.module.")), id="compiled module"),
    ],
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_layouts(tmp_path, content, zipped):
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state = read_state_dict(tmp_path / "x.pth")
    assert list(state) == list(WEIGHTS)
    assert all(torch.equal(state[name], tensor) for name, tensor in WEIGHTS.items())


def test_numpy_numbers_under_the_name_of_numpy_1(tmp_path):
    torch.save(
        {"model": WEIGHTS, "best_acc": np.float64(75.6)}, tmp_path / "x.pth", _use_new_zipfile_serialization=False
    )
    old, new = b"cnumpy.core.multiarray\n", b"cnumpy._core.multiarray\n"
    saved = (tmp_path / "x.pth").read_bytes()
    assert (old in saved) != (new in saved)
    for spelling in (old, new):
        (tmp_path / "y.pth").write_bytes(saved.replace(old, spelling).replace(new, spelling))
        assert list(read_state_dict(tmp_path / "y.pth")) == list(WEIGHTS)


def test_safetensors(tmp_path):
    safetensors.torch.save_file(prefixed("module."), tmp_path / "x.safetensors")
    state = read_state_dict(str(tmp_path / "x.safetensors"))
    assert all(torch.equal(state[name], tensor) for name, tensor in WEIGHTS.items())


class Payload:
    """Unpickled without care, this makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_code_is_refused_and_does_not_run(tmp_path, zipped):
    target = tmp_path / "made by the payload"
    torch.save({"model": WEIGHTS, "extra": Payload(target)}, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"x\.pth would run code to be read \((posix|nt)\.mkdir\) and is refused"):
        read_state_dict(tmp_path / "x.pth")
    assert not target.exists()
    torch.load(tmp_path / "x.pth", weights_only=False)  # the payload is a live one
    assert target.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_plain_pickle_with_code_does_not_run(tmp_path):
    target = tmp_path / "made by the payload"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(Payload(target), protocol))
        with pytest.raises(UserError, match=r"x\.pkl (would run code|is no checkpoint)"):
            read_state_dict(tmp_path / "x.pkl")
        assert not target.exists()


def test_a_pickled_network_is_refused_by_name(tmp_path):
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"\(torch\.nn\.modules\.linear\.Linear\).*save its state_dict\(\) alone"):
        read_state_dict(tmp_path / "x.pth")


@pytest.mark.filterwarnings("ignore")
def test_a_torchscript_program_is_refused(tmp_path):
    torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)).save(tmp_path / "x.pt")
    with pytest.raises(UserError, match="is a TorchScript program, not weights, and is refused"):
        read_state_dict(tmp_path / "x.pt")


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_truncated(tmp_path, zipped, kept):
    path = tmp_path / "x.pth"
    torch.save({"model": {"w": torch.zeros(100, 100)}}, path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(
        DamagedCheckpoint, match=rf"x\.pth is truncated or damaged, {path.stat().st_size} bytes are there"
    ):
        read_state_dict(path)


def test_one_flipped_byte_in_a_tensor(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"model": {"w": torch.full((100,), 3.0)}}, path)
    content = bytearray(path.read_bytes())
    content[content.index(torch.full((100,), 3.0).numpy().tobytes()) + 200] ^= 1
    path.write_bytes(content)
    torch.load(path, weights_only=True)  # which does not see it
    with pytest.raises(DamagedCheckpoint, match=r"x\.pth is truncated or damaged"):
        read_state_dict(path)


def test_a_file_without_check_sums(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(WEIGHTS, tmp_path / "x.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert list(read_state_dict(tmp_path / "x.pth")) == list(WEIGHTS)


@pytest.mark.parametrize("kept", [4, 20, 1000])
def test_truncated_safetensors(tmp_path, kept):
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors.torch.save({"w": torch.zeros(100, 100)})[:kept])
    with pytest.raises(DamagedCheckpoint, match=r"x\.safetensors is truncated, damaged or no safetensors file"):
        read_state_dict(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    "content", [b"hello, world\n", b"<!DOCTYPE html><html>", bytes(300), b"\x80\x04N.", b"\x93NUMPY"]
)
def test_no_checkpoint(tmp_path, content):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(
        DamagedCheckpoint, match=rf"x\.pth is no checkpoint: .* found {len(content)} bytes that start with b"
    ):
        read_state_dict(tmp_path / "x.pth")


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_missing_empty_or_a_directory(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    with pytest.raises(UserError, match=rf"no such checkpoint: .*x\.{suffix}"):
        read_state_dict(path)
    path.touch()
    with pytest.raises(UserError, match=rf"x\.{suffix} is empty"):
        read_state_dict(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=rf"x\.{suffix} is a directory"):
        read_state_dict(path)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ([WEIGHTS], "a list"),
        (torch.zeros(3), "a Tensor"),
        ({"net": {"lr": 0.1}, "acc": 91.0}, "the keys net, acc"),
        ({str(i): i for i in range(9)}, "the keys 0, 1, 2, 3, 4, …"),
        ({}, "an empty dictionary"),
    ],
)
def test_a_file_without_weights(tmp_path, content, found):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(
        UserError, match=rf"holds no weights: expected .* under a key such as 'state_dict'; found {found}$"
    ):
        read_state_dict(tmp_path / "x.pth")


def test_several_keys_with_as_many_tensors(tmp_path):
    torch.save({"net": WEIGHTS, "ema": WEIGHTS}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"holds 2 times 2 tensors, under 'net', 'ema': choose one, .*prefix='net'\)$"):
        read_state_dict(tmp_path / "x.pth")


def test_a_dictionary_that_holds_itself(tmp_path):
    content = {"net": dict(WEIGHTS)}
    content["self"] = content["net"]["self"] = content
    torch.save(content, tmp_path / "x.pth")
    assert list(read_state_dict(tmp_path / "x.pth")) == list(WEIGHTS)


def test_every_message_is_one_line(tmp_path):
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "x.pth")
    (tmp_path / "y.pth").write_bytes(b"two\nlines")
    (tmp_path / "z.safetensors").write_bytes(b"two\nlines")
    for file in ("x.pth", "y.pth", "z.safetensors", "missing"):
        with pytest.raises(UserError) as error:
            read_state_dict(tmp_path / file)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["module.w", "_orig_mod.w", "module._orig_mod.module.w", "w"])
def test_without_wrappers(name):
    assert without_wrappers(name) == "w"


def test_a_compiled_part_is_unwrapped_and_a_parameter_called_module_stays():
    assert without_wrappers("layer1._orig_mod.0.w") == "layer1.0.w"
    assert without_wrappers("layer1.module.w") == "layer1.module.w"
    assert without_wrappers("module") == "module"
