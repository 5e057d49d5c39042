"""Several teachers through the callback and the module: what is logged, kept and resumed."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ctkd_lightning import (
    ConstantCurriculum,
    CurriculumTemperatureCallback,
    DistillationModule,
    FixedTemperature,
    LinearCurriculum,
)
from ctkd_lightning.data import Digits
from ctkd_lightning.errors import UserError
from ctkd_lightning.models import create_model
from tests.callbacks import foreign
from tests.callbacks.foreign import assert_same_state, difference, loader, trainer
from tests.callbacks.test_checkpoint import KEY, SaveAt, one_batch_again_and_again

CURRICULUM = LinearCurriculum(epochs=4, start=0.5)


def teachers():
    return {"good": foreign.teacher(), "other": foreign.network(3), "third": foreign.network(4)}


def callback(**settings):
    torch.manual_seed(0)  # of what τ is made of
    defaults = {"teacher": teachers(), "temperature": foreign.temperature()}
    return CurriculumTemperatureCallback(CURRICULUM, **(defaults | settings))


def module(**settings):
    torch.manual_seed(0)

    def optimizer(parameters):
        return torch.optim.SGD(parameters, lr=foreign.LEARNING_RATE, momentum=foreign.MOMENTUM)

    return DistillationModule(
        teachers(), foreign.student(), temperature=foreign.temperature(), optimizer=optimizer, **settings
    )


def test_what_is_logged_is_what_the_first_step_gives(tmp_path):
    """One step an epoch: by hand the mean of the teachers' log-probabilities, as all τ are equal at first."""
    x, y = foreign.samples(count=8)
    z = torch.stack([net(x) for net in teachers().values()]).log_softmax(-1).mean(0)
    expected = F.cross_entropy(z, y).item()
    runs = [
        (foreign.Plain(), callback()),
        (module(), CurriculumTemperatureCallback(CURRICULUM)),
    ]
    for trained, added in runs:
        run = trainer(tmp_path, added, max_epochs=1)
        run.fit(trained, loader(count=8))
        logged = run.callback_metrics
        assert logged["train/teacher_fusion"].item() == pytest.approx(expected, rel=1e-5)
        for name in teachers():
            assert logged[f"ctkd/temperature/{name}"].item() == pytest.approx(3.0, rel=1e-5)
            assert f"ctkd/temperature_std/{name}" in logged
        assert logged["ctkd/lambda"] == 0.5


@pytest.mark.parametrize("step", [4, 6], ids=["boundary", "within an epoch"])
@pytest.mark.parametrize("kind", ["global", "instance"])
def test_resume_of_the_callback_is_exact(tmp_path, kind, step):
    def run(**fit_settings):
        added, trained = callback(teacher_fusion=kind), foreign.Plain()
        if fit_settings:
            nn.init.normal_(added.teacher_fusion.temperature.value)  # the checkpoint's must win
        path = tmp_path / f"{step}.ckpt"
        trainer(tmp_path, added, SaveAt(step, path)).fit(trained, one_batch_again_and_again(), **fit_settings)
        return trained, added.teacher_fusion

    straight, fusion = run()
    resumed, again = run(ckpt_path=tmp_path / f"{step}.ckpt", weights_only=True)
    assert_same_state(resumed, straight.state_dict())
    assert_same_state(again, fusion.state_dict())
    assert fusion.temperature.value.abs().max() > 1e-3


def test_resume_of_the_module_is_exact(tmp_path):
    def run(**fit_settings):
        trained = module(curriculum=CURRICULUM)
        trainer(tmp_path, SaveAt(6, tmp_path / "m.ckpt")).fit(trained, one_batch_again_and_again(), **fit_settings)
        return trained

    straight = run()
    resumed = run(ckpt_path=tmp_path / "m.ckpt", weights_only=True)
    assert_same_state(resumed, straight.state_dict())


