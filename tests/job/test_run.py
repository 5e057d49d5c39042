import csv
import json
import os
import pickle
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from conftest import SMALL
from hydra.utils import instantiate
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from safetensors.torch import load_file

from ctkd_lightning import CurriculumTemperatureCallback, DistillationModule, build
from ctkd_lightning.data import Fake
from ctkd_lightning.errors import UserError
from ctkd_lightning.job.command import hydra_main
from ctkd_lightning.job.stages import pair_name
from ctkd_lightning.methods import DKD
from ctkd_lightning.models import create_model, load_weights, save_weights
from ctkd_lightning.modules.classifier import ClassifierModule
from ctkd_lightning.temperature import GlobalTemperature, InstanceTemperature
from tests.quiet import quiet_trainer
from tests.temperature.settings import GIVEN, LEARNED, RULES, TEMPERATURES, made

ROOT = Path(__file__).resolve().parents[2]


def summary(run_dir="run"):
    return json.loads((Path(run_dir) / "summary.json").read_text())


def state(path):
    return torch.load(path, weights_only=True)


def test_the_run_directory(command, capsys):
    command("run_dir=run", "max_epochs=2", drawn=True)
    run = Path("run")
    for name in (".hydra/config.yaml", "metrics.csv", "summary.json", "checkpoints/last.ckpt", "checkpoints/best.ckpt",
                 "student.safetensors", "figures/training.png"):  # fmt: skip
        assert (run / name).is_file(), name

    with (run / "metrics.csv").open() as file:
        columns = set(csv.DictReader(file).fieldnames)
    assert {"train/loss", "train/ce", "train/kd", "val/loss", "val/top1", "val/top5"} <= columns
    assert {"ctkd/lambda", "ctkd/temperature", "epoch", "step"} <= columns

    found = summary()
    for key, value in {"model": "resnet8_to_resnet8", "data": "fake", "method": "kd", "temperature": "global",
                       "curriculum": "cosine", "seed": 1, "epochs": 2, "status": "complete"}.items():  # fmt: skip
        assert found[key] == value
    student = create_model("resnet8", num_classes=4)
    assert found["student"]["parameters"] == sum(p.numel() for p in student.parameters())
    for role in ("teacher", "student"):
        assert found[role]["name"] == "resnet8"
        assert 0 <= found[role]["top1"] <= found[role]["top5"] == 100
    assert found["best"]["chosen_on"] == "validation"
    assert torch.__version__.startswith(found["versions"]["torch"])
    assert {"git", "hardware", "train_seconds", "images_per_second"} <= set(found)

    checkpoint = state(run / "checkpoints" / "last.ckpt")["state_dict"]
    weights = load_file(run / "student.safetensors")
    assert set(weights) == set(student.state_dict())
    for name, value in weights.items():
        assert torch.equal(value, checkpoint[f"student.{name}"])
    printed = capsys.readouterr().out
    for word in ("teacher", "student", "λ", "τ", "run"):
        assert word in printed


def test_teacher_is_trained_once_and_found_again(command, caplog):
    command("run_dir=a")
    (weights,) = Path("cache").rglob("teacher.safetensors")
    stamp = weights.stat().st_mtime_ns
    command("run_dir=b", "seed=2")  # another student, the same teacher
    assert weights.stat().st_mtime_ns == stamp
    assert summary("a")["teacher"] == summary("b")["teacher"]
    command("run_dir=c", "teacher.optimizer.lr=0.01")
    assert len(list(Path("cache").rglob("teacher.safetensors"))) == 2


def test_student_does_not_depend_on_whether_the_teacher_was_cached(command):
    command("run_dir=a")
    command("run_dir=b")
    a, b = (load_file(f"{name}/student.safetensors") for name in "ab")
    assert all(torch.equal(a[name], b[name]) for name in a)
    command("run_dir=c", "seed=2")
    assert not torch.equal(a["conv1.weight"], load_file("c/student.safetensors")["conv1.weight"])


def test_given_teacher_is_used(command):
    torch.manual_seed(0)
    save_weights(create_model("resnet8", num_classes=4), "given.safetensors")
    command("run_dir=run", "teacher.checkpoint=given.safetensors")
    assert not list(Path("cache").rglob("teacher.safetensors"))


