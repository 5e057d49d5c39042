import pytest

from ctkd_lightning.job import hardware
from ctkd_lightning.job.hardware import accelerator_in_use, choose_channels_last, choose_precision, describe_hardware


@pytest.mark.parametrize(
    ("vendor", "flags", "precision"),
    [
        ("GenuineIntel", "avx512f avx512_bf16", "32-true"),
        ("GenuineIntel", "avx512_bf16 amx_bf16", "bf16-mixed"),
        ("AuthenticAMD", "avx512f avx512_bf16", "bf16-mixed"),
        ("AuthenticAMD", "avx2", "32-true"),
        ("", "", "32-true"),
    ],
)
def test_precision_of_processors(monkeypatch, vendor, flags, precision):
    monkeypatch.setattr(hardware, "_cpu_info", {"vendor_id": vendor, "flags": flags}.__getitem__)
    assert choose_precision("auto", "cpu") == precision


@pytest.mark.parametrize(("major", "precision"), [(7, "32-true"), (8, "bf16-mixed"), (9, "bf16-mixed")])
def test_precision_of_gpus(monkeypatch, major, precision):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (major, 0))
    assert choose_precision("auto", accelerator_in_use("auto")) == precision


def test_what_is_asked_for_is_taken():
    assert choose_precision("16-mixed", "cpu") == "16-mixed"
    assert choose_precision(64, "cuda") == 64
    assert accelerator_in_use("cpu") == "cpu"
    assert choose_channels_last(False, "cpu", "bf16-mixed") is False
    assert choose_channels_last(True, "cuda", "32-true") is True


def test_channels_last():
    assert choose_channels_last("auto", "cpu", "32-true")
    assert choose_channels_last("auto", "cuda", "bf16-mixed")
    assert not choose_channels_last("auto", "cuda", "32-true")
    assert not choose_channels_last("auto", "mps", "32-true")


def test_description_names_a_processor():
    described = describe_hardware()
    assert described["processor"]
    assert described["cores"] >= 1
