"""FusionModule against a loop by hand and scikit-learn; what is frozen, resumed, missing and refused."""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score
from torch import nn
from torch.utils.data import DataLoader

from ctkd_lightning import (
    ConstantCurriculum,
    CosineCurriculum,
    CurriculumTemperatureCallback,
    FusionModule,
    ModalityCorruption,
    TemperatureFusion,
)
from ctkd_lightning.errors import UserError
from ctkd_lightning.modules import EncodersModule
from tests.modules import fusing

DRIVERS = ["callback", "alone"]


def driven(driver):
    """The module's settings and the callbacks, with λ by either."""
    if driver == "callback":
        return {}, [CurriculumTemperatureCallback(fusing.CURRICULUM)]
    return {"curriculum": fusing.CURRICULUM}, []


@pytest.mark.parametrize("driver", DRIVERS)
def test_it_trains_as_a_loop_by_hand(driver, tmp_path):
    settings, callbacks = driven(driver)
    module = fusing.module(expert_weight=0.5, **settings)
    trainer = fusing.trainer(tmp_path, *callbacks)
    trainer.fit(module, fusing.loader())
    nets, p = fusing.by_hand(weight=0.5)
    fusing.assert_same(module.network.encoders.state_dict(), nets.state_dict(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(module.fusion.temperature.value.detach(), p, rtol=1e-4, atol=1e-5)
    assert p.abs().min() > 1e-3
    assert {"train/loss", "train/fused", "train/image", "train/audio"} <= set(trainer.callback_metrics)
    total = trainer.callback_metrics["train/fused"] + 0.5 * (
        trainer.callback_metrics["train/image"] + trainer.callback_metrics["train/audio"]
    )
    assert trainer.callback_metrics["train/loss"].item() == pytest.approx(total.item(), rel=1e-5)
    if driver == "callback":
        tau = module.fusion(dict.fromkeys(fusing.NAMES, torch.zeros(1, 3)))[1]
        logged = {n: trainer.callback_metrics[f"ctkd/temperature/{n}"].item() for n in fusing.NAMES}
        assert logged.keys() == tau.keys()
        assert trainer.callback_metrics["ctkd/lambda"].item() == 0.75


def test_frozen_encoders_stand_still_and_are_in_the_checkpoint(tmp_path):
    given = fusing.encoders()
    given["image"] = nn.Sequential(nn.BatchNorm1d(2), given["image"][:4], given["image"][4])
    module = FusionModule(given, fusing.fusion("instance", joint=fusing.WIDTHS), frozen=True, optimizer=fusing.sgd)
    before = fusing.state(module)
    trainer = fusing.trainer(tmp_path)
    trainer.fit(module, fusing.loader(), fusing.loader())
    assert not any(part.training for part in module.network.encoders.modules())
    assert module.fusion.training
    after = fusing.state(module)
    for name, value in after.items():
        frozen = name.startswith("network.encoders") or name.endswith(("log_prior", "scale"))
        assert torch.equal(value, before[name]) == frozen, name
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    kept = torch.load(tmp_path / "x.ckpt", weights_only=True)["state_dict"]
    assert any(name.startswith("network.encoders.image.0.running_mean") for name in kept)


def test_metrics_are_those_of_scikit_learn(tmp_path):
    module = fusing.module("instance")
    data = fusing.loader(48)
    trainer = fusing.trainer(tmp_path)
    trainer.fit(module, data)
    module.test_corruption = ModalityCorruption(["noise"], share=0.5, strength=3.0)
    evaluation = [batch | {"mask": batch["index"].unsqueeze(1) % 5 != torch.tensor([0, 9])} for batch in data]
    loaded = DataLoader(evaluation, batch_size=None)
    found = trainer.test(module, loaded, verbose=False)[0]
    outputs = trainer.predict(module, loaded)

    target = torch.cat([batch["target"] for batch in evaluation]).numpy()
    there = torch.cat([batch["mask"] for batch in evaluation])[:, 0].numpy()
    fused = torch.cat([output["log_probabilities"] for output in outputs]).numpy()
    assert found["test/top1"] == pytest.approx(100 * accuracy_score(target, fused.argmax(1)))
    assert found["test/loss"] == pytest.approx(log_loss(target, np.exp(fused)), rel=1e-5)
    corrupted = [module.test_corruption({n: b[n] for n in fusing.NAMES}, b["index"]) for b in evaluation]
    with torch.no_grad():
        scores = {n: torch.cat([module.network.encoders[n](x[n]) for x, _ in corrupted]).numpy() for n in fusing.NAMES}
    assert found["test/top1/audio"] == pytest.approx(100 * accuracy_score(target, scores["audio"].argmax(1)))
    assert found["test/top1/image"] == pytest.approx(
        100 * accuracy_score(target[there], scores["image"][there].argmax(1))
    )
    log_p = {n: F.log_softmax(torch.from_numpy(z), -1).numpy() for n, z in scores.items()}
    product = log_p["image"] * there[:, None] + log_p["audio"]
    average = np.exp(log_p["image"]) * there[:, None] + np.exp(log_p["audio"])
    assert found["test/top1/product"] == pytest.approx(100 * accuracy_score(target, product.argmax(1)))
    assert found["test/top1/average"] == pytest.approx(100 * accuracy_score(target, average.argmax(1)))
    for name, kept in (("image", there), ("audio", np.ones_like(there))):
        tau = torch.cat([output["tau"][name] for output in outputs]).numpy()
        bad = torch.cat([output["bad"][name] for output in outputs]).numpy()
        assert np.isinf(tau[~kept]).all()
        assert found[f"test/auroc/{name}"] == pytest.approx(roc_auc_score(bad[kept], tau[kept]), abs=1e-5)


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("kind", ["global", "instance"])
def test_a_run_resumed_within_an_epoch_is_the_same(kind, driver, tmp_path):
    def run(folder, resume=None):
        settings, callbacks = driven(driver)
        module = fusing.module(kind, corruption=fusing.corruption(), **settings)
        keep = ModelCheckpoint(
            folder, filename="{step}", every_n_train_steps=6, save_top_k=-1, auto_insert_metric_name=False
        )
        trainer = fusing.trainer(folder, *callbacks, keep, enable_checkpointing=True)
        trainer.fit(module, fusing.loader(), ckpt_path=resume, weights_only=True)
        return module, trainer

    whole, trainer = run(tmp_path / "whole")
    resumed, again = run(tmp_path / "rest", tmp_path / "whole" / "6.ckpt")  # of 4 steps an epoch
    assert again.global_step == trainer.global_step == 12
    fusing.assert_same(fusing.state(resumed), fusing.state(whole), rtol=0, atol=0)
    assert torch.equal(resumed.fusion.lambda_, whole.fusion.lambda_)
    for one, other in zip(again.optimizers[0].state.values(), trainer.optimizers[0].state.values(), strict=True):
        assert torch.equal(one["momentum_buffer"], other["momentum_buffer"])
    if driver == "callback":
        for name in fusing.NAMES:
            key = f"ctkd/temperature/{name}"
            assert torch.equal(again.callback_metrics[key], trainer.callback_metrics[key])


def test_what_is_missing_does_not_count(tmp_path):
    """By mask, or since its numbers are NaN: the same training."""
    results = []
    for way in ("mask", "nan", "mask by name"):
        module = fusing.module("instance", curriculum=ConstantCurriculum(1.0))
        batches = []
        for batch in fusing.loader():
            lost = batch["index"] % 3 == 0
            image = batch["image"].masked_fill(lost[:, None, None], torch.nan if way == "nan" else 0.0)
            mask = torch.stack([~lost, torch.ones_like(lost)], dim=1)
            said = {"mask": {"mask": mask}, "mask by name": {"mask": {"image": ~lost}}, "nan": {}}[way]
            batches.append(batch | {"image": image} | said)
        trainer = fusing.trainer(tmp_path, CurriculumTemperatureCallback(ConstantCurriculum(1.0)))
        if way == "nan":
            with pytest.warns(UserWarning, match="inputs of 'image' are NaN"):
                trainer.fit(module, DataLoader(batches, batch_size=None))
        else:
            trainer.fit(module, DataLoader(batches, batch_size=None))
        assert all(value.isfinite() for value in trainer.callback_metrics.values())
        results.append(fusing.state(module))
    fusing.assert_same(results[1], results[0])
    fusing.assert_same(results[2], results[0])


def test_temperatures_stay_in_float32(tmp_path):
    module = fusing.module("instance", of_fusion={"joint": fusing.WIDTHS, "context": fusing.WIDTHS})
    taus = []
    module.fusion.temperature.register_forward_hook(lambda _, __, tau: taus.append(tau.dtype))
    trainer = fusing.trainer(tmp_path, precision="bf16-mixed")
    trainer.fit(module, fusing.loader(), fusing.loader())
    assert set(taus) == {torch.float32}
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    assert trainer.callback_metrics["train/loss"].isfinite()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fusing.module("fixed", frozen=True), "nothing to train"),
        (lambda: fusing.module(expert_weight=-1.0), "expert_weight must be"),
        (lambda: fusing.module(corruption=ModalityCorruption(share={"imag": 0.5})), "did you mean image"),
        (lambda: fusing.module(corruption=ModalityCorruption(count=3)), "needs as many, found image, audio"),
        (lambda: FusionModule(fusing.encoders(), fusing.fusion(task="multilabel")), "one class out of several"),
        *(
            (
                lambda name=name: FusionModule(
                    {name: nn.Linear(2, 3), "audio": nn.Linear(2, 3)}, TemperatureFusion(3, [name, "audio"])
                ),
                f"cannot be named {name!r}",
            )
            for name in ("mask", "product", "average")
        ),
        (lambda: EncodersModule({"a.b": nn.Linear(2, 3)}), "without a dot"),
        (lambda: EncodersModule({"loss": nn.Linear(2, 3)}), "cannot be named 'loss'"),
    ],
)
def test_settings_that_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize("make", [fusing.module, lambda: EncodersModule(fusing.encoders())])
@pytest.mark.parametrize("stage", ["fit", "validate"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda batch: (batch["image"], batch["target"]), "must be a mapping with the modalities image, audio"),
        (lambda batch: {n: v for n, v in batch.items() if n != "audio"}, "has no modality 'audio'"),
        (lambda batch: {n: v for n, v in batch.items() if n != "target"}, "has no target under"),
    ],
)
def test_batches_that_are_refused(change, message, stage, make, tmp_path):
    batches = DataLoader([change(batch) for batch in fusing.loader(8)], batch_size=None)
    module = make()
    if stage == "validate" and isinstance(module, EncodersModule):
        pytest.skip("it has no validation")
    with pytest.raises(UserError, match=message):
        getattr(fusing.trainer(tmp_path), stage)(module, batches)


