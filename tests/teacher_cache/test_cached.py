from functools import partial

import pytest
import torch
from lightning.pytorch import seed_everything
from torch.nn import AdaptiveAvgPool2d, AdaptiveMaxPool2d

from ctkd_lightning import CurriculumTemperatureCallback, DistillationModule
from ctkd_lightning.curriculum import ConstantCurriculum
from ctkd_lightning.data import Fake
from ctkd_lightning.data._loading.batch import TeacherBatch
from ctkd_lightning.errors import UserError
from ctkd_lightning.methods import AT, CC, KD, PKT, RKD, SRRL
from ctkd_lightning.models import create_model
from ctkd_lightning.teacher_cache.cached import cache_key
from ctkd_lightning.teacher_cache.store import TeacherCache
from tests.quiet import quiet_trainer

EXAMPLE = torch.zeros(2, 3, 8, 8)


def images(**settings):
    defaults = {"train_size": 64, "test_size": 16, "num_classes": 4, "image_size": 8, "batch_size": 16, "padding": 1}
    data = Fake(**(defaults | settings))
    data.setup("fit")
    return data


def distillation(method=None):
    seed_everything(3, verbose=False)
    return DistillationModule(
        create_model("resnet8", 4),
        create_model("resnet8", 4),
        method=method or KD(),
        example_image=EXAMPLE,
        optimizer=partial(torch.optim.SGD, lr=1e-3),  # rounding stays rounding
    )


def fit(module, data, tmp_path, cache=True, epochs=2, precision="32-true"):
    """Train; with a cache, count how many images the teacher sees."""
    seen = []
    if cache:
        module.cache_teacher(data, tmp_path / "cache", precision=precision)
    module.teacher.network.register_forward_hook(lambda _, inputs, output: seen.append(len(inputs[0])))
    callback = CurriculumTemperatureCallback(ConstantCurriculum(1.0))
    trainer = quiet_trainer(tmp_path, max_epochs=epochs, limit_val_batches=0, callbacks=[callback], precision=precision)
    trainer.fit(module, datamodule=data)
    return module, sum(seen)


@pytest.mark.parametrize("method", [KD, lambda: {"kd": KD(), "rkd": RKD()}], ids=["logits", "pooled features"])
def test_cold_and_warm_runs_are_equal_and_near_the_uncached_one(tmp_path, method):
    plain, seen = fit(distillation(method()), images(), tmp_path, cache=False)
    samples = len(images().train_indices)
    assert seen == 2 * samples
    cold, seen = fit(distillation(method()), images(), tmp_path)
    assert 0 < seen <= 2 * samples
    assert cold.cached_teacher.known == 2 * samples - seen
    warm, seen = fit(distillation(method()), images(), tmp_path)
    assert seen == 0
    assert warm.cached_teacher.known == warm.cached_teacher.asked == 2 * samples
    for name, value in cold.state_dict().items():
        assert torch.equal(warm.state_dict()[name], value)
        torch.testing.assert_close(value, plain.state_dict()[name], rtol=1e-3, atol=1e-4)
    assert not torch.equal(cold.student.conv1.weight, distillation().student.conv1.weight)


