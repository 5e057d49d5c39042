"""``lightning.pytorch`` and ``pytorch_lightning``: the same code, two sets of classes."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from ctkd_lightning import CurriculumTemperatureCallback, LinearCurriculum
from tests.callbacks import foreign

CURRICULUM = LinearCurriculum(epochs=4, start=0.5)


@pytest.mark.parametrize("callbacks", ["alone", "in a list"])
@pytest.mark.parametrize("name", ["lightning.pytorch", "pytorch_lightning"])
def test_trains_with_either(tmp_path, name, callbacks):
    lightning = pytest.importorskip(name)

    class Plain(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = foreign.student()

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=foreign.LEARNING_RATE, momentum=foreign.MOMENTUM)

    added = CurriculumTemperatureCallback(CURRICULUM, foreign.teacher(), temperature=foreign.temperature())
    assert isinstance(added, lightning.Callback)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=foreign.EPOCHS,
        callbacks=added if callbacks == "alone" else [added],
        logger=False,
        enable_checkpointing=callbacks == "alone",
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    module = Plain()
    trainer.fit(module, foreign.loader())
    net, value = foreign.by_hand(CURRICULUM)
    assert foreign.difference(module.net, net) <= 1e-6
    assert added.temperature.value.item() == pytest.approx(value.item(), abs=1e-6)
    assert {"ctkd/lambda", "ctkd/temperature", "train/kd"} <= trainer.callback_metrics.keys()


@pytest.mark.slow
def test_the_other_distribution_is_not_imported_unasked():
    code = (
        "import sys, ctkd_lightning; ctkd_lightning.CurriculumTemperatureCallback(); "
        "assert 'pytorch_lightning' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_works_where_only_the_other_is_installed():
    pytest.importorskip("pytorch_lightning")
    code = """
import importlib.util, pathlib, sys, types
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name == "lightning" or name.startswith("lightning."):
            raise ImportError(name)
sys.meta_path.insert(0, Hidden())
folder = pathlib.Path(importlib.util.find_spec("ctkd_lightning").origin).parent
package = types.ModuleType("ctkd_lightning")  # without its __init__, which also offers a LightningModule
package.__path__ = [str(folder)]
sys.modules["ctkd_lightning"] = package
from ctkd_lightning.callbacks import CurriculumTemperatureCallback
import pytorch_lightning
assert isinstance(CurriculumTemperatureCallback(), pytorch_lightning.Callback)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ctkd_lightning", "ctkd_lightning.callbacks"])
def test_a_distribution_that_is_imported_later(name):
    """A command line asks for the class, and for its bases, before there is a callback."""
    pytest.importorskip("pytorch_lightning")
    code = f"""
import importlib
handed_out = importlib.import_module({name!r})
before = handed_out.CurriculumTemperatureCallback
import pytorch_lightning
assert issubclass(handed_out.CurriculumTemperatureCallback, pytorch_lightning.Callback)
assert handed_out.CurriculumTemperatureCallback is before
assert "CurriculumTemperatureCallback" in dir(handed_out)
class Own(before):
    pass
assert issubclass(Own, pytorch_lightning.Callback)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