def test_prediction_needs_no_target(tmp_path):
    batches = [{n: batch[n] for n in fusing.NAMES} for batch in fusing.loader(8)]
    module = fusing.module()
    output = fusing.trainer(tmp_path).predict(module, DataLoader(batches, batch_size=None))[0]
    torch.testing.assert_close(output["log_probabilities"], module(batches[0]).detach())
    assert output["tau"]["audio"].shape == (8,)


def test_encoders_by_themselves_as_by_hand(tmp_path):
    """Each learns from the samples that have it, as in a loop of its own."""
    module = EncodersModule(fusing.encoders(), optimizer=fusing.sgd)
    batches = []
    for batch in fusing.loader():
        image, mask = batch["image"].clone(), torch.ones(8, 2)
        image[batch["index"] % 4 == 0] = torch.nan
        mask[:3, 1] = 0
        batches.append(batch | {"image": image, "mask": mask})
    fusing.trainer(tmp_path, max_epochs=1).fit(module, DataLoader(batches, batch_size=None))
    for m, (name, net) in enumerate(fusing.encoders().items()):
        optimizer = fusing.sgd(net.parameters())
        for batch in batches:
            kept = batch["mask"][:, m].bool() & batch[name].flatten(1).isfinite().all(1)
            optimizer.zero_grad()
            F.cross_entropy(net(batch[name][kept]), batch["target"][kept]).backward()
            optimizer.step()
        fusing.assert_same(module.encoders[name].state_dict(), net.state_dict(), rtol=1e-4, atol=1e-6)


