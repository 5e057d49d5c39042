"""Two gloo processes, each with its share of the batches, against one process with the whole: everything that learns.

The processes are started once and run every case under DDP; what they found is compared with this process's.
"""

import inspect
import itertools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ctkd_lightning import Distillation, DistillationModule, TemperatureFusion
from ctkd_lightning.curriculum import ConstantCurriculum
from ctkd_lightning.methods import CRD, DIST, DKD, KD, MLKD, SP, FitNet
from ctkd_lightning.modules import ClassifierModule, EncodersModule, FusionModule
from ctkd_lightning.temperature import GlobalTemperature, InstanceTemperature
from tests.methods.setting import NUM_SAMPLES
from tests.methods.settings import METHODS, SETTINGS
from tests.methods.test_training import CLASSES, Network
from tests.processes import TwoRanks, once_for_all_workers
from tests.temperature.settings import GIVEN, RULES, TEMPERATURES

# the samples of each step on both processes, as a sampler deals them out
STEPS = [
    ([0, 2, 4, 6], [1, 3, 5, 7]),
    ([8, 10, 12, 14], [9, 11, 13]),  # as the last batch of an epoch may be
    ([15], []),
    ([16, 18, 20, 22], [17, 19, 21, 23]),
    ([24, 26, 28, 30], [25, 27, 29, 31]),
]
LEFT_OUT = [16, 17, 23, *range(24, 32, 2)]  # some of the fourth step, and all of a process's in the fifth

GENERATOR = torch.Generator().manual_seed(5)
IMAGES = torch.randn(NUM_SAMPLES, 3, 16, 16, generator=GENERATOR, dtype=torch.float64)
CLASS = torch.arange(NUM_SAMPLES) % CLASSES
TARGET = CLASS.clone()
TARGET[LEFT_OUT] = -100
ONE_SIDED = CLASS.clone()
ONE_SIDED[[1, 3]] = -100  # in one process's batches alone
MAPS = torch.randint(CLASSES, (NUM_SAMPLES, 16, 16), generator=GENERATOR)
MAPS[torch.rand(MAPS.shape, generator=GENERATOR) < 0.3] = -100
MAPS[LEFT_OUT] = -100
LABELS = (torch.rand(NUM_SAMPLES, CLASSES, generator=GENERATOR) < 0.4).to(IMAGES.dtype)
WEIGHTS = torch.rand(NUM_SAMPLES, generator=GENERATOR, dtype=IMAGES.dtype)
WEIGHTS[LEFT_OUT] = 0


def alone(step):
    """The samples of one process's step."""
    dealt = itertools.zip_longest(*step)
    return [row for rows in dealt for row in rows if row is not None]


@dataclass
class Case:
    """What DDP wraps, with the entries of a batch that it is called with."""

    make: Callable[[], nn.Module]
    entries: dict[str, Tensor] = field(default_factory=lambda: {"target": TARGET})
    steps: tuple[int, int] = (0, len(STEPS))
    tolerance: float = 1e-8


class Trained(nn.Module):
    """A LightningModule's training step as a forward pass."""

    def __init__(self, module, as_batch):
        super().__init__()
        self.module, self.as_batch = module, as_batch
        ignored = getattr(module, "_ddp_params_and_buffers_to_ignore", [])
        self._ddp_params_and_buffers_to_ignore = [f"module.{name}" for name in ignored]

    def forward(self, images, target, index):
        return {"loss": self.module.training_step(self.as_batch(images, target, index), 0)}

    def collect(self):
        return self.module.record.means()


class WithHeldOut(nn.Module):
    """Each process holds out samples of its own."""

    def __init__(self):
        super().__init__()
        temperatures = {"kd": GlobalTemperature(objective="held_out"), "dkd": InstanceTemperature(CLASSES)}
        temperatures["scaled"] = TEMPERATURES["class_scaled"](InstanceTemperature(CLASSES, objective="held_out"))
        self.distillation = engine({"kd": KD(), "dkd": DKD(), "scaled": KD()}, temperatures)

    def forward(self, images, target, index):
        rows = torch.arange(8)
        if dist.is_initialized():
            rows = rows[dist.get_rank() :: 2]
        self.distillation.hold_out(IMAGES[rows].to(images), target=CLASS[rows])
        return self.distillation(images, target=target, index=index)

    def collect(self):
        return self.distillation.collect()


def engine(method=None, temperature=None, *, student=(6, 7, 8), teacher=None, **settings):
    teacher = Network() if teacher is None else teacher
    found = Distillation(Network(student), teacher, method, temperature, num_samples=NUM_SAMPLES, **settings)
    found.build(IMAGES[:2].float())
    found.curriculum = ConstantCurriculum()
    found.progress(30, 0.5)
    return found


def of_method(name):
    setting = SETTINGS[name]
    widths = (4, 5, 6) if setting.same_widths else (6, 7, 8)
    return engine({name: setting.make()}, InstanceTemperature(CLASSES), student=widths)


