"""What a run's folder from somewhere else may say: nothing of it becomes code."""

import os
import sys

import pytest
from omegaconf import OmegaConf

from ctkd_lightning.errors import UserError
from ctkd_lightning.job.configuration import compose, read_configuration

FOREIGN = [
    "data: {_target_: os.system, command: touch ran}",
    "data: {_target_: builtins.eval, _args_: ['1']}",
    "data: {_target_: subprocess.run, _partial_: true, args: [touch, ran]}",
    "a: [{b: {c: [{_target_: os.system, _convert_: all, _recursive_: false}]}}]",
    "a: [{b: {c: [{_target_: [os.system]}]}}]",
    "data: {_target_: '${name}'}\nname: os.system",
    "data: {_target_: '${oc.env:HOME}'}",
    "data: ${other}\nother: {_target_: os.system}",
    "data: '${oc.create:{_target_: os.system}}'",
    "data: '${oc.decode:\"{_target_: os.system}\"}'",
    "data: '${oc.select:none,{_target_: os.system}}'",
    "data: '${oc.select:none,[os.system]}'",
    "data: '${${resolver}:x}'\nresolver: oc.decode",
    "data: '${oc.${rest}:x}'\nrest: decode",
    "data: {'${key}': os.system}\nkey: _target_",
    "data: {_target_: torch.load}",
    "data: {_target_: torch.hub.load}",
    "data: {_target_: torch.os.system}",
    "data: {_target_: torch.optim.sys.exit}",
    "data: {_target_: lightning.pytorch.trainer.trainer.os.system}",
    "data: {_target_: ctkd_lightning.build.Path}",
    "data: {_target_: ctkd_lightning.build.instantiate}",
    "data: {_target_: ctkd_lightning.teacher_cache.store.TeacherCache}",
    "data: {_target_: ctkd_lightning.models.load_weights}",
    "data: {_target_: '.os.system'}",
    "data: {_target_: 5}",
]
GROWING = {
    "aliases": "a: &a [1,1]\nb: &b [*a,*a]\nc: [*b,*b]",
    "depth": "a: " + "[" * 40 + "]" * 40,
    "interpolations": "a0: xxxxxxxxxx\n" + "\n".join(f"a{n}: ${{a{n - 1}}}${{a{n - 1}}}" for n in range(1, 60)),
    "containers": "a0: [1, 1]\n" + "\n".join(f"a{n}: ['${{a{n - 1}}}', '${{a{n - 1}}}']" for n in range(1, 60)),
    "circle": "a: ${b}\nb: ${a}",
    "itself": "a: {b: '${a}'}",
    "relative": "a: {b: '${.c}', c: '${..a}'}",
    "python": "a: !!python/object/apply:os.system ['touch ran']",
    "size": "a: '" + "x" * 200_000 + "'",
    "phrase": "a: " + "${b}" * 1000,
}


def write(folder, text):
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "config.yaml").write_text(text)


def refusal(folder):
    with pytest.raises(UserError) as error:
        read_configuration(folder)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("text", FOREIGN)
def test_foreign_code_is_refused(tmp_path, text):
    write(tmp_path / "run", text)
    refusal(tmp_path / "run")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("text", GROWING.values(), ids=GROWING)
def test_small_files_that_become_large_are_refused(tmp_path, text):
    write(tmp_path / "run", text)
    refusal(tmp_path / "run")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["experiment=fusion_digits"],
        ["method=[kd,reviewkd,dkd]", "model=vgg13_to_vgg8"],
        ["optimizer.optimizer._target_=torch.optim.NAdam"],
        ["optimizer.optimizer._target_=torch.optim.adam.Adam"],
        ["optimizer.scheduler._target_=torch.optim.lr_scheduler.StepLR"],
        ["+callbacks.x={_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val/top1}"],
        ["progress=none", "logger=[tensorboard,wandb,mlflow]", "trainer=fsdp"],
    ],
)
def test_what_this_package_writes_is_read(tmp_path, overrides):
    composed = compose(overrides)
    composed.run_dir = "somewhere"  # the one that asks Hydra for the time
    write(tmp_path / "run", OmegaConf.to_yaml(composed))
    read = read_configuration(tmp_path / "run")
    composed.run_dir = read.run_dir
    assert OmegaConf.to_container(read, resolve=True) == OmegaConf.to_container(composed, resolve=True)


@pytest.fixture
def own_package(tmp_path, monkeypatch):
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "__init__.py").write_text("")
    (tmp_path / "lab" / "losses.py").write_text("import os\n\nclass Mine:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in ("lab", "lab.losses"):
        sys.modules.pop(name, None)


def test_own_code_needs_a_word(tmp_path, own_package, monkeypatch):
    write(tmp_path / "run", "method: {_target_: lab.losses.Mine}")
    assert refusal(tmp_path / "run").endswith("set CTKD_TRUSTED=lab in the environment")
    assert "lab" not in sys.modules
    read_configuration(tmp_path / "run", own=True)
    for trusted in ("lab", "lab.losses", "other, lab"):
        monkeypatch.setenv("CTKD_TRUSTED", trusted)
        assert read_configuration(tmp_path / "run").method._target_ == "lab.losses.Mine"
    for other in ("la", "lab.loss", "lab.losses.Mine.x", ""):
        monkeypatch.setenv("CTKD_TRUSTED", other)
        refusal(tmp_path / "run")


def test_trust_does_not_reach_through_a_module(tmp_path, own_package, monkeypatch):
    monkeypatch.setenv("CTKD_TRUSTED", "lab")
    write(tmp_path / "run", "method: {_target_: lab.losses.os.system}")
    refusal(tmp_path / "run")
    assert os.system.__module__ != "lab"