def test_the_teacher_is_trained_as_any_classifier(command):
    command("run_dir=run", "teacher.max_epochs=2")
    (weights,) = Path("cache").rglob("teacher.safetensors")
    cfg = build.config(run="run")
    data = build.data(cfg)
    data.seed = cfg.teacher.seed
    network = build.networks(cfg, data)[0]
    module = ClassifierModule(
        network,
        optimizer=instantiate(cfg.teacher.optimizer),
        scheduler=instantiate(cfg.teacher.scheduler),
        channels_last=True,
    )
    quiet_trainer("plain", max_epochs=2, use_distributed_sampler=False).fit(module, datamodule=data)
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in load_file(weights).items())


def test_a_refused_resume_leaves_the_run_as_it_was(command):
    command("run_dir=run")
    before = Path("run/summary.json").read_text()
    with pytest.raises(SystemExit):
        command("run_dir=run", "resume=auto", "model.student.name=resnet14")
    assert Path("run/summary.json").read_text() == before


class StopAfter(Callback):
    """What Ctrl-C does, in the middle of an epoch."""

    def __init__(self, steps, error=KeyboardInterrupt):
        self.steps, self.error = steps, error

    def on_train_batch_end(self, trainer, module, *args):
        if trainer.global_step == self.steps and hasattr(module, "temperature"):
            raise self.error


STOP = "+callbacks.stop={_target_: tests.job.test_run.StopAfter, steps: 6}"


@pytest.mark.slow
def test_stopped_by_hand_and_resumed(command):
    command("run_dir=whole", "max_epochs=3", "curriculum.epochs=2")
    with pytest.raises(SystemExit) as stopped:
        command("run_dir=run", "max_epochs=3", "curriculum.epochs=2", STOP)
    assert stopped.value.code != 0
    found = summary()
    assert (found["status"], found["stage"], found["epochs"]) == ("stopped", "student", 1)
    assert Path("run/student.safetensors").exists()

    command("run_dir=run", "max_epochs=3", "curriculum.epochs=2", "resume=auto")
    assert (summary()["status"], summary()["epochs"]) == ("complete", 3)
    whole, resumed = (state(f"{name}/checkpoints/last.ckpt")["state_dict"] for name in ("whole", "run"))
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name
    with open("run/metrics.csv") as file:
        epochs = [row["epoch"] for row in csv.DictReader(file) if row["ctkd/lambda"]]
    assert [float(epoch) for epoch in epochs] == [0, 1, 2]