def temperature(name):
    kind = TEMPERATURES[name]
    if name in RULES:
        return kind(InstanceTemperature(CLASSES))
    given = GIVEN.get(name, {})
    return kind(CLASSES, **given) if "num_classes" in inspect.signature(kind).parameters else kind(**given)


def on_its_own(name):
    """With ``gather=False``."""
    gathering = SETTINGS[name].make()
    method = type(gathering)(gather=False)
    return engine({name: method}, InstanceTemperature(CLASSES))


class Segmenter(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, CLASSES, 1))

    def forward(self, x):
        return self.layers(x)


def segmentation():
    methods = {"kd": KD(), "dist": DIST(), "dkd": DKD()}
    found = Distillation(Segmenter(4), Segmenter(6), methods, InstanceTemperature(CLASSES), class_dim=1)
    found.curriculum = ConstantCurriculum()
    found.progress(30, 0.5)
    return found


def distillation_module():
    module = DistillationModule(
        Network(),
        Network((6, 7, 8)),
        {"kd": KD(), "crd": CRD(dim=4, negatives=16), "sp": SP(), "fitnet": FitNet()},
        InstanceTemperature(CLASSES),
        example_image=IMAGES[:2].float(),
        num_samples=NUM_SAMPLES,
        kd_at=4.0,
    )
    module.temperature.lambda_.fill_(1.0)
    return Trained(module, lambda *batch: batch)


def fused_heads():
    module = DistillationModule(Network(), Network((6, 7, 8)), KD(), GlobalTemperature(), fuse_heads=True)
    module.temperature.lambda_.fill_(1.0)
    return Trained(module, lambda *batch: batch)


def views(images, target, index):
    """Two modalities, one of which some samples miss."""
    mask = torch.stack([index % 3 > 0, index >= 0], dim=1)
    return {"a": images[:, :2], "b": images[:, 2:], "target": target, "mask": mask, "index": index}