def test_the_cache_holds_what_the_teacher_gives_for_each_view(tmp_path):
    data = images()
    module, _ = fit(distillation({"kd": KD(), "rkd": RKD()}), data, tmp_path)
    teacher = create_model("resnet8", 4)
    teacher.load_state_dict(module.teacher.network.state_dict())
    teacher.eval()
    pooled = []
    teacher.flatten.register_forward_hook(lambda *call: pooled.append(call[2]))
    loader = data.train_dataloader()
    loader.sampler.set_epoch(1)
    batches = list(loader)
    for batch in batches:
        assert isinstance(batch, TeacherBatch)
        with torch.no_grad():
            logits = teacher(batch.image)
        torch.testing.assert_close(batch.teacher.values[:, :4].float(), logits, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(batch.teacher.values[:, 4:].float(), pooled.pop(), rtol=1e-3, atol=1e-4)
    assert sum(map(len, (batch.target for batch in batches))) == len(data.train_indices)


def test_the_views_are_drawn_as_without_a_cache(tmp_path):
    data, cached = images(), images()
    fit(distillation(), cached, tmp_path)
    for epoch in (1, 7):
        loaders = [data.train_dataloader(), cached.train_dataloader()]
        for loader in loaders:
            loader.sampler.set_epoch(epoch)
        for batch, other in zip(*loaders, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(batch, other[:4], strict=True))


def test_other_views_of_a_known_image_are_asked_for(tmp_path):
    fit(distillation(), images(augmentation="crop"), tmp_path, epochs=1)
    data = images(augmentation="crop", seed=5)
    module, seen = fit(distillation(), data, tmp_path, epochs=1)
    assert 0 < seen < len(data.train_indices)
    assert module.cached_teacher.known == len(data.train_indices) - seen


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_precisions(tmp_path, precision):
    methods = [{"kd": KD(), "cc": CC(), "pkt": PKT(), "rkd": RKD(), "srrl": SRRL()} for _ in range(3)]
    plain, _ = fit(distillation(methods[0]), images(), tmp_path, cache=False, precision=precision)
    (cold, asked), (warm, never) = (fit(distillation(m), images(), tmp_path, precision=precision) for m in methods[1:])
    assert asked > never == 0
    for name, value in cold.student.state_dict().items():
        assert torch.equal(warm.student.state_dict()[name], value)
        torch.testing.assert_close(value, plain.student.state_dict()[name], rtol=1e-2, atol=1e-2)


def test_modules_that_share_the_data_keep_their_own_teachers(tmp_path):
    data, first, second = images(), distillation(), distillation()
    with torch.no_grad():
        second.teacher.network.fc.bias += 1
    for module in (first, second):
        module.cache_teacher(data, tmp_path, precision="32-true")
    for _ in ("cold", "warm"):
        batch = next(iter(data.train_dataloader()))
        for module in (first, second):
            expected = module.distillation.run_teacher(batch.image).logits
            given = module.cached_teacher(batch.image, batch).logits
            torch.testing.assert_close(given, expected, rtol=1e-3, atol=1e-3)
    assert first.cached_teacher.known == second.cached_teacher.known == 16


@pytest.mark.parametrize("attached", [False, True])
def test_batches_of_other_data_are_refused(tmp_path, attached):
    module, other = distillation(), images(mean=(0, 0, 0))
    module.cache_teacher(images(), tmp_path, precision="32-true")
    if attached:
        distillation().cache_teacher(other, tmp_path, precision="32-true")
    with pytest.raises(UserError, match=r"made for other data .*: call module\.cache_teacher\(data, …\) with the data"):
        module.training_step(next(iter(other.train_dataloader())), 0)


def test_tuples_are_taken_at_their_word(tmp_path):
    module, data = distillation(), images()
    module.cache_teacher(data, tmp_path, precision="32-true")
    batch = next(iter(data.train_dataloader()))
    cold, warm = (module.cached_teacher(batch.image, tuple(batch[:4])).logits for _ in range(2))
    assert torch.equal(cold, warm)
    assert module.cached_teacher.known == len(batch.target)


def test_any_selection_of_the_training_images_uses_the_same_file(tmp_path):
    fit(distillation(), images(), tmp_path, epochs=1)
    _, seen = fit(distillation(), images(val_size=0, limit_train=32), tmp_path, epochs=1)
    assert seen < 32
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_step_reads_the_cache_once(tmp_path, monkeypatch):
    module, data, reads = distillation(), images(), []
    module.cache_teacher(data, tmp_path, precision="32-true")
    read = TeacherCache.read
    monkeypatch.setattr(TeacherCache, "read", lambda cache, *place: reads.append(place) or read(cache, *place))
    for batch in data.train_dataloader():
        module.training_step(batch, 1)
    assert len(reads) == len(data.train_dataloader())


def test_what_float16_cannot_hold_is_used_as_it_is_and_not_kept(tmp_path):
    module, data = distillation(), images()
    with torch.no_grad():
        module.teacher.network.fc.bias[0] = 1e6
    module.cache_teacher(data, tmp_path, precision="32-true")
    for _ in range(2):
        batch = next(iter(data.train_dataloader()))
        assert torch.equal(
            module.cached_teacher(batch.image, batch).logits, module.distillation.run_teacher(batch.image).logits
        )
    assert module.cached_teacher.known == 0


class Scaled(torch.nn.Module):
    """A layer that shows its function, as its address, and its setting."""

    def __init__(self, factor):
        super().__init__()
        self.function, self.factor = lambda x: x, factor

    def extra_repr(self):
        return f"{self.function}, factor={self.factor}"


def test_the_key_sees_settings_and_not_addresses():
    pools = [torch.nn.Sequential(pool, torch.nn.Flatten()) for pool in (AdaptiveAvgPool2d(1), AdaptiveMaxPool2d(1))]
    assert cache_key(pools[0]) != cache_key(pools[1])
    assert cache_key(Scaled(1)) == cache_key(Scaled(1)) != cache_key(Scaled(2))


def test_the_key_says_what_decides_the_outputs(tmp_path):
    teacher = create_model("resnet8", 4)
    key = cache_key(teacher, "data", "32-true")
    assert key == cache_key(teacher, "data", "32-true")
    assert key != cache_key(teacher, "data", "bf16-mixed")
    assert key != cache_key(teacher, "other data", "32-true")
    teacher.bn1.running_mean[0] += 1e-6
    assert key != cache_key(teacher, "data", "32-true")


def test_what_cannot_be_cached_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"the method reads stage1, .*which are maps: set teacher_cache=off"):
        fit(distillation({"kd": KD(), "at": AT()}), images(), tmp_path)
    module = distillation()
    module.cache_teacher(images(), tmp_path, precision="32-true")
    with pytest.raises(
        UserError, match=r"needs batches \(image, target, index, view\), found one without the last two"
    ):
        module.training_step((EXAMPLE, torch.zeros(2, dtype=torch.int64)), 0)
