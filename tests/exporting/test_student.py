import errno
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from ctkd_lightning.exporting.as_safetensors import Safetensors
from ctkd_lightning.exporting.settings import ExportSettings
from ctkd_lightning.exporting.student import export_student
from ctkd_lightning.models import load_student
from tests.exporting.conftest import MEAN, STD, filled

ROOT = Path(__file__).resolve().parents[2]


needs_onnx = pytest.mark.skipif(
    not all(map(find_spec, ("onnx", "onnxruntime", "onnxscript"))), reason="needs the extra onnx"
)


def run_onnx(path):
    import onnx
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    metadata = {prop.key: prop.value for prop in onnx.load(path).metadata_props}
    return lambda image: torch.from_numpy(session.run(["logits"], {"image": image.numpy()})[0]), metadata


def run_program(path):
    extra = {"metadata.json": ""}
    program = torch.export.load(path, extra_files=extra)
    return program.module(), json.loads(extra["metadata.json"])


def run_safetensors(path):
    with safe_open(path, framework="pt") as file:
        return load_student(path), file.metadata()


LOADERS = {
    "onnx": ("student.onnx", run_onnx),
    "torch_export": ("student.pt2", run_program),
    "safetensors": ("taken.safetensors", run_safetensors),
}


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("kind", [pytest.param("onnx", marks=needs_onnx), "torch_export", "safetensors"])
def test_a_stranger_loads_the_file(run, export, capfd, kind, normalize):
    name, load = LOADERS[kind]
    assert export(f"run={run}", f"format={kind}", f"output={name}", f"normalize={str(normalize).lower()}") is None
    shown = capfd.readouterr()
    assert shown.err == ""
    assert shown.out.count("resnet8") == 1
    assert str(name) in shown.out
    assert sorted(path.name for path in Path().iterdir()) == sorted(["run", name])  # Hydra leaves nothing

    network, metadata = load(name)
    pixels = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    normalized = torch.stack([(pixels[:, channel] - MEAN[channel]) / STD[channel] for channel in range(3)], dim=1)
    given = pixels if normalize else normalized
    with torch.no_grad():
        expected = filled("resnet8", 4)(normalized)
        for size in (1, 3):  # any batch
            torch.testing.assert_close(network(given[:size]), expected[:size], rtol=0, atol=1e-5)
    assert json.loads(metadata["classes"]) == ["class 0", "class 1", "class 2", "class 3"]
    assert json.loads(metadata["mean"]) == MEAN
    assert json.loads(metadata["std"]) == STD
    assert json.loads(metadata["normalize"]) is normalize
    assert (metadata["network"], metadata["image_size"], metadata["temperature"]) == ("resnet8", "8", "3.25")


@needs_onnx
@pytest.mark.parametrize("kind", ["static", pytest.param("dynamic", marks=pytest.mark.slow)])
def test_int8(run, export, capfd, kind):
    import onnx

    assert export(f"run={run}", "format=onnx", "output=student.onnx", f"quantize={kind}") is None
    shown = capfd.readouterr()
    assert f"int8 ({kind})" in shown.out
    assert all(line.startswith("int8 costs") for line in shown.err.splitlines())
    model = onnx.load("student.onnx")
    onnx.checker.check_model(model)
    convolutions = [weight for weight in model.graph.initializer if len(weight.dims) == 4]
    assert convolutions
    assert {weight.data_type for weight in convolutions} <= {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}
    network, metadata = run_onnx("student.onnx")
    assert metadata["precision"] == "int8"
    assert network(torch.rand(5, 3, 8, 8)).shape == (5, 4)
    assert Path("student.onnx").stat().st_size < (run / "student.safetensors").stat().st_size / 2


@needs_onnx
@pytest.mark.slow
def test_int8_of_a_trained_student(command):
    command("data=digits", "data.image_size=16", "data.padding=2", "method=none", "model=resnet56_to_resnet20",
            "model.student.name=resnet8", "max_epochs=8", "trainer=cpu", "run_dir=run", small=False)  # fmt: skip
    for kind in ("static", "dynamic"):
        settings = ExportSettings(run="run", format="onnx", output=Path(f"{kind}.onnx"), quantize=kind, images=None)
        original, float32, int8 = export_student(settings)
        print(original, float32, int8, sep="\n")
        assert original.top1 > 90
        assert float32.difference <= 1e-4
        assert original.top1 - int8.top1 < 1
        assert int8.size < float32.size / 2


def test_a_file_that_differs_is_not_left(run, export, monkeypatch):
    load = Safetensors.load

    def off(self, path):
        network = load(self, path)
        return lambda image: network(image) + 1e-3

    monkeypatch.setattr(Safetensors, "load", off)
    settings = (f"run={run}", "format=safetensors", "output=taken.safetensors")
    line = export(*settings)
    assert line.startswith("error: the exported resnet8 is not like the original: their logits differ by up to 0.001")
    assert sorted(path.name for path in Path().iterdir()) == ["run"]
    assert export(*settings, "tolerance=0.01") is None


def test_a_file_that_is_there(run, export):
    settings = (f"run={run}", "format=safetensors", "output=there.safetensors")
    Path("there.safetensors").write_text("kept")
    assert export(*settings) == (
        "error: output: there.safetensors exists: choose another name, or replace it with overwrite=true"
    )
    assert Path("there.safetensors").read_text() == "kept"
    assert export(*settings, "overwrite=true") is None
    load_student("there.safetensors")


def test_a_full_disk(run, export, monkeypatch):
    def full(self, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    line = export(f"run={run}", "format=safetensors", "output=taken.safetensors")
    assert line == (
        "error: cannot write taken.safetensors: No space left on device; make room, or set output to another folder"
    )
    assert sorted(path.name for path in Path().iterdir()) == ["run"]


def test_a_damaged_student(run, export):
    (run / "student.safetensors").write_bytes(b"damaged")
    line = export(f"run={run}", "format=safetensors", "output=taken.safetensors")
    assert "student.safetensors is truncated, damaged or no safetensors file" in line


class ByValue(nn.Module):
    """Its way depends on what it is given."""

    def forward(self, image):
        return image.mean((2, 3)) if image.sum() > 0 else image.amax((2, 3))


def test_a_network_that_cannot_be_exported(run, export, monkeypatch):
    monkeypatch.setattr("ctkd_lightning.exporting.student.create_model", lambda *_, **__: ByValue())
    monkeypatch.setattr("ctkd_lightning.exporting.student.load_weights", lambda *_: None)
    line = export(f"run={run}", "format=torch_export", "output=student.pt2")
    assert line.startswith("error: resnet8 cannot be exported as torch_export: Could not guard on data-dependent")
    assert "\n" not in line


def test_help_and_errors_of_settings_come_before_torch():
    program = (
        "import sys\nfrom ctkd_lightning.export import main\n"
        "try:\n    main()\nexcept SystemExit as stopped:\n    print(stopped.code)\n"
        "print('loaded:', sorted({'torch', 'lightning', 'onnx'} & set(sys.modules)))"
    )
    for arguments, said in (
        (["--help"], "format=FORMAT"),
        (["run=a", "format=onx", "output=b"], "did you mean onnx?"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert said in done.stdout
        assert "loaded: []" in done.stdout