def test_area_where_nothing_tells_apart(tmp_path):
    """All samples of a modality are corrupted: no number, and not 0."""
    module = fusing.module("instance")
    module.test_corruption = ModalityCorruption(["noise"], share={"image": 1.0, "audio": 0.5})
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "No negative samples")
        found = fusing.trainer(tmp_path).test(module, fusing.loader(), verbose=False)[0]
    assert np.isnan(found["test/auroc/image"])
    assert 0 < found["test/auroc/audio"] < 1


@pytest.mark.parametrize(
    ("settings", "callbacks", "warns"),
    [
        ({"kind": "global"}, [], True),
        ({"kind": "instance", "curriculum": CosineCurriculum(start=0.5)}, [], False),
        ({"kind": "fixed"}, [], False),
        ({"kind": "global", "frozen": True}, [], False),  # whose own is 1 from the start
        ({"kind": "global"}, [CurriculumTemperatureCallback], True),
    ],
)
def test_a_curriculum_that_never_leaves_zero_is_told_once(settings, callbacks, warns, tmp_path):
    trainer = fusing.trainer(tmp_path, *(make() for make in callbacks), max_epochs=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(fusing.module(**settings), fusing.loader())
    assert sum("λ never leaves 0 in 1 epoch" in str(w.message) for w in caught) == warns


class TwoEncoders(LightningModule):
    """As a user would write it, with two lines added."""

    def __init__(self, image, audio, **settings):
        super().__init__()
        self.image, self.audio = image, audio
        self.image.requires_grad_(False)
        self.audio.requires_grad_(False)
        self.fusion = TemperatureFusion(3, ["image", "audio"], **settings)

    def training_step(self, batch, batch_idx):
        image, audio = self.image(batch["image"]), self.audio(batch["audio"])
        return self.fusion.losses({"image": image, "audio": audio}, batch["target"])["loss"]

    def configure_optimizers(self):
        return torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=0.1)