def test_checkpoints_hold_the_fusion_and_no_teacher(tmp_path):
    own = {f"temperature.{name}" for name in ("weight", "bias", "out", "value", "scale")}
    run, trained, added = trainer(tmp_path, max_epochs=1), module(curriculum=CURRICULUM), callback()
    run.fit(trained, loader())
    run.save_checkpoint(tmp_path / "m.ckpt")
    found = torch.load(tmp_path / "m.ckpt", weights_only=True)["state_dict"]
    of_student = {f"student.{name}" for name in foreign.student().state_dict()}
    assert set(found) == {f"teacher_fusion.{n}" for n in own} | {"temperature.value"} | of_student

    run, plain = trainer(tmp_path, added, max_epochs=1), foreign.Plain()
    run.fit(plain, loader())
    run.save_checkpoint(tmp_path / "c.ckpt")
    found = torch.load(tmp_path / "c.ckpt", weights_only=True)
    assert set(found["state_dict"]) == set(foreign.Plain().state_dict())
    assert set(found["callbacks"][KEY]["teacher_fusion"]) == own
    with pytest.raises(UserError, match="checkpoint's teacher_fusion is another than this TemperatureFusion"):
        trainer(tmp_path, callback(teacher_fusion="global")).fit(
            foreign.Plain(), loader(), ckpt_path=tmp_path / "c.ckpt", weights_only=True
        )


@pytest.mark.parametrize("kind", ["instance", "global", "fixed"])
def test_a_checkpoint_of_as_many_teachers(tmp_path, kind):
    """One teacher has no use for a fusion, and several have none without."""
    of = {"several": {"teacher_fusion": kind}, "one": {"teacher": foreign.teacher()}}
    for name, settings in of.items():
        run = trainer(tmp_path, callback(**settings), max_epochs=1)
        run.fit(foreign.Plain(), loader())
        run.save_checkpoint(tmp_path / f"{name}.ckpt")
    for name, other in (("several", "one"), ("one", "several")):
        with pytest.raises(UserError, match=r"teachers of the first run"):
            trainer(tmp_path, callback(**of[name])).fit(
                foreign.Plain(), loader(), ckpt_path=tmp_path / f"{other}.ckpt", weights_only=True
            )


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_temperatures_stay_in_float32(tmp_path, precision):
    added, trained = callback(), module(curriculum=CURRICULUM)
    trainer(tmp_path, added, max_epochs=1, precision=precision).fit(foreign.Plain(), loader())
    trainer(tmp_path, max_epochs=1, precision=precision).fit(trained, loader())
    for fusion in (added.teacher_fusion, trained.teacher_fusion):
        assert {p.dtype for p in fusion.parameters()} == {torch.float32}
        assert fusion.temperature.value.abs().max() > 1e-4


def test_teacher_cache_keeps_the_scores_of_each(tmp_path):
    def small(seed):
        torch.manual_seed(seed)
        return create_model("resnet8", 10)

    class Images(foreign.Plain):
        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self.net(batch.image), batch.target)

    found = []
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        data = Digits(limit_train=64, batch_size=32, num_workers=0)
        trained = Images(small(1))
        added = CurriculumTemperatureCallback(
            ConstantCurriculum(),
            {"a": small(2), "b": small(3)},
            "net",
            temperature=FixedTemperature(4.0),
            teacher_cache=cache,
            teacher_fusion="global",
        )
        trainer(tmp_path, added, max_epochs=1, limit_val_batches=0).fit(trained, datamodule=data)
        found.append(trained)
    assert difference(found[1], found[2]) == 0
    assert difference(found[0], found[1]) <= 1e-3  # float16 in the cache


def test_without_targets(tmp_path):
    class Unlabelled(foreign.Plain):
        def training_step(self, batch, batch_idx):
            return self(batch).square().mean()

    data = torch.utils.data.DataLoader(foreign.samples()[0], batch_size=8)
    with pytest.raises(UserError, match=r"this step has none: .*teacher_fusion='fixed'"):
        trainer(tmp_path, callback()).fit(Unlabelled(), data)
    trainer(tmp_path, callback(teacher_fusion="fixed"), max_epochs=1).fit(Unlabelled(), data)


def test_what_cannot_be():
    with pytest.raises(UserError, match="teacher_fusion say how to distil a teacher: pass teacher="):
        CurriculumTemperatureCallback(teacher_fusion="fixed")
    with pytest.raises(UserError, match="and there is one"):
        callback(teacher=foreign.teacher(), teacher_fusion="fixed")
    with pytest.raises(UserError, match="teacher 'a' must be a network, found str"):
        callback(teacher={"a": "weights.pt", "b": foreign.teacher()})
