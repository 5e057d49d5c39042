"""A teacher that is asked once for each view of each sample."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ctkd_lightning.errors import UserError
from ctkd_lightning.features import FeatureTap
from ctkd_lightning.methods.base import NetworkOutput
from ctkd_lightning.teacher_cache import TeacherCache

FORMAT = 1  # counts the ways in which records have been made: a new one must not read an old one's file
CACHED_ROLES = ("pooled",)


class CachedTeacher:
    """The teacher's outputs from a :class:`TeacherCache`; the teacher itself runs on what the cache does not know.

    What the teacher gives passes through float16 also where it has just been computed, so that the run that fills the
    cache and those that read it train on the same numbers.

    Args:
        run_teacher: from images to the teacher's outputs.
        example: its outputs on an example batch.
        folder: of the cache's file.
        key: from :func:`cache_key`.
        samples: size of the training set.
        views: how many views of a sample there are.

    Attributes:
        store: the cache; a loader that asks it ahead saves the device a wait for the host.
        asked: views asked for so far.
        known: how many of them the cache knew.

    Raises:
        UserError: the features include maps, the folder cannot be written, or the disk cannot hold the file.
    """

    def __init__(
        self, run_teacher: FeatureTap, example: NetworkOutput, folder: str | Path, *, key: str, samples: int, views: int
    ) -> None:
        check_cacheable(example.features)
        self.run_teacher = run_teacher
        self._shapes = {name: tensor.shape[1:] for name, tensor in _parts(example).items()}
        self._widths = [shape.numel() for shape in self._shapes.values()]
        self.store = TeacherCache(folder, key=key, samples=samples, views=views, width=sum(self._widths))
        self.asked = self.known = 0

    def __call__(self, images: Tensor, batch: tuple[Any, ...]) -> NetworkOutput:
        """The outputs for a training batch, in float32.

        Args:
            images: (B, 3, H, W), as the teacher takes them.
            batch: a :class:`~ctkd_lightning.data.Batch`, or a tuple whose third and fourth entries are the samples'
                positions in the training set and the views.

        Raises:
            UserError: a batch without them.
        """
        values = getattr(batch, "teacher", None)
        if values is None:
            if len(batch) < 4:
                raise UserError(
                    f"the teacher cache needs batches (image, target, index, view), found {len(batch)} entries: use "
                    "the data modules of ctkd_lightning.data, or no teacher cache"
                )
            index, view = (x.cpu() for x in batch[2:4])
            values, known = self.store.read(index, view)
            values = values.to(images.device)
            if not known.all():
                self._ask_teacher(images, index, view, values, known)
            self.known += int(known.sum())
        else:
            self.known += len(images)
        self.asked += len(images)
        return self._outputs(values)

    def _ask_teacher(self, images: Tensor, index: Tensor, view: Tensor, values: Tensor, known: Tensor) -> None:
        """Fill the gaps in ``values``, and in the cache."""
        gaps = (~known).nonzero().squeeze(1)
        parts = _parts(self.run_teacher(images if len(gaps) == len(images) else images[gaps.to(images.device)]))
        found = torch.cat([part.flatten(1).to(torch.float16) for part in parts.values()], dim=1)
        values[gaps.to(values.device)] = found
        self.store.write(index[gaps], view[gaps], found.cpu())

    def _outputs(self, values: Tensor) -> NetworkOutput:
        parts = values.float().split(self._widths, dim=1)
        tensors = {
            name: part.unflatten(1, shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)
        }
        return NetworkOutput(tensors.pop("logits"), tensors, self.run_teacher.classifier)


def check_cacheable(roles: Iterable[str]) -> None:
    """Refuse feature maps, which would take a thousand times the logits' space.

    Raises:
        UserError: naming them.
    """
    maps = [role for role in roles if role not in CACHED_ROLES]
    if maps:
        raise UserError(
            f"the teacher cache keeps logits and pooled features; the method reads {', '.join(maps)}, which are maps: "
            "set teacher_cache=off, or take another method"
        )


def cache_key(teacher: nn.Module, *what: Any) -> str:
    """A name for everything that decides what a teacher gives: hexadecimal, the same on every machine.

    What neither the weights nor ``repr(teacher)`` show is not in it, such as a ``forward`` that reads an attribute, or
    whose code changes: use another folder then.

    Args:
        teacher: its class, its layers with their settings, and its weights' names, shapes and values count.
        *what: whatever else does: the data's fingerprint, the precision, the layers that are read.
    """
    architecture = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(teacher))  # functions' addresses: others in each process
    kind = (type(teacher).__module__, type(teacher).__qualname__)
    digest = hashlib.sha256(repr((FORMAT, *kind, architecture, *what)).encode())
    for name, tensor in teacher.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]


def _parts(output: NetworkOutput) -> dict[str, Tensor]:
    return {"logits": output.logits, **output.features}
