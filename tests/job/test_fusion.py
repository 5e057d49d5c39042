import json
import math
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from safetensors.numpy import load_file
from scipy.special import log_softmax, softmax

from ctkd_lightning import build
from ctkd_lightning.modules import EncodersModule, FusionModule

SMALL = ("experiment=fusion_digits", "trainer=cpu", "data.limit_train=200", "curriculum=constant", "max_epochs=2")
VIEWS = ("pixels", "fourier", "profiles", "edges", "cosines", "noise")


def summary(run="run"):
    return json.loads(Path(run, "summary.json").read_text())


def test_the_summary_is_what_its_weights_give(command):
    command(
        *SMALL, "fusion=global", "fusion.fit_temperatures=true", "fusion.conditions=null", "run_dir=run", small=False
    )
    found, weights = summary(), load_file("run/fused.safetensors")
    assert (found["status"], found["modalities"], list(found["conditions"])) == ("complete", list(VIEWS), ["clean"])
    batches = list(build.multimodal_data(build.config(run="run")).test_dataloader())
    inputs = {name: np.concatenate([batch[name].numpy() for batch in batches]) for name in VIEWS}
    target = np.concatenate([batch["target"].numpy() for batch in batches])
    scores = {
        name: inputs[name] @ weights[f"encoders.{name}.head.weight"].T + weights[f"encoders.{name}.head.bias"]
        for name in VIEWS
    }
    tau = {name: found["final"][f"ctkd/temperature/{name}"] * found["fitted"][name] for name in VIEWS}
    expected = {
        "fused": sum(log_softmax(z / tau[name], axis=1) for name, z in scores.items()),
        "product": sum(log_softmax(z, axis=1) for z in scores.values()),
        "average": sum(softmax(z, axis=1) for z in scores.values()),
        **scores,
    }
    for name, values in expected.items():
        top1 = 100 * np.mean(values.argmax(axis=1) == target)
        assert found["conditions"]["clean"][name] == pytest.approx(top1, abs=100.5 / len(target)), name  # rounding
    assert found["conditions"]["clean"]["fused"] != found["conditions"]["clean"]["noise"]


def test_files_and_table(command, capsys):
    command(*SMALL, "fusion.frozen=true", "fusion.encoder_epochs=1", "run_dir=run", small=False, drawn=True)
    for name in ("fused.safetensors", "encoders.safetensors", "metrics.csv", "figures/training.png",
                 "figures/conditions.png", "figures/temperatures.svg"):  # fmt: skip
        assert Path("run", name).is_file(), name
    kept, fused = load_file("run/encoders.safetensors"), load_file("run/fused.safetensors")
    assert all(np.array_equal(value, fused[f"encoders.{name}"]) for name, value in kept.items())
    found = summary()["conditions"]
    assert list(found) == ["clean", "noise", "drop", "stuck", "shuffle"]
    assert all(0 <= found["noise"][f"auroc/{name}"] <= 1 for name in VIEWS)
    printed = capsys.readouterr().out
    for word in ("fused", "product", "average", "pixels alone", "joint alone", "AUROC", "shuffle"):
        assert word in printed, word
    assert f"{found['clean']['fused']:.2f}" in printed


def test_one_modality_alone(command, capsys):
    """Corrupted in all samples, nothing tells its τ apart: no area under a curve, and none that is 0."""
    command(*SMALL, "data.modalities=[pixels]", "max_epochs=1", "fusion.network={joint: false, context: false}",
            "run_dir=run", small=False)  # fmt: skip
    assert not [name for found in summary()["conditions"].values() for name in found if "auroc" in name]
    assert "AUROC" not in capsys.readouterr().out


