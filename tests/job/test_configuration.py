from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from ctkd_lightning.errors import UserError
from ctkd_lightning.job.configuration import compose, config_dir, read_configuration, set_keys


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


def test_home_in_a_scripts_overrides(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    GlobalHydra.instance().clear()
    assert compose(["teacher.checkpoint=~/x.pth"]).teacher.checkpoint == "/home/someone/x.pth"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("max_epoch=3", r"no key max_epoch in the run's configuration: did you mean max_epochs"),
        ("data.rot=x", r"no key data.rot in .*: did you mean root"),
        ("seed", r"seed: write key=value"),
        ("data=cifar10", r"data=cifar10: of a run's configuration single keys can be set, and data has several"),
    ],
)
def test_keys_that_cannot_be_set(override, message):
    cfg = OmegaConf.create({"seed": 1, "max_epochs": 2, "data": {"root": "a"}, "resume": None})
    before = OmegaConf.to_container(cfg)
    with pytest.raises(UserError, match=message):
        set_keys(cfg, ["seed=1", override])
    assert OmegaConf.to_container(cfg) == before
    set_keys(cfg, ["seed=5", "data.root=b", "resume=auto"])
    assert OmegaConf.to_container(cfg) == {"seed": 5, "max_epochs": 2, "data": {"root": "b"}, "resume": "auto"}
