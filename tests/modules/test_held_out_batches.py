"""Validation batches from which temperatures learn, in a Trainer."""

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from ctkd_lightning import (
    ConstantCurriculum,
    CurriculumTemperatureCallback,
    Distillation,
    DistillationModule,
    GlobalTemperature,
    build,
)
from ctkd_lightning.data import Fake
from ctkd_lightning.errors import UserError
from ctkd_lightning.modules import distillation as of_module
from ctkd_lightning.modules._held_out_batches import HeldOutBatches
from tests.modules.test_distillation import data, network, trainer


class FakeTrainer:
    def __init__(self, *, loaders=None, datamodule=None):
        self.val_dataloaders, self.datamodule = loaders, datamodule


class Own(Fake):
    def __init__(self, **settings):
        super().__init__(train_size=64, test_size=16, image_size=4, num_classes=4, batch_size=8, **settings)


def rows(batch):
    return batch[0].flatten(1).sum(1).tolist()


def plain_sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05)  # no weight decay, which moves the temperature too


def module(objective="held_out", inputs=12):
    torch.manual_seed(0)
    temperature = GlobalTemperature(initial_value=-1.0, objective=objective)
    networks = network(16), network()
    for each in networks if inputs != 12 else ():
        each[1] = torch.nn.Linear(inputs, each[1].out_features)
    for each in networks:
        each[-1].weight.data *= 6  # logits that differ, so that τ matters
    return DistillationModule(*networks, temperature=temperature, optimizer=plain_sgd)


def test_batches_without_end_by_the_step_s_number():
    loader = data(samples=40, batch_size=16)
    expected = [rows(batch) for batch in loader]
    held_out = HeldOutBatches(FakeTrainer(loaders=[loader, data()]))
    state = torch.get_rng_state()
    assert [rows(held_out.at(step)) for step in range(7)] == [expected[step % 3] for step in range(7)]
    held_out.let_go()
    assert [rows(held_out.at(step)) for step in (7, 8, 4)] == [expected[step % 3] for step in (7, 8, 4)]
    assert torch.equal(torch.get_rng_state(), state)


def test_of_this_package_s_data_in_an_order_of_their_own():
    source = Own(val_size=24)
    source.setup("fit")
    held_out = HeldOutBatches(FakeTrainer(datamodule=source))
    passes = [[held_out.at(3 * n + step).index for step in range(3)] for n in range(2)]
    for each in passes:
        assert sorted(torch.cat(each).tolist()) == sorted(source.val_indices.tolist())
        assert len(each[0]) == 8
    assert not torch.equal(torch.cat(passes[0]), torch.cat(passes[1]))
    again = HeldOutBatches(FakeTrainer(datamodule=source))
    assert [again.at(step).index.tolist() for step in (4, 5, 1)] == [
        each.tolist() for each in (passes[1][1], passes[1][2], passes[0][1])
    ]


def test_workers_that_serve_one_reader_at_a_time(tmp_path):
    """Validation reads the loader between the steps of an epoch."""
    found = []
    for workers in ({}, {"num_workers": 1, "persistent_workers": True}):
        fitted = module()
        validation = DataLoader(data(samples=48).dataset, batch_size=16, **workers)
        callbacks = [CurriculumTemperatureCallback(ConstantCurriculum())]
        settings = {"val_check_interval": 2, "limit_val_batches": 1}
        trainer(tmp_path, callbacks=callbacks, **settings).fit(fitted, data(samples=80), validation)
        found.append(fitted.temperature.value.item())
    assert found[0] == found[1] != -1.0


