"""A student that is taken away: what its file says of it, and the network built again from that."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ctkd_lightning._files import user_path
from ctkd_lightning._words import printable
from ctkd_lightning.errors import UserError
from ctkd_lightning.models._checkpoint import DamagedCheckpoint, check_file
from ctkd_lightning.models._factory import check_source, create_model
from ctkd_lightning.models._weights import load_weights, save_weights

_LARGEST = 10_000  # pixels
_TEXTS = ("network", "precision", "version")


@dataclass(frozen=True, kw_only=True)
class StudentDescription:
    """What the file of an exported student says of it.

    Attributes:
        network: its name, as in :func:`~ctkd_lightning.models.create_model`.
        options: its further options there.
        classes: their names, in the order of the logits.
        image_size: height and width, pixels.
        mean: one a channel (R, G, B), of images scaled to [0, 1].
        std: one a channel.
        normalize: whether the network normalises by ``mean`` and ``std`` itself: then it is given pixels in [0, 1].
        temperature: τ at the end of the distillation; of several one by name; ``None`` where there was none.
        precision: of the weights, ``float32`` or ``int8``.
        version: of this package.
    """

    network: str
    options: dict[str, Any] = field(default_factory=dict)
    classes: list[str]
    image_size: int
    mean: list[float]
    std: list[float]
    normalize: bool
    temperature: float | dict[str, float] | None = None
    precision: str = "float32"
    version: str = ""

    @property
    def input(self) -> str:
        """What the network is given, in words."""
        values = "pixels in [0, 1]" if self.normalize else "pixels in [0, 1], then (pixels - mean) / std"
        return f"float32 (batch, {len(self.mean)}, {self.image_size}, {self.image_size}), RGB, {values}"

    def metadata(self) -> dict[str, str]:
        """As a file's metadata: texts as they are, all else as JSON; ``input`` and ``output`` in words."""
        values = {"input": self.input, "output": "logits (batch, classes)", **asdict(self)}
        return {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> StudentDescription:
        """The description in a file's metadata.

        Raises:
            KeyError: a value that is missing.
            ValueError: one that is no JSON.
        """
        names = [each.name for each in fields(cls)]
        values: dict[str, Any] = {
            name: metadata[name] if name in _TEXTS else json.loads(metadata[name]) for name in names
        }
        description = cls(**values)
        description._check()
        return description

    def _check(self) -> None:
        """Refuse what no student has: the file may be from anywhere, and a network is built from what it says.

        Raises:
            ValueError: naming the entry.
        """
        names = isinstance(self.classes, list) and all(isinstance(name, str) for name in self.classes)
        if not names or any(printable(name) != name for name in self.classes):
            raise ValueError("the classes' names")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if not isinstance(values, list) or not all(isinstance(value, int | float) for value in values):
                raise ValueError(f"a {name} of numbers")
        if not isinstance(self.image_size, int) or not 0 < self.image_size <= _LARGEST:
            raise ValueError("a possible image_size")
        if not isinstance(self.options, dict):
            raise ValueError("the options")
        check_source(self.network, self.options)


class Normalize(nn.Module):
    """(x - mean) / std, channel by channel; no part of the weights.

    Args:
        mean: one a channel, of images scaled to [0, 1].
        std: one a channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(list(values)).view(-1, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W), pixels in [0, 1], normalised."""
        return (image - self.mean) / self.std


def assembled(network: nn.Module, description: StudentDescription) -> nn.Module:
    """The network in eval mode, behind its normalisation where that is inside."""
    inside = nn.Sequential(Normalize(description.mean, description.std), network)
    return (inside if description.normalize else network).eval()


def save_student(network: nn.Module, path: str | Path, description: StudentDescription) -> None:
    """Write a network's weights as safetensors, with all that :func:`load_student` needs to build it again.

    Raises:
        UserError: a name that does not end in ``.safetensors``.
    """
    save_weights(network, path, description.metadata())


def load_student(path: str | Path) -> nn.Module:
    """Build a student again, from a run's ``student.safetensors`` or an exported one of ``format=safetensors``.

    Args:
        path: the file.

    Returns:
        The network in eval mode; where the file says so (``normalize``), behind a module that normalises.

    Raises:
        UserError: a file that is missing, damaged, or holds weights alone.

    Example:
        >>> network = load_student("student.safetensors")  # doctest: +SKIP
        >>> network(pixels).argmax(1)  # doctest: +SKIP
    """
    description = describe_student(path)
    try:
        _check_size(description, user_path(path))
        network = _create(description)
    except UserError:
        raise
    except Exception as error:  # whatever a library's network says of options that it cannot have
        raise UserError(f"{path} says of its network what it cannot have ({error}): export it again") from error
    load_weights(network, path)
    return assembled(network, description)


def _create(description: StudentDescription) -> nn.Module:
    return create_model(description.network, len(description.classes), **description.options)


def _check_size(description: StudentDescription, path: Path) -> None:
    """Refuse, before it takes memory, a network of more values than its file has bytes."""
    try:
        with torch.device("meta"):
            network = _create(description)
    except NotImplementedError:  # it reads values while it is built
        return
    values = sum(tensor.numel() for tensor in network.state_dict().values())
    if values > path.stat().st_size:
        raise UserError(
            f"{path} says that its network has {values:,} values, and the file has {path.stat().st_size:,} bytes: "
            "export it again"
        )


def describe_student(path: str | Path) -> StudentDescription:
    """What the file of an exported student says of it.

    Raises:
        UserError: as :func:`load_student`.
    """
    path = user_path(path)
    check_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, ValueError, TypeError) as error:
        raise DamagedCheckpoint(
            f"{path} is truncated, damaged or no safetensors file ({error}); export or fetch it again"
        ) from error
    if "network" not in metadata:
        raise UserError(
            f"{path} holds weights alone and does not say of which network: make it, create_model(NAME, "
            "num_classes=N), and load_weights(network, path); or export its run with format=safetensors"
        )
    try:
        return StudentDescription.from_metadata(metadata)
    except UserError:
        raise
    except (KeyError, ValueError, RecursionError) as error:
        raise UserError(f"{path} does not say {error} of its network as it should: export it again") from error
