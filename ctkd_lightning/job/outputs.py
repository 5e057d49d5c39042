"""What the networks gave for the test samples, kept for whoever looks at the run later."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from lightning.pytorch import Trainer
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ctkd_lightning._files import written_whole
from ctkd_lightning._reading import check_regular
from ctkd_lightning._words import printable
from ctkd_lightning.data import ImageDataModule
from ctkd_lightning.errors import UserError
from ctkd_lightning.features.tap import FeatureTap, select_layers
from ctkd_lightning.job.run_directory import RunDirectory
from ctkd_lightning.modules import ClassifierModule, DistillationModule
from ctkd_lightning.temperature import Temperature

PICTURES = 8
"""Samples with the lowest τ that are kept as pictures, and as many with the highest."""

_HALF = torch.finfo(torch.float16)


@dataclass
class NetworkOutputs:
    """Of one network, in the samples' order.

    Attributes:
        logits: (N, C).
        features: (N, D), what its last layer reads; ``None`` where that is not known.
    """

    logits: Tensor
    features: Tensor | None = None


@dataclass
class TestOutputs:
    """Of a run, for N test samples; on disk in float16.

    Attributes:
        index: (N,), the samples' positions in the full test set.
        target: (N,), their classes.
        networks: by role, ``teacher``, ``student`` and ``baseline``, as far as the run has them.
        tau: (N,), the temperature of each sample at the end; ``None`` where it is one for all.
        pictures: by position (0 to N - 1), pixels (3, H, W), uint8: the samples with the lowest and the highest τ.
        class_names: in the order of the classes.
    """

    __test__ = False  # no test, whatever the name begins with

    index: Tensor
    target: Tensor
    networks: dict[str, NetworkOutputs]
    tau: Tensor | None = None
    pictures: dict[int, Tensor] = field(default_factory=dict)
    class_names: list[str] = field(default_factory=list)

    def write(self, run: RunDirectory) -> None:
        """Write the run's ``test_outputs.safetensors``.

        Raises:
            UserError: the file cannot be written.
        """
        tensors = {"index": self.index, "target": self.target}
        for role, network in self.networks.items():
            tensors[f"{role}.logits"] = _half(network.logits)
            if network.features is not None:
                tensors[f"{role}.features"] = _half(network.features)
        if self.tau is not None:
            tensors["tau"] = self.tau.float()
        if self.pictures:
            tensors["pictures"] = torch.stack(list(self.pictures.values()))
            tensors["pictures.position"] = torch.tensor(list(self.pictures))
        try:
            with written_whole(run.test_outputs) as partial:
                contiguous = {name: value.contiguous() for name, value in tensors.items()}
                save_file(contiguous, partial, {"class_names": json.dumps(self.class_names)})
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"cannot write {run.test_outputs}: {error}; make room, or leave it out with keep_outputs=false"
            ) from error

    @classmethod
    def read(cls, run: RunDirectory) -> TestOutputs | None:
        """Those of a run; ``None`` where it kept none.

        Raises:
            UserError: a damaged file.
        """
        path = run.test_outputs
        if not path.is_file():
            return None
        try:
            check_regular(path)
            tensors = load_file(path)
            with safe_open(path, framework="pt") as file:
                class_names = json.loads((file.metadata() or {})["class_names"])
            networks = {
                name.removesuffix(".logits"): NetworkOutputs(
                    value.float(), _float(tensors.get(name.replace(".logits", ".features")))
                )
                for name, value in tensors.items()
                if name.endswith(".logits")
            }
            pictures = {}
            if "pictures" in tensors:
                pictures = dict(zip(tensors["pictures.position"].tolist(), tensors["pictures"], strict=True))
            found = cls(tensors["index"], tensors["target"], networks, tensors.get("tau"), pictures, class_names)
            found._check()
            return found
        except (OSError, SafetensorError, KeyError, ValueError, TypeError, RecursionError, RuntimeError) as error:
            raise UserError(f"{path} is damaged ({error}): delete it, and evaluate the run to make it anew") from error

    def _check(self) -> None:
        """Refuse what no run has kept.

        Raises:
            ValueError: saying what does not go together.
        """
        names, samples = self.class_names, len(self.index)
        if not isinstance(names, list) or not all(isinstance(name, str) and printable(name) == name for name in names):
            raise ValueError("the classes' names")
        columns = {"index": self.index, "target": self.target, "tau": self.tau}
        wrong = [name for name, values in columns.items() if values is not None and values.shape != (samples,)]
        shapes = {tuple(network.logits.shape) for network in self.networks.values()}
        if wrong or len(shapes) > 1 or any(len(shape) != 2 or shape[0] != samples for shape in shapes):
            raise ValueError(f"{samples} samples, and not as many in {', '.join(wrong) or sorted(shapes)}")
        classes = min((shape[1] for shape in shapes), default=len(names))
        if names and len(names) != classes:
            raise ValueError(f"{len(names)} classes, and logits of {classes}")
        if samples and not (int(self.target.min()) >= 0 and int(self.target.max()) < classes):
            raise ValueError("samples of classes that there are not")


class RecordingModule(ClassifierModule):
    """A classifier under test that keeps what it gives.

    Args:
        network: images to logits (B, C).
        **settings: as in :class:`~ctkd_lightning.modules.ClassifierModule`.

    Attributes:
        index: (N,), the samples' positions, once the test is over; likewise ``target`` (N,) and ``outputs``, of all
            processes.
    """

    index: Tensor
    target: Tensor
    outputs: NetworkOutputs

    def __init__(self, network: nn.Module, **settings: Any) -> None:
        super().__init__(network, **settings)
        self._tap = FeatureTap(self.classifier, {})
        self._batches: list[tuple[Tensor, ...]] = []
        self._given: tuple[Tensor, ...] = ()

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C)."""
        output = self._tap(self.images_in_layout(images))
        features = [f.flatten(2).mean(dim=-1) if f.ndim > 2 else f for f in output.features.values()]
        self._given = (output.logits, *features)
        return output.logits

    def on_test_start(self) -> None:
        """Listen to the network's last layer."""
        try:
            layers = select_layers(self.classifier, ["pooled"])
        except UserError:  # a head of another kind
            layers = {}
        self._tap = FeatureTap(self.classifier, layers)

    def on_test_end(self) -> None:
        """Take the hooks off the network."""
        self._tap.remove()

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Loss and metrics, and keep what the network gave."""
        super().test_step(batch, batch_idx)
        self._batches.append(tuple(x.detach().cpu() for x in (batch.index, batch.target, *self._given)))

    def on_test_epoch_end(self) -> None:
        """Bring the batches together, those of other processes too."""
        parts = [torch.cat(column) for column in zip(*self._batches, strict=True)]
        parts = _of_all_processes(parts, self.trainer)
        order = parts[0].argsort()
        self.index, self.target, logits, *features = (part[order] for part in parts)
        self.outputs = NetworkOutputs(logits.float(), features[0].float() if features else None)
        self._batches, self._given = [], ()


def _of_all_processes(parts: list[Tensor], trainer: Trainer) -> list[Tensor]:
    if trainer.world_size == 1:
        return parts
    gathered: list[list[Tensor] | None] = [None] * trainer.world_size
    torch.distributed.all_gather_object(gathered, parts)
    return [torch.cat(column) for column in zip(*cast(list[list[Tensor]], gathered), strict=True)]


def outputs_of(modules: Mapping[str, RecordingModule], class_names: list[str]) -> TestOutputs:
    """What networks gave that were tested on the same samples, by role."""
    first = next(iter(modules.values()))
    networks = {role: module.outputs for role, module in modules.items()}
    return TestOutputs(first.index, first.target, networks, class_names=class_names)


@torch.no_grad()
def add_temperatures(kept: TestOutputs, module: DistillationModule, data: ImageDataModule) -> None:
    """Add each test sample's τ, and pictures of those with the lowest and the highest, where τ is one a sample."""
    student, teacher = kept.networks["student"].logits, kept.networks["teacher"].logits
    temperature = module.temperature
    if not module.uses_temperature or not isinstance(temperature, Temperature):  # they may be several
        return
    device = next((p.device for p in temperature.parameters()), student.device)  # a rule has none
    tau = temperature.eval().float()(student.to(device), teacher.to(device)).cpu()
    if tau.numel() != len(kept.index):
        return
    kept.tau = tau.flatten()
    order = kept.tau.argsort()
    chosen = list(dict.fromkeys([*order[:PICTURES].tolist(), *order[-PICTURES:].tolist()]))
    kept.pictures = dict(zip(chosen, data.pictures("test", kept.index[chosen]), strict=True))


def test_fingerprint(data: ImageDataModule) -> str:
    """What tells these test samples from others."""
    decides = (data.split_images("test").digest(), data.test_indices.tolist(), data.class_names)
    return hashlib.sha256(repr(decides).encode()).hexdigest()[:16]


test_fingerprint.__test__ = False  # type: ignore[attr-defined]  # no test, whatever the name begins with


def _half(x: Tensor) -> Tensor:
    return x.clamp(_HALF.min, _HALF.max).half()


def _float(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.float()