def test_frozen_encoders_learn_before_they_are_frozen(command):
    """In training mode: batch norm counts the steps. And Lightning's words of what is meant so are not shown."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*(in eval mode|no `validation_step`)")
        command(*SMALL, "encoders=vector", "fusion.frozen=true", "fusion.encoder_epochs=3", "fusion.conditions=null",
                "max_epochs=1", "logger=[]", "run_dir=run", small=False)  # fmt: skip
    kept, fused = load_file("run/encoders.safetensors"), load_file("run/fused.safetensors")
    steps = {name: value for name, value in kept.items() if name.endswith("num_batches_tracked")}
    assert set(map(int, steps.values())) == {3 * math.ceil(200 / 32)}
    assert all(np.array_equal(value, fused[f"encoders.{name}"]) for name, value in kept.items())
    assert not Path("run", "metrics.csv").exists()


def test_stopped_while_the_encoders_learn(command, monkeypatch):
    settings = (*SMALL, "fusion.frozen=true", "fusion.encoder_epochs=2", "fusion.conditions=null", "max_epochs=1")
    command(*settings, "run_dir=whole", small=False)

    def interrupt(self):
        if self.trainer.current_epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(EncodersModule, "on_train_epoch_start", interrupt)
        with pytest.raises(SystemExit) as stopped:
            command(*settings, "run_dir=run", small=False)
    assert stopped.value.code == 130
    assert summary()["status"] == "stopped"
    assert not Path("run", "encoders.safetensors").exists()
    command(*settings, "run_dir=run", "resume=auto", small=False)
    whole, run = (load_file(f"{folder}/fused.safetensors") for folder in ("whole", "run"))
    assert summary()["status"] == "complete"
    assert all(np.array_equal(value, run[name]) for name, value in whole.items())


class Stop(Callback):
    """Ctrl-C in the fusion's second epoch."""

    def on_train_epoch_start(self, trainer, module):
        if isinstance(module, FusionModule) and trainer.current_epoch == 1:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_a_resumed_run_is_the_same(command):
    settings = (*SMALL, "fusion.frozen=true", "fusion.conditions=null")  # the joint head's dropout draws numbers
    command(*settings, "run_dir=whole", small=False)
    with pytest.raises(SystemExit) as stopped:
        command(*settings, "run_dir=run", "+callbacks.stop={_target_: tests.job.test_fusion.Stop}", small=False)
    assert stopped.value.code == 130
    assert (summary()["status"], summary()["stage"], summary()["epochs"]) == ("stopped", "fusion", 1)
    command(*settings, "run_dir=run", "resume=auto", small=False)
    whole, run = load_file("whole/fused.safetensors"), load_file("run/fused.safetensors")
    assert all(np.array_equal(value, run[name]) for name, value in whole.items())
    assert summary()["conditions"] == summary("whole")["conditions"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data=digits"], "takes data of several modalities"),
        (["encoders=series"], "takes samples"),
        (["fusion.student=nose"], "fusion.student=nose is no modality.*did you mean noise"),
        (["fusion.student=pixels", "method=at"], "reads features of the teacher"),
        (["fusion.conditions.noise.kinds=[nois]"], "did you mean noise"),
        (["+fusion.conditions.noise.foo=3"], r"fusion.conditions.noise: .*'foo'"),
        (["fusion.conditions=3"], "must be corruptions by name, .*found 3"),
        (["fusion.conditions.noise=3"], "fusion.conditions.noise must be a corruption's settings"),
        (["+fusion.conditions.clean.kinds=[drop]"], "fusion.conditions.clean: the test on clean samples"),
        (["fusion.corruption.kinds=[nois]"], "did you mean noise"),
        (["fusion.corruption.share={nose: 0.5}"], "names no modality with 'nose': did you mean noise"),
        (["fusion.corruption.share=1.5"], "share must be a finite number from 0 to 1, found 1.5"),
        (["fusion.conditions.drop.share={nose: 0.5}"], "names no modality with 'nose': did you mean noise"),
        (["fusion.conditions.drop.share=1.5"], "share must be a finite number from 0 to 1, found 1.5"),
        (["+fusion.conditions.drop.count=7"], "count=7 modalities needs as many"),
        (["data.modalities=[pixel]"], "no modality 'pixel': did you mean pixels"),
        (["fusion.fit_temperatures=true", "data.val_size=0"], "fits on validation samples"),
        (["fusion.fit_temperatures=true", "+fusion.network.normalize=true"], "normalize=True takes it away"),
        (["fusion.network.kind=nonsense"], "Valid: fixed, global, instance"),
        (["fusion=global", "fusion.network.context=true"], "context says what"),
        (["fusion=fixed", "fusion.frozen=true"], "nothing to train"),
        (["fusion.encoder_weights=other.pth"], "set fusion.frozen=true"),
        (["fusion.encoder_weights=missing.pth", "fusion.frozen=true"], "no file at missing.pth"),
        (["fusion.encoder_weights=other.pth", "fusion.frozen=true"], "other.pth"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_mistakes_show_before_anything_is_trained(command, monkeypatch, overrides, message):
    monkeypatch.setattr("lightning.pytorch.Trainer.fit", lambda *_, **__: pytest.fail("trained"))
    torch.save({"weight": torch.zeros(3)}, "other.pth")
    with pytest.raises(SystemExit) as stopped:
        command(*[word for word in SMALL if "limit" not in word or "data=digits" not in overrides], *overrides,
                "run_dir=run", small=False)  # fmt: skip
    assert re.search(message, str(stopped.value.code)), stopped.value.code
    assert "\n" not in stopped.value.code


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method=dkd"], "method has no effect"),
        (["fusion=fixed"], "curriculum=constant has no effect"),
        (["fusion.encoder_epochs=2"], "fusion.encoder_epochs has no effect"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_settings_without_effect_are_told(command, overrides, message):
    with pytest.warns(UserWarning, match=message):
        command(*SMALL, "fusion.conditions=null", "max_epochs=1", *overrides, "run_dir=run", small=False)
