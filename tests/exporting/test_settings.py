import pytest

from ctkd_lightning.errors import UserError
from ctkd_lightning.exporting.settings import read_settings
from ctkd_lightning.job.configuration import compose

GIVEN = ("run=run", "format=onnx", "output=student.onnx")


def test_defaults():
    settings = read_settings(compose(GIVEN, "export"))
    assert (settings.run, settings.format, str(settings.output)) == ("run", "onnx", "student.onnx")
    assert (settings.normalize, settings.quantize, settings.tolerance, settings.images) == (True, None, 1e-4, 1000)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("format=onxx", "unknown format 'onxx': did you mean onnx"),
        ("format=3", "format must be a format, found 3"),
        ("run=[a,b]", "run must be the folder of a run"),
        ("output=student.pt2", "must end in .onnx, found student.pt2"),
        ("output=folder.onnx", "folder.onnx is a folder"),
        ("output=file/student.onnx", "no folder that can be written"),
        ("quantize=int4", "quantize must be null, static or dynamic, found int4"),
        ("normalize=inside", "normalize must be true or false, found inside"),
        ("overwrite=1", "overwrite must be true or false, found 1"),
        ("tolerance=-1", "tolerance must be a finite number from 0, found -1"),
        ("images=0", "images must be a whole number from 1, found 0"),
        ("data_root=3", "data_root must be a folder, found 3"),
    ],
)
def test_what_cannot_be(tmp_path, override, message):
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=message):
        read_settings(compose((*GIVEN, override), "export"))


def test_int8_is_of_onnx():
    with pytest.raises(UserError, match="quantize=static is of format=onnx, found format=safetensors"):
        read_settings(compose((GIVEN[0], "format=safetensors", "output=a.safetensors", "quantize=static"), "export"))