def encoders():
    def encoder(channels):
        return nn.Sequential(nn.Conv2d(channels, 4, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(CLASSES))

    found = {"a": encoder(2), "b": encoder(1)}
    for network, channels in zip(found.values(), (2, 1), strict=True):
        network(torch.zeros(1, channels, 16, 16))
    return found


def fused(kind, **settings):
    return Trained(FusionModule(encoders(), TemperatureFusion(CLASSES, ["a", "b"], kind, **settings)), views)


CASES = {
    **{f"method {name}": Case(lambda name=name: of_method(name)) for name in METHODS},
    **{f"temperature {name}": Case(lambda name=name: engine(KD(), temperature(name))) for name in TEMPERATURES},
    "several methods": Case(
        lambda: engine(
            {"kd": KD(), "dist": DIST(), "sp": SP(), "dkd": DKD()},
            {"kd": GlobalTemperature(), "dist": InstanceTemperature(CLASSES), "dkd": GlobalTemperature()},
        )
    ),
    "softened rows by a rule": Case(lambda: engine({"dist": DIST(), "mlkd": MLKD()}, temperature("normkd"))),
    "softened by the whole batch": Case(
        lambda: engine({"kd": KD(), "dist": DIST()}, temperature("class_scaled")), {"target": ONE_SIDED}
    ),
    "weights of the samples": Case(
        lambda: engine({"kd": KD(), "fitnet": FitNet()}), {"target": TARGET, "mask": WEIGHTS}
    ),
    "held out": Case(WithHeldOut),
    "several teachers": Case(lambda: engine(KD(), teacher={"a": Network(), "b": Network((6, 7, 8))})),
    "multilabel": Case(lambda: engine({"kd": KD(), "dist": DIST()}, task="multilabel"), {"target": LABELS}),
    "segmentation": Case(segmentation, {"target": MAPS}),
    "distillation module": Case(distillation_module),
    "fused heads": Case(fused_heads),
    "classifier module": Case(  # its loss is in float32
        lambda: Trained(ClassifierModule(Network()), lambda *batch: batch), tolerance=1e-6
    ),
    "encoders module": Case(lambda: Trained(EncodersModule(encoders()), views), {"target": CLASS}),
    **{f"fusion module {kind}": Case(lambda kind=kind: fused(kind)) for kind in ("instance", "global", "fixed")},
    "fusion module of a mixture": Case(lambda: fused("instance", rule="mixture"), {"target": CLASS}),
}
GATHERING = [name for name in METHODS if "gather" in METHODS[name].__init__.__annotations__]
SINGLE = {name: Case(CASES[f"method {name}"].make, steps=(1, 2), tolerance=1e-5) for name in METHODS}
ON_ITS_OWN = {name: Case(lambda name=name: on_its_own(name), steps=(0, 1)) for name in GATHERING}


def run(case, share, wrap, dtype):
    """Train on a share of each step: losses, gradients, the means of the losses and, at the end, the buffers."""
    torch.manual_seed(0)
    module = case.make().to(dtype)
    wrapped = wrap(module)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
    losses, gradients = [], []
    for step in STEPS[slice(*case.steps)]:
        rows = torch.tensor(share(step), dtype=torch.long)
        batch = {
            name: values[rows].to(dtype) if values.is_floating_point() else values[rows]
            for name, values in case.entries.items()
        }
        found = wrapped(IMAGES[rows].to(dtype), index=rows, **batch)
        losses.append({name: loss.item() for name, loss in found.items()})
        optimizer.zero_grad()
        found["loss"].backward()
        gradients.append({name: p.grad.clone() for name, p in module.named_parameters() if p.requires_grad})
        optimizer.step()
    means = {name: mean.item() for name, mean in module.collect().items()}
    buffers = {name: value for name, value in module.named_buffers() if "teacher" not in name}
    return {"losses": losses, "gradients": gradients, "means": means, "buffers": buffers}


def on_a_rank(rank):
    warnings.simplefilter("ignore")

    def ddp(module):
        trained = any(p.requires_grad for p in module.parameters())
        assert trained
        return DistributedDataParallel(module, broadcast_buffers=False)  # which would hide those that differ

    found = {name: run(case, lambda step: step[rank], ddp, torch.float64) for name, case in CASES.items()}
    found |= {
        f"{name} on its own": run(case, lambda step: step[rank], ddp, torch.float64)
        for name, case in ON_ITS_OWN.items()
    }
    found |= {
        f"{name} in float32": run(case, lambda step: step[rank], ddp, torch.float32) for name, case in SINGLE.items()
    }
    if rank == 0:  # an evaluation may have other numbers of batches on each process: nobody waits for anybody
        found["evaluation"] = evaluated()
    return found


def evaluated():
    torch.manual_seed(0)
    module = engine({name: SETTINGS[name].make() for name in ("kd", "crd", "sp", "fitnet", "ofd", "dist")}).eval()
    rows = torch.arange(4)
    losses = module(IMAGES[rows].float(), target=TARGET[rows], index=rows)
    return {name: loss.item() for name, loss in losses.items()}


def in_one(case, share=alone, dtype=torch.float64):
    return run(case, share, lambda module: module, dtype)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    found = once_for_all_workers(tmp_path_factory, "ranks", lambda folder: TwoRanks(on_a_rank, folder).results())
    for each in found:
        assert not isinstance(each, str), each
    return found


def assert_one(found, expected, tolerance):
    first, second = found
    for name, mean in expected["means"].items():
        assert (first["means"][name] + second["means"][name]) / 2 == pytest.approx(mean, rel=tolerance), name
    steps = zip(first["losses"], second["losses"], expected["losses"], strict=True)
    for number, (one, other, losses) in enumerate(steps):
        for name, loss in losses.items():
            assert (one[name] + other[name]) / 2 == pytest.approx(loss, rel=tolerance, abs=tolerance), (number, name)
    for rank in found:
        for number, (gradients, right) in enumerate(zip(rank["gradients"], expected["gradients"], strict=True)):
            size = max(gradient.abs().max() for gradient in right.values())
            assert size > 0
            for name, gradient in right.items():
                assert (gradients[name] - gradient).abs().max() <= tolerance * size, (number, name)


@pytest.mark.parametrize("name", CASES)
def test_two_processes_are_one(ranks, name):
    found, expected = [rank[name] for rank in ranks], in_one(CASES[name])
    assert_one(found, expected, CASES[name].tolerance)
    for buffer, value in expected["buffers"].items():
        assert torch.equal(found[0]["buffers"][buffer], found[1]["buffers"][buffer]), buffer
        torch.testing.assert_close(found[0]["buffers"][buffer], value, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", METHODS)
def test_in_float32(ranks, name):
    tolerance = 3e-5 if name == "cwd" else 1e-5  # its gradient is 50 times a difference of nearly equal shares
    assert_one([rank[f"{name} in float32"] for rank in ranks], in_one(SINGLE[name], dtype=torch.float32), tolerance)


@pytest.mark.parametrize("name", GATHERING)
def test_on_its_own_a_process_relates_its_samples_to_no_others(ranks, name):
    halves = [in_one(ON_ITS_OWN[name], lambda step, rank=rank: step[rank]) for rank in range(2)]
    whole = in_one(ON_ITS_OWN[name])
    for rank, half in zip(ranks, halves, strict=True):
        assert rank[f"{name} on its own"]["losses"][0] == pytest.approx(half["losses"][0])
    mean = sum(half["losses"][0][name] for half in halves) / 2
    assert mean != pytest.approx(whole["losses"][0][name], rel=1e-6)


def test_the_means_of_the_losses_count_each_sample_once(ranks):
    name = "method kd"
    counts = [len(alone(step)) for step in STEPS]
    losses = [step["ce"] for step in in_one(CASES[name])["losses"]]
    expected = sum(n * loss for n, loss in zip(counts, losses, strict=True)) / sum(counts)
    found = sum(rank[name]["means"]["ce"] for rank in ranks) / 2
    assert found == pytest.approx(expected, rel=1e-8)
    assert found != pytest.approx(sum(losses) / len(losses), rel=1e-3)


def test_nobody_waits_in_an_evaluation(ranks):
    assert ranks[0]["evaluation"] == pytest.approx(evaluated())
