import pytest
import torch

from ctkd_lightning import Distillation
from ctkd_lightning.errors import UserError
from ctkd_lightning.temperature import RecordedTemperature
from tests.temperature import golden
from tests.temperature.settings import GIVEN

CLOSED = {"recorded": golden.one_for_both}
FILE = GIVEN["recorded"]["run"]


def test_each_epoch_has_the_tau_of_the_other_runs():
    temperature = RecordedTemperature(FILE)
    engine = Distillation(torch.nn.Linear(3, 4), torch.nn.Linear(3, 4), temperature=temperature)
    found = []
    for epoch in (0, 0.5, 1, 2, 2.9, 3, 7):
        engine.progress(epoch)
        found.append(temperature(*golden.LOGITS).item())
    assert found == [15.5, 15.5, 15.5, 9.0, 9.0, 3.0, 3.0]
    assert temperature.soften(*golden.LOGITS).fixed


def test_a_folder(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,ctkd/temperature/kd\n4,2.5\n")
    assert RecordedTemperature(tmp_path, name="ctkd/temperature/kd").tau.item() == 2.5
    with pytest.raises(UserError, match=r"of any epoch; its temperatures: ctkd/temperature/kd: give"):
        RecordedTemperature(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read as a run's metrics.csv"),
        ("", "its temperatures: none"),
        ("epoch,ctkd/temperature\n0,warm\n", "cannot be read as a run's metrics.csv"),
        ("epoch,ctkd/temperature\n0,0\n", "no positive number"),
        ("epoch,ctkd/temperature\n0,nan\n", "no positive number"),
    ],
)
def test_files_that_say_nothing(tmp_path, text, message):
    if text is not None:
        (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        RecordedTemperature(tmp_path)


def test_no_run():
    with pytest.raises(UserError, match=r"found none: pass run=DIR"):
        RecordedTemperature()
