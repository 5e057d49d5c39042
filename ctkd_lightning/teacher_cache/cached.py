"""A teacher that is asked once for each view of each sample."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ctkd_lightning._scores.batches import read_batch
from ctkd_lightning.data._loading.batch import Batch, Lookup, without_wait
from ctkd_lightning.errors import UserError
from ctkd_lightning.features.layers import unwrap
from ctkd_lightning.features.outputs import NetworkOutput
from ctkd_lightning.features.tap import FeatureTap
from ctkd_lightning.methods._checks import no_autocast
from ctkd_lightning.teacher_cache.key import cache_key
from ctkd_lightning.teacher_cache.store import TeacherCache

CACHED_ROLES = ("pooled",)


class CachedTeacher:
    """The teacher's outputs from a :class:`TeacherCache`; the teacher itself runs on what the cache does not know.

    What the teacher gives passes through float16 also where it has just been computed, so that the run that fills the
    cache and those that read it train on the same numbers. What float16 cannot hold is used as it is, and not kept.

    Args:
        run_teacher: from images to the teacher's outputs.
        example: its outputs on an example batch.
        folder: of the cache's file.
        key: from :func:`cache_key`.
        samples: size of the training set.
        views: how many views of a sample there are.
        data: the data module's :meth:`~ctkd_lightning.data.ImageDataModule.view_fingerprint`, to refuse batches of
            another one; ``None`` for data of another kind.

    Attributes:
        store: the cache; a loader that asks it ahead saves the device a wait for the host.
        asked: views asked for so far.
        known: how many of them the cache knew.

    Raises:
        UserError: the features include maps, the folder cannot be written, or the disk cannot hold the file.
    """

    def __init__(
        self,
        run_teacher: FeatureTap,
        example: NetworkOutput,
        folder: str | Path,
        *,
        key: str,
        samples: int,
        views: int,
        data: str | None = None,
    ) -> None:
        check_cacheable(example.features)
        self.run_teacher = run_teacher
        self._data = data
        self._shapes = {name: tensor.shape[1:] for name, tensor in _parts(example).items()}
        self._widths = [shape.numel() for shape in self._shapes.values()]
        self.store = TeacherCache(folder, key=key, samples=samples, views=views, width=sum(self._widths))
        self.asked = self.known = 0

    def __call__(self, images: Tensor, batch: tuple[Any, ...]) -> NetworkOutput:
        """The outputs for a training batch, in the type of the teacher's weights.

        Args:
            images: (B, 3, H, W), as the teacher takes them.
            batch: of a data module, or a tuple whose third and fourth entries are the samples' positions in the
                training set and the views.

        Raises:
            UserError: a batch without them, or of another data module.
        """
        lookup = self._look_up(batch, images.device)
        gaps = (~lookup.known).nonzero().squeeze(1)
        self.asked += len(images)
        self.known += len(images) - len(gaps)
        values = lookup.values.to(images.device, self._dtype)
        return self._outputs(self._ask_teacher(images, lookup, values, gaps) if len(gaps) else values)

    def _look_up(self, batch: tuple[Any, ...], device: torch.device) -> Lookup:
        """What the loader has read, if it has read this cache; else what this cache knows."""
        lookup: Lookup | None = getattr(batch, "teacher", None)
        # a data module whose batches bring no lookup is not the one that was told to ask
        other = lookup.data != self._data if lookup else isinstance(batch, Batch)
        if other and self._data is not None:
            raise UserError(
                "the teacher cache was made for other data than the batch is from: call module.cache_teacher(data, …) "
                "with the data module that trains, before its loaders are made"
            )
        if lookup:
            own = lookup.key == self.store.key
            return lookup if own else Lookup(self.store, lookup.data, lookup.index, lookup.view, device)
        sample = read_batch(batch)
        if sample.index is None or sample.view is None:
            raise UserError(
                "the teacher cache needs batches (image, target, index, view), found one without the last two: use "
                "the data modules of ctkd_lightning.data, or no teacher cache"
            )
        return Lookup(self.store, None, sample.index.cpu(), sample.view.cpu(), device)

    def _ask_teacher(self, images: Tensor, lookup: Lookup, values: Tensor, gaps: Tensor) -> Tensor:
        """Fill the gaps in a copy of ``values``, and in the cache."""
        rows = without_wait(gaps, images.device)
        parts = _parts(self.run_teacher(images if len(gaps) == len(images) else images[rows]))
        with no_autocast(images):  # it mixes up the types that cat is given
            found = torch.cat([part.flatten(1).to(values.dtype) for part in parts.values()], dim=1)
        kept = found.to(torch.float16)
        fits = kept.isfinite().all(dim=1, keepdim=True)
        self.store.write(lookup.index[gaps], lookup.view[gaps], kept.cpu())
        return values.index_copy(0, rows, torch.where(fits, kept.to(found.dtype), found))

    @property
    def _dtype(self) -> torch.dtype:
        """The type of the teacher's weights, which its classifier and a run without a cache have too."""
        weights = (p.dtype for p in unwrap(self.run_teacher.network).parameters() if p.is_floating_point())
        return next(weights, torch.float32)

    def _outputs(self, values: Tensor) -> NetworkOutput:
        parts = values.split(self._widths, dim=1)
        tensors = {
            name: part.unflatten(1, shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)
        }
        return NetworkOutput(tensors.pop("logits"), tensors, self.run_teacher.classifier)


class ViewedData(Protocol):
    """Training data whose batches say which sample and which view of it they hold."""

    teacher_cache: Any

    @property
    def num_views(self) -> int:
        """How many views of a sample there are."""
        ...

    @property
    def train_targets(self) -> Any:
        """The training samples' targets."""
        ...

    def view_fingerprint(self) -> str:
        """A name for everything that decides the views' pixels."""
        ...


def cache_for(
    run_teacher: FeatureTap, example: NetworkOutput, data: ViewedData, folder: str | Path, *, precision: str
) -> CachedTeacher:
    """The cached teacher for a data module.

    Args:
        run_teacher: from images to the teacher's outputs.
        example: its outputs on an example batch.
        data: what the student trains on.
        folder: of the cache's file.
        precision: that of the training.
    """
    images, samples, views = data.view_fingerprint(), len(data.train_targets), data.num_views
    key = cache_key(unwrap(run_teacher.network), images, precision, views, run_teacher.layers)
    return CachedTeacher(run_teacher, example, folder, key=key, samples=samples, views=views, data=images)


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


def _parts(output: NetworkOutput) -> dict[str, Tensor]:
    return {"logits": output.logits, **output.features}