@pytest.mark.parametrize("kind", ["global", "instance"])
def test_two_lines_in_a_module_of_others(kind, tmp_path):
    """Over trained encoders of a good modality and of noise, the noise's temperature rises."""
    trained = EncodersModule(fusing.encoders(), optimizer=fusing.sgd)
    fusing.trainer(tmp_path, max_epochs=10).fit(trained, fusing.loader())
    torch.manual_seed(0)
    module = TwoEncoders(trained.encoders["image"], trained.encoders["audio"], kind=kind)
    other = [batch | {"audio": batch["audio"].roll(3, dims=0)} for batch in fusing.loader()]  # noise not seen before
    trainer = fusing.trainer(tmp_path, CurriculumTemperatureCallback(ConstantCurriculum(1.0)), max_epochs=15)
    trainer.fit(module, DataLoader(other, batch_size=None))
    logged = trainer.callback_metrics
    assert logged["ctkd/temperature/audio"] > 5 * logged["ctkd/temperature/image"]
    suffixes = {"", "_std", "_min", "_max"} if kind == "instance" else {""}
    assert {n for n in logged if "temperature" in n} == {
        f"ctkd/temperature{suffix}/{name}" for suffix in suffixes for name in fusing.NAMES
    }


def test_a_module_of_others_hears_of_a_curriculum_that_never_leaves_zero(tmp_path):
    trainer = fusing.trainer(tmp_path, CurriculumTemperatureCallback(), max_epochs=1)
    with pytest.warns(UserWarning, match="λ never leaves 0 in 1 epoch"):
        trainer.fit(TwoEncoders(*fusing.encoders().values()), fusing.loader())


class TwoFusions(TwoEncoders):
    def __init__(self):
        super().__init__(*fusing.encoders().values())
        self.second = TemperatureFusion(3, ["audio", "text"], "global")

    def training_step(self, batch, batch_idx):
        audio = self.audio(batch["audio"])
        second = self.second.losses({"audio": audio, "text": audio.flip(1)}, batch["target"])["loss"]
        return super().training_step(batch, batch_idx) + second


def test_two_fusions_in_one_module_are_told_apart(tmp_path):
    trainer = fusing.trainer(tmp_path, CurriculumTemperatureCallback(), max_epochs=1)
    trainer.fit(TwoFusions(), fusing.loader())
    assert {n for n in trainer.callback_metrics if n.startswith("ctkd/temperature/")} == {
        "ctkd/temperature/image",
        "ctkd/temperature/fusion.temperature.audio",
        "ctkd/temperature/second.temperature.audio",
        "ctkd/temperature/text",
    }


def test_names_stay_where_one_modality_is_missing_throughout(tmp_path):
    module = fusing.module("instance")
    batches = [batch | {"mask": torch.tensor([[1, 0]]).expand(8, 2)} for batch in fusing.loader()]
    trainer = fusing.trainer(tmp_path, CurriculumTemperatureCallback(), max_epochs=1)
    trainer.fit(module, DataLoader(batches, batch_size=None))
    assert {n for n in trainer.callback_metrics if n.startswith("ctkd/temperature")} == {
        f"ctkd/temperature{suffix}/image" for suffix in ("", "_std", "_min", "_max")
    }


def test_a_modality_may_be_named_as_a_target_is():
    """The axes of a sensor are x, y and z."""
    names = ("x", "y", "index")
    module = FusionModule({name: nn.Linear(2, 3) for name in names}, TemperatureFusion(3, names))
    inputs = {name: torch.randn(4, 2) for name in names}
    target = torch.tensor([0, 2, 1, 2])
    loss = module.training_step({**inputs, "target": target}, 0)
    scores = {name: module.network.encoders[name](inputs[name]) for name in names}
    log_p, _ = module.fusion(scores)
    own = sum(nn.functional.cross_entropy(scores[name], target) for name in names)
    torch.testing.assert_close(loss, nn.functional.nll_loss(log_p, target) + own)
    with pytest.raises(UserError, match="no target"):
        module.training_step(inputs, 0)