def test_resumed_run_tells_of_the_whole(command):
    settings = ["seed=2", "data.val_size=16", "optimizer.scheduler.milestones=[100]"]
    command("run_dir=whole", "max_epochs=3", *settings)
    command("run_dir=run", "max_epochs=2", *settings)
    first = summary()
    command("run_dir=run", "max_epochs=3", *settings, "resume=auto")
    found = summary()
    assert found["best"] == summary("whole")["best"]
    assert found["train_seconds"] > first["train_seconds"]

    command("run_dir=run", "max_epochs=3", *settings, "resume=auto")  # nothing is left to do
    again = summary()
    for key in ("best", "final", "images_per_second", "epochs"):
        assert again[key] == found[key], key


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.student.name=resnet14"], r"is of another run: student\..* differ; resume with the model"),
        (["temperature=instance"], r"is of another run: temperature\..* differ"),
        (["resume=weights.pth"], r"weights.pth is no checkpoint of a training, epoch, .* missing"),
        (["resume=text.ckpt"], r"text.ckpt is no checkpoint"),
        (["resume=cut.ckpt"], r"cut.ckpt is truncated or damaged"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_resume_from_what_does_not_fit(command, overrides, message):
    command("run_dir=run")
    torch.save({"model": {}}, "weights.pth")
    Path("text.ckpt").write_text("no checkpoint")
    Path("cut.ckpt").write_bytes(Path("run/checkpoints/last.ckpt").read_bytes()[:900])
    with pytest.raises(SystemExit) as stopped:
        command("run_dir=run", "resume=auto", "teacher.cache_dir=other", *overrides)
    assert re.search(message, stopped.value.code), stopped.value.code
    assert not Path("other").exists(), "the teacher's stage came first"


def test_a_resume_that_fails_at_once_leaves_what_there_was(command, monkeypatch):
    command("run_dir=run", "max_epochs=2")
    weights = Path("run/student.safetensors").read_bytes()
    for hook in ("setup", "on_train_start"):  # before and after the checkpoint is read
        with monkeypatch.context() as patch:
            patch.setattr(DistillationModule, hook, lambda *_, **__: (_ for _ in ()).throw(RuntimeError("disk")))
            with pytest.raises(RuntimeError, match="disk"):
                command("run_dir=run", "max_epochs=3", "resume=auto")
        assert (summary()["status"], summary()["stage"], summary()["epochs"]) == ("failed", "student", 2)
        assert Path("run/student.safetensors").read_bytes() == weights


def test_the_check_of_a_teacher_does_not_train_it_anew(command):
    command("run_dir=run")
    with pytest.raises(SystemExit, match="no better than chance"):
        command("run_dir=run", "teacher.check=true")
    assert len(list(Path("cache").rglob("teacher.safetensors"))) == 1


def test_a_training_that_diverges_stops(command):
    with pytest.raises(SystemExit) as stopped:
        command("run_dir=run", "optimizer.optimizer.lr=1e30", "max_epochs=3")
    assert re.search(r"the training loss is not finite in step \d+, epoch [12]: .*(nan|inf).*; lower the learning rate",
                     stopped.value.code)  # fmt: skip


@pytest.mark.parametrize(("error", "status"), [("KeyboardInterrupt", 130), ("SystemExit", 143)])
def test_a_stop_is_no_success(command, error, status):
    """Outside a Trainer; the second is what SIGTERM makes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Fake,
            "setup",
            lambda *_: (_ for _ in ()).throw({"KeyboardInterrupt": KeyboardInterrupt, "SystemExit": SystemExit}[error]),
        )
        with pytest.raises(SystemExit) as stopped:
            command("run_dir=run")
    assert stopped.value.code == status
    assert (summary()["status"], summary()["stage"]) == ("stopped", "teacher")


def test_networks_in_the_place_of_the_pairs_are_named():
    def named(*overrides):
        return pair_name(build.config("model=vgg13_to_vgg8", *overrides).model, "vgg13_to_vgg8")

    assert named("seed=1") == "vgg13_to_vgg8"
    assert named("model.student.name=torchvision/resnet18") == "vgg13_to_torchvision/resnet18"
    compared = build.config("experiment=compare_digits").model
    assert pair_name(compared, "wrn40_2_to_wrn16_2") == "wrn_16_2_to_resnet8"


def test_curriculum_without_effect_is_said(command):
    with pytest.warns(UserWarning, match="curriculum=linear has no effect: temperature=fixed does not learn"):
        command("run_dir=run", "curriculum=linear", "temperature=fixed")
    assert (summary()["curriculum"], summary()["without_effect"]) == ("linear", ["curriculum"])
    with pytest.warns(UserWarning, match="curriculum=linear has no effect: method=pkt softens no logits"):
        command("run_dir=run", "curriculum=linear", "method=pkt")
    assert summary()["without_effect"] == ["temperature", "curriculum"]


def test_pretrained_teacher_of_other_classes_is_trained_on(command, monkeypatch, caplog):
    def resnet8(*args, pretrained=False, **settings):
        return create_model("resnet8", **{**settings, "num_classes": 4})

    monkeypatch.setattr("ctkd_lightning.build.create_model", lambda name, **settings: resnet8(**settings))
    name = "model.teacher.name=torchvision/resnet18"
    command("run_dir=run", name, "model.teacher.pretrained=true")
    (weights,) = Path("cache").rglob("teacher.safetensors")
    assert weights.parent.name.startswith("torchvision_resnet18-fake")


@pytest.mark.parametrize("override", ["~logger.csv", "logger.csv=null", "progress=none", "callbacks.last=null"])
def test_without_a_logger_or_a_callback(command, override):
    command("run_dir=run", "logger=csv", override)
    assert summary()["status"] == "complete"


def test_interrupted_teacher_goes_on(command):
    command("run_dir=whole", "teacher.max_epochs=2", "teacher.cache_dir=whole")
    (expected,) = Path("whole").rglob("teacher.safetensors")
    epoch_end = ClassifierModule.on_train_epoch_end

    def interrupt(self):
        epoch_end(self)
        if self.trainer.current_epoch == 1:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClassifierModule, "on_train_epoch_end", interrupt)
        with pytest.raises(SystemExit):
            command("run_dir=run", "teacher.max_epochs=2", "teacher.cache_dir=parts")
    assert (summary()["status"], summary()["stage"]) == ("stopped", "teacher")
    assert not list(Path("parts").rglob("teacher.safetensors"))
    command("run_dir=run", "teacher.max_epochs=2", "teacher.cache_dir=parts")
    (found,) = Path("parts").rglob("teacher.safetensors")
    a, b = load_file(expected), load_file(found)
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_temperatures(command, temperature):
    module = made(temperature, num_classes=4)
    expected = (module.base if temperature in RULES else module)(*torch.randn(2, 3, 4))
    given = [f"temperature.{key}={value}" for key, value in GIVEN.get(temperature, {}).items()]
    command("run_dir=run", f"temperature={temperature}", *given, "curriculum=constant")
    final = summary()["final"]
    assert ("ctkd/lambda" in final) == (temperature in LEARNED)
    assert ("ctkd/temperature_std" in final) == (expected.ndim > 0)  # one a sample
    if expected.ndim == 0 and temperature not in LEARNED:
        assert final["ctkd/temperature"] == expected


def test_temperature_without_effect_is_said(command):
    with pytest.warns(UserWarning, match="the temperature has no effect: method sp has no softened term"):
        command("run_dir=run", "method=sp")
    assert (summary()["temperature"], summary()["without_effect"]) == ("global", ["temperature", "curriculum"])


def test_methods_combine_and_have_temperatures_of_their_own(command, capsys):
    command("run_dir=run", "method=[pkt,dkd,kd]", "temperature_per_method=true", "curriculum=constant")
    assert summary()["method"] == "pkt+dkd+kd"
    keys = state("run/checkpoints/last.ckpt")["state_dict"]
    assert {key for key in keys if key.startswith("temperature")} == {"temperature.dkd.value", "temperature.kd.value"}
    assert re.search(r"τ +\d+\.\d\d dkd, \d+\.\d\d kd \(global\)", capsys.readouterr().out)


def test_teacher_cache(command, capsys):
    command("run_dir=first", "teacher_cache=auto")
    command("run_dir=second", "teacher_cache=auto", "temperature=fixed", "model.student.name=resnet14")
    assert (summary("first")["teacher_cache"], summary("second")["teacher_cache"]) == (0.0, 1.0)
    assert "knew 100.0 % of the views" in capsys.readouterr().out
    assert len(list(Path("cache/teacher_outputs").iterdir())) == 1
    command("run_dir=third")
    assert summary("third")["teacher_cache"] is None


def test_runs_with_the_same_data_seed_share_the_teachers_outputs(command):
    for seed in (1, 2):
        command(f"run_dir={seed}", f"seed={seed}", "data.seed=5", "data.augmentation=crop", "teacher_cache=auto")
    assert (summary("1")["teacher_cache"], summary("2")["teacher_cache"]) == (0.0, 1.0)


def test_teacher_cache_that_cannot_be(command, capsys):
    """A folder that was named is an error; ``auto`` goes on without."""
    command("run_dir=run", "teacher_cache=auto", "method=at")
    assert "No teacher cache: the teacher cache keeps logits and pooled" in "".join(capsys.readouterr())
    assert summary()["status"] == "complete"


def test_validation_on_test_is_said(command):
    command("run_dir=run", "data.val_size=0")
    assert summary()["best"]["chosen_on"] == "test"


def test_sweep(command):
    command("-m", "run_dir=sweep", "temperature=fixed,global", "seed=2")
    found = [summary(f"sweep/{job}") for job in range(2)]
    assert [(s["temperature"], s["seed"]) for s in found] == [("fixed", 2), ("global", 2)]
    single = load_file("sweep/0/student.safetensors")
    command("run_dir=alone", "temperature=fixed", "seed=2")
    alone = load_file("alone/student.safetensors")
    assert all(torch.equal(single[name], alone[name]) for name in single)


def test_two_processes(tmp_path):
    """Through the command line, which the second process is started with again."""
    overrides = [o for o in SMALL if o != "trainer=cpu"]
    subprocess.run(
        [
            sys.executable,
            "-m",
            "ctkd_lightning.run",
            *overrides,
            "trainer=ddp_cpu",
            "run_dir=run",
            "curriculum=constant",
        ],
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    found = summary()
    assert (found["status"], found["epochs"]) == ("complete", 1)
    assert len(state("run/checkpoints/last.ckpt")["optimizer_states"][0]["state"]) > 0


class Payload:
    def __reduce__(self):
        return (os.system, ("touch ran",))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=resnet57"], r"Could not find 'model/resnet57': .*Valid: .*resnet56_to_resnet20"),
        (["data=cifar1000"], r"Could not find 'data/cifar1000'.*cifar100"),
        (["method=kdd"], r"Could not find 'method/kdd'.*kd"),
        (["temperature=globl"], r"Could not find 'temperature/globl'.*global"),
        (["optimzer.lr=1"], r"optimzer"),
        (["model.student.name=resnet9"], r"unknown model 'resnet9': did you mean"),
        (["method=fsp", "model.student.name=vgg8"], r"FSP compares networks of the same widths"),
        (["max_epochs=0"], r"max_epochs must be a whole number from 1, found 0"),
        (["max_epochs=true"], r"max_epochs must be a whole number from 1, found True"),
        (["seed=99999999999"], r"seed must be a whole number from 0 to 4294967295, found 99999999999"),
        (["teacher.seed=abc"], r"teacher.seed must be a whole number"),
        (["model.student.name=null"], r"model.student.name must be a network's name"),
        (["compile=maybe"], r"compile must be true, false, found maybe"),
        (["channels_last=perhaps"], r"channels_last must be true, false, auto, found perhaps"),
        (["teacher_cache=false"], r"teacher_cache must be off, auto or a folder, found False"),
        (["trainer.devices=99"], r"trainer.devices=99 processes on a CPU: take \d+ at most"),
        (["method.ce_weight=abc"], r"method.ce_weight"),
        (["callbacks.curriculum.interval=foo"], r"interval is 'epoch' or 'step', found 'foo'"),
        (["data=image_folder", "data.root=no_test"], r"no_test.*test.*val"),
        (["max_epochs=1.5"], r"max_epochs must be a whole number from 1, found 1.5"),
        (["teacher.max_epochs=-1"], r"teacher.max_epochs must be .* found -1"),
        (["temperature.tau_range=-3"], r"tau_range must be a finite number above 0, found -3"),
        (["temperature=fixed", "temperature.tau=0"], r"temperature's tau must be a finite number above 0, found 0"),
        (["curriculum.epochs=0"], r"curriculum's epochs must be a finite number above 0, found 0"),
        (["curriculum.end=2"], r"end must be between 0 and 1, found 2"),
        (["optimizer.optimizer.lr=fast"], r"optimizer: torch.optim.*SGD.* cannot be made: .*str"),
        (["+teacher.optimizer.rate=1"], r"teacher.optimizer: .*SGD.* cannot be made: .*unexpected.*'rate'"),
        (["optimizer.scheduler.milestones=[0]"], r"milestones must be positive, found"),
        (["trainer.devices=many"], r"devices"),
        (["data=image_folder", "data.root=nowhere"], r"nowhere"),
        (["data=image_folder"], r"data.root"),
        (["teacher.checkpoint=missing.pth"], r"teacher.checkpoint: no file at missing.pth"),
        (["teacher.checkpoint=other.safetensors"], r"other.safetensors.*7.*4"),
        (["teacher.checkpoint=truncated.pth"], r"truncated.pth"),
        (["teacher.checkpoint=malicious.pth"], r"malicious.pth"),
        (["resume=true"], r"resume must be auto or a checkpoint's file, found True"),
        (["teacher.checkpoint=true"], r"teacher.checkpoint: no file at True"),
        (["teacher.cache_dir=null"], r"teacher.cache_dir must be a folder, found None"),
        (["teacher.check=maybe"], r"teacher.check must be true, false, found maybe"),
        (["logger=null"], r"a group takes one of its choices or a list of them, found null"),
        (["resume=missing.ckpt"], r"resume: no file at missing.ckpt"),
        (["run_dir=file/below"], r"file"),
        (["method=at", "teacher_cache=kept"], r"teacher cache keeps logits and pooled .* reads stages, which are maps"),
        (["teacher.checkpoint=untrained.safetensors", "teacher_cache=file/below"], r"cannot write the teacher cache"),
        (["data.augmentation=none", "+data.num_views=3"], r"num_views=3 is for random_resized_crop, found .*=none"),
        (["data.augmentation=random_resized_crop"], r"needs the undecoded images, fake has them at one size: take"),
        (["data.batch_size=true"], r"batch_size must be a whole number from 1, found True"),
        (["teacher.cache_dir=file/below"], r"cannot write the teacher's folder .*set teacher.cache_dir"),
        (["teacher.check=true", "teacher.checkpoint=untrained.safetensors"], r"no better than chance"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_bad_input_is_one_line(command, overrides, message, capfd):
    Path("file").write_text("not a folder")
    torch.manual_seed(0)
    save_weights(create_model("resnet8", num_classes=7), "other.safetensors")
    save_weights(create_model("resnet8", num_classes=4), "untrained.safetensors")
    torch.save({"model": {"x": torch.zeros(1000)}}, "truncated.pth")
    Path("truncated.pth").write_bytes(Path("truncated.pth").read_bytes()[:700])
    Path("malicious.pth").write_bytes(pickle.dumps(Payload()))
    for name in ("a", "b"):
        Path("no_test/train", name).mkdir(parents=True)
        for number in range(20):
            Image.new("RGB", (8, 8)).save(f"no_test/train/{name}/{number}.png")
    run_dir = [] if any(o.startswith("run_dir") for o in overrides) else ["run_dir=run"]
    groups = tuple(o.partition("=")[0] for o in overrides if o.partition("=")[0] in ("data", "model"))
    small = [o for o in SMALL if not o.startswith(groups)]
    with pytest.raises(SystemExit) as stopped:
        command(*small, *overrides, *run_dir, small=False)
    assert isinstance(stopped.value.code, str)
    line = stopped.value.code
    assert line.startswith("error: ")
    assert "\n" not in line
    assert re.search(message, line), line
    assert "Traceback" not in capfd.readouterr().err
    early = ("temperature", "curriculum", "optimizer", "+teacher", "model.student", "seed", "data.root", "callbacks")
    if overrides[-1].startswith(early):
        assert not Path("cache/teachers").exists(), "the teacher's stage came first"
    assert not Path("ran").exists()


def test_learned_temperature_moves(command):
    command("run_dir=run", "curriculum=constant", "max_epochs=2")
    value = state("run/checkpoints/last.ckpt")["state_dict"]["temperature.value"]
    assert value != GlobalTemperature().value


def test_each_object_is_made_once(command, monkeypatch):
    made = Counter()
    kinds = [
        DKD,
        InstanceTemperature,
        Fake,
        DistillationModule,
        CurriculumTemperatureCallback,
        CSVLogger,
        ModelCheckpoint,
    ]
    for kind in kinds:

        def counting(self, *args, __init=kind.__init__, __name=kind.__name__, **settings):
            made[__name] += 1
            __init(self, *args, **settings)

        monkeypatch.setattr(kind, "__init__", counting)

    def network(name, **settings):
        made[name] += 1
        return create_model(name, **settings)

    monkeypatch.setattr("ctkd_lightning.build.create_model", network)
    save_weights(create_model("resnet8", num_classes=4), "given.safetensors")
    settings = ["method=dkd", "temperature=instance", "model.student.name=resnet14"]
    command("run_dir=run", *settings, "teacher.checkpoint=given.safetensors")
    assert made == {**{kind.__name__: 1 for kind in kinds}, "ModelCheckpoint": 2, "resnet8": 1, "resnet14": 1}


def test_a_user_error_is_kept(command):
    with pytest.raises(SystemExit) as stopped:
        command("run_dir=run", "method.ce_weight=-1")
    found = summary()
    assert (found["status"], found["stage"], found["epochs"]) == ("failed", "teacher", 0)
    assert stopped.value.code == f"error: {found['error']}"
    assert "ce_weight" in found["error"]


class Broken(Callback):
    """A fault in the student's second epoch."""

    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch == 1 and hasattr(module, "temperature"):
            raise RuntimeError("the wires\nare crossed")


def test_a_fault_is_kept_and_shown(command):
    with pytest.raises(RuntimeError, match="the wires"):
        command("run_dir=run", "max_epochs=3", "+callbacks.broken={_target_: tests.job.test_run.Broken}")
    found = summary()
    assert (found["status"], found["stage"], found["epochs"]) == ("failed", "student", 1)
    assert found["error"] == "RuntimeError: the wires are crossed"
    assert Path("run/student.safetensors").exists()


def test_what_a_run_says_while_it_goes_on(command, monkeypatch):
    """And what a run says for ever that was killed."""
    seen = []
    for kind in (ClassifierModule, DistillationModule):
        monkeypatch.setattr(kind, "on_train_end", lambda self: seen.append(summary()["status"]), raising=False)
    command("run_dir=run")
    assert seen == ["teacher", "student"]


def test_a_folder_that_cannot_be_written_any_more(command, monkeypatch, capsys):
    """The error is the one that the run ended with."""

    def full(*_):
        raise OSError(28, "No space left on device")

    def break_then(self):
        monkeypatch.setattr("os.replace", full)
        raise UserError("x is 3: use 4")

    monkeypatch.setattr(DistillationModule, "on_train_epoch_end", break_then)
    monkeypatch.setattr("ctkd_lightning.job.tasks.classification.save_student", full)
    with pytest.raises(SystemExit) as stopped:
        command("run_dir=run")
    assert stopped.value.code == "error: x is 3: use 4"
    said = capsys.readouterr().err
    assert "cannot write the trained weights" in said
    assert re.search(r"cannot write .*run/summary.json: No space left on device", said)
    assert summary()["status"] == "student"


def test_home_directories(command, monkeypatch, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    torch.manual_seed(0)
    save_weights(create_model("resnet8", num_classes=4), home / "given.safetensors")
    command("run_dir=~/run", "teacher.checkpoint=~/given.safetensors", "teacher_cache=~/kept")
    assert summary(home / "run")["status"] == "complete"
    assert list((home / "kept").iterdir())
    command("run_dir=~/run", "teacher.checkpoint=~/given.safetensors", "resume=~/run/checkpoints/last.ckpt")
    command("run_dir=~/other", "teacher.cache_dir=~/teachers")
    assert list((home / "teachers").rglob("teacher.safetensors"))
    assert not Path("~").exists()


def test_the_return_value(command):
    values = []

    def keeping(name, task):
        hydra_main(name, lambda cfg: values.append(task(cfg)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ctkd_lightning.run.hydra_main", keeping)
        command("run_dir=run", "max_epochs=2")
    assert values == [summary()["best"]["top1"]]


def test_the_configuration_of_a_run_makes_its_objects_again(command):
    command("run_dir=run", "method=[kd,at]", "temperature=instance")
    cfg = build.config(run="run")
    data = build.data(cfg)
    teacher, student = build.networks(cfg, data)
    module = build.module(cfg, teacher, student, data)
    build.trainer(cfg, logger=False, callbacks=[])
    load_weights(module.student, "run/student.safetensors")
    checkpoint = state("run/checkpoints/last.ckpt")["state_dict"]
    assert checkpoint.keys() == module.state_dict().keys()


@pytest.mark.parametrize(
    ("precision", "settings"),
    [("bf16-true", ("temperature=instance",)), ("16-true", ()), ("64-true", ("method=[kd,crd]",))],
)
def test_weights_of_another_type_are_tested_too(command, precision, settings):
    """In float32, as all are."""
    command("run_dir=run", f"trainer.precision={precision}", *settings)
    assert summary()["status"] == "complete"
    dtype = {"bf16-true": torch.bfloat16, "16-true": torch.float16, "64-true": torch.float64}[precision]
    assert load_file("run/student.safetensors")["conv1.weight"].dtype == dtype


def test_deterministic_kernels_are_asked_for(command, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda mode, **_: asked.append(mode))
    command("run_dir=run", "trainer.deterministic=true")
    assert summary()["status"] == "complete"
    assert set(asked) == {True}
