from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from ctkd_lightning.errors import UserError
from ctkd_lightning.job.configuration import compose, config_dir, read_configuration


def test_configuration_is_found():
    assert (Path(config_dir()) / "config.yaml").is_file()


def test_composes_as_the_command_does():
    GlobalHydra.instance().clear()
    cfg = compose(["temperature=fixed", "seed=4"])
    assert (cfg.temperature.tau, cfg.seed) == (4.0, 4)


# What version 0.1 wrote, cut down to what it named otherwise.
VERSION_0_1 = """
run_dir: outputs/${now:%Y-%m-%d}/${now:%H-%M-%S}
callbacks:
  last:
    _target_: lightning.pytorch.callbacks.ModelCheckpoint
    dirpath: ${hydra:runtime.output_dir}/checkpoints
  progress:
    _target_: ctkd_lightning.callbacks.progress.ProgressBar
"""


def test_the_configuration_of_an_earlier_run(tmp_path):
    folder = tmp_path / "moved" / ".hydra"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(VERSION_0_1)
    cfg = read_configuration(tmp_path / "moved")
    assert cfg.run_dir == str(tmp_path / "moved")
    OmegaConf.resolve(cfg)
    assert cfg.callbacks.last.dirpath == str(tmp_path / "moved" / "checkpoints")


def test_a_folder_that_is_no_runs(tmp_path):
    with pytest.raises(UserError, match=r"is no run's folder: no file at .*config.yaml; give the run_dir of a run"):
        read_configuration(tmp_path)