def test_fit_equals_a_loop_with_the_engine(tmp_path):
    fitted, by_hand = module(), module()
    validation = data(samples=40, batch_size=8)
    callbacks = [CurriculumTemperatureCallback(ConstantCurriculum(0.5))]
    trainer(tmp_path, callbacks=callbacks).fit(fitted, data(), validation)
    engine = Distillation(by_hand.student, by_hand.teacher, temperature=by_hand.temperature).train()
    engine.temperature.lambda_.fill_(0.5)
    optimizer = plain_sgd(engine.parameters())
    held_out = list(validation)
    for n, (images, target) in enumerate([*data(), *data()]):
        engine.hold_out(held_out[n % 5][0], target=held_out[n % 5][1])
        optimizer.zero_grad()
        engine(images, target=target)["loss"].backward()
        optimizer.step()
    moved = by_hand.temperature.value.item() + 1.0
    assert fitted.temperature.value.item() + 1.0 == pytest.approx(moved, rel=1e-3)
    assert abs(moved) > 3e-4
    for name, expected in by_hand.student.state_dict().items():
        torch.testing.assert_close(fitted.student.state_dict()[name], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("settings", [{"accumulate_grad_batches": 2}, {"precision": "bf16-mixed"}])
def test_accumulation_and_mixed_precision(tmp_path, settings):
    fitted = module()
    callbacks = [CurriculumTemperatureCallback(ConstantCurriculum())]
    trainer(tmp_path, callbacks=callbacks, **settings).fit(fitted, data(), data())
    assert fitted.temperature.value.isfinite()
    assert abs(fitted.temperature.value.item() + 1.0) > 1e-4


def test_with_a_teacher_cache(tmp_path):
    found = []
    for cached in (False, True):
        source = Own(val_size=24)
        source.setup("fit")
        fitted = module(inputs=48)
        if cached:
            fitted.cache_teacher(source, tmp_path / "cache", precision="32-true")
        callbacks = [CurriculumTemperatureCallback(ConstantCurriculum())]
        trainer(tmp_path, callbacks=callbacks).fit(fitted, datamodule=source)
        found.append(fitted.temperature.value.item())
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    assert found[0] != -1.0


class Stream(IterableDataset):
    def __iter__(self):
        yield from data().dataset


def test_validation_data_that_cannot_serve(tmp_path):
    fit = trainer(tmp_path)
    with pytest.raises(UserError, match="learns from validation data, and in the first epoch there are none"):
        fit.fit(module(), data())
    with pytest.raises(UserError, match="how many validation batches there are, and the DataLoader does not say it"):
        trainer(tmp_path).fit(module(), data(), DataLoader(Stream(), batch_size=8))
    with pytest.raises(UserError, match=r"with val_size=0 these are the test's: set val_size above 0"):
        trainer(tmp_path).fit(module(inputs=48), datamodule=Own(val_size=0))
    trainer(tmp_path).fit(module("cooperative"), data())


def test_what_a_configuration_cannot_ask_for_is_told_before_the_teacher_trains():
    settings = ["data=fake", "data.image_size=8", "data.train_size=40", "data.test_size=8", "data.num_classes=4"]
    settings += ["model.teacher.name=resnet8", "model.student.name=resnet8", "temperature.objective=held_out"]
    for val_size, refused in ((0, True), (8, False)):
        cfg = build.config(*settings, f"data.val_size={val_size}")
        source = build.data(cfg)
        networks = build.networks(cfg, source)
        if refused:
            with pytest.raises(UserError, match="set val_size above 0"):
                build.module(cfg, *networks, source)
        else:
            assert build.module(cfg, *networks, source).distillation.learns_from_held_out


def test_a_trainer_that_shards(tmp_path, monkeypatch):
    fitted = module()
    monkeypatch.setattr(of_module, "is_sharded", lambda module: True)
    with pytest.raises(UserError, match="which a Trainer that shards does not hold in one place"):
        trainer(tmp_path).fit(fitted, data(), data())


def test_the_callback_on_a_foreign_module(tmp_path):
    class Foreign(torch.nn.Module):
        pass

    from lightning.pytorch.demos.boring_classes import BoringModel

    brought = CurriculumTemperatureCallback(teacher=BoringModel(), temperature=GlobalTemperature(objective="held_out"))
    with pytest.raises(UserError, match="train with DistillationModule; the callback cannot"):
        trainer(tmp_path, callbacks=[brought]).fit(BoringModel())
    own = BoringModel()
    own.temperature = GlobalTemperature(objective="held_out")
    with pytest.raises(UserError, match="'temperature' has objective='held_out', and BoringModel has no engine"):
        trainer(tmp_path, callbacks=[CurriculumTemperatureCallback()]).fit(own)
