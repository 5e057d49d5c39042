"""Break modalities on purpose: for training, and to test what a fusion does about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from ctkd_lightning.errors import UserError, check_number, suggest
from ctkd_lightning.features.outputs import is_integer
from ctkd_lightning.fusion._draws import mix, normal, uniform

CorruptionKind = Literal["noise", "drop", "stuck", "shuffle"]
KINDS: tuple[str, ...] = get_args(CorruptionKind)

_WHETHER, _KIND, _STRENGTH, _PARTNER, _NOISE, _STUCK = range(6)  # streams of random numbers


class ModalityCorruption:
    r"""Corrupt some modalities of some samples of a batch.

    ``noise`` adds :math:`\sigma \cdot \mathcal{N}(0, 1)` to each number; ``drop`` sets all to zero, as a dead sensor
    whose silence nobody notices; ``stuck`` holds each channel (the dimension after the samples, where there are more)
    at one number drawn from :math:`\mathcal{N}(0, 1)`; ``shuffle`` takes the modality of another sample of the batch.
    Meant for inputs of mean 0 and deviation 1.

    Given the samples' numbers, what happens to one is a function of (seed, epoch, number): the same in a resumed run
    and in a distributed one (but for the partner of ``shuffle``, which is of the same batch). Without them it follows
    torch's global generator.

    Args:
        kinds: of which each corrupted modality takes one by chance.
        share: of the samples; or by modality, which are then drawn each on their own.
        count: how many modalities of such a sample, chosen by chance; with shares by modality it has no meaning.
        strength: σ of ``noise``, or its range (low, high), from which each sample draws.
        seed: of everything.

    Raises:
        UserError: settings out of range; in use, a batch without the modalities named.

    Example:
        >>> corruption = ModalityCorruption(["drop"], share=1.0)
        >>> batch, bad = corruption({"image": torch.ones(4, 3), "audio": torch.ones(4, 2)}, torch.arange(4))
        >>> bool((bad["image"] ^ bad["audio"]).all())
        True
    """

    def __init__(
        self,
        kinds: Sequence[CorruptionKind] = ("noise", "drop", "stuck", "shuffle"),
        share: float | Mapping[str, float] = 0.5,
        count: int = 1,
        strength: float | Sequence[float] = (0.5, 3.0),
        seed: int = 0,
    ) -> None:
        self.kinds = (kinds,) if isinstance(kinds, str) else tuple(kinds)
        for kind in self.kinds or ("",):
            if kind not in KINDS:
                raise UserError(f"a corruption's kind is {kind!r}: {suggest(str(kind), KINDS)}")
        self.share = dict(share) if isinstance(share, Mapping) else share
        for part in self.share.values() if isinstance(self.share, dict) else [self.share]:
            check_number("a corruption's share", part, least=0, most=1)
        check_number("a corruption's count", count, least=1, whole=True)
        if isinstance(self.share, dict) and count != 1:
            raise UserError(f"count={count} has no effect where each modality has a share of its own: leave it out")
        self.count = int(count)
        ends = (strength, strength) if isinstance(strength, int | float) else tuple(strength)
        if len(ends) != 2:
            raise UserError(f"a corruption's strength is a number or a range (low, high), found {strength!r}")
        check_number("a corruption's strength", ends[0], least=0)
        check_number("a corruption's strength", ends[1], least=ends[0])
        self.strength = (float(ends[0]), float(ends[1]))
        check_number("a corruption's seed", seed, least=0, most=2**32 - 1, whole=True)
        self.seed = int(seed)

    def __call__(
        self,
        batch: Mapping[str, Tensor],
        index: Tensor | None = None,
        epoch: int = 0,
        *,
        modalities: Sequence[str] | None = None,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """A batch with some of its modalities corrupted, and which.

        Args:
            batch: by name (B, …); other entries pass through.
            index: (B,), the samples' numbers.
            epoch: another draws anew.
            modalities: which entries are modalities; all by default.

        Returns:
            The batch, with new tensors for the modalities, and by modality (B,), whether it is corrupted.
        """
        names = self._names(batch, modalities)
        inputs = {name: batch[name] for name in names}
        some = inputs[names[0]]
        for name, x in inputs.items():
            if len(x) != len(some):
                raise UserError(
                    f"a corruption found {len(some)} samples of {names[0]!r} and {len(x)} of {name!r}: pair them"
                )
        key = self._key(len(some), index, epoch, some.device)
        bad = self._chosen(names, key)
        return {
            **batch,
            **{n: self._corrupted(x, bad[n], mix(key, 101 + i)) for i, (n, x) in enumerate(inputs.items())},
        }, bad

    def check(self, modalities: Sequence[str]) -> None:
        """Refuse modalities that this is no corruption of.

        Args:
            modalities: the names of all that a batch has.

        Raises:
            UserError: a share of one that is not among them, or fewer than ``count``.
        """
        if isinstance(self.share, dict):
            for name in self.share:
                if name not in modalities:
                    raise UserError(
                        f"a corruption's share names no modality with {name!r}: {suggest(str(name), modalities)}"
                    )
        elif self.count > len(modalities):
            found = ", ".join(modalities)
            raise UserError(f"a corruption of count={self.count} modalities needs as many, found {found}")
        if not modalities:
            raise UserError("a corruption found no modality in the batch: pass it by name, as in {'image': images}")

    def _names(self, batch: Mapping[str, Tensor], modalities: Sequence[str] | None) -> list[str]:
        names = list(batch if modalities is None else modalities)
        self.check(names)
        for name in names:
            if not isinstance(batch.get(name), Tensor) or not batch[name].is_floating_point():
                kind = batch[name].dtype if isinstance(batch.get(name), Tensor) else type(batch.get(name)).__name__
                raise UserError(
                    f"a corruption needs floating numbers, found {kind} for {name!r}: name the modalities with "
                    "modalities=, and scale the inputs first"
                )
        return names

    def _key(self, size: int, index: Tensor | None, epoch: int, device: torch.device) -> Tensor:
        if index is None:
            return torch.randint(2**62, (size,), device=device)
        if index.shape != (size,) or not is_integer(index):
            raise UserError(
                f"a corruption's index has shape {tuple(index.shape)} and type {index.dtype}, found {size} samples: "
                "pass the number of each"
            )
        return mix(mix(index.to(device).long(), epoch), self.seed)

    def _chosen(self, names: list[str], key: Tensor) -> dict[str, Tensor]:
        """By modality, which samples have it corrupted."""
        draws = torch.stack([uniform(key, 11 + i) for i in range(len(names))], dim=-1)
        if isinstance(self.share, dict):
            return {name: draws[:, i] < self.share.get(name, 0.0) for i, name in enumerate(names)}
        order = draws.argsort(dim=-1).argsort(dim=-1)  # each modality's place in a random order
        hit = uniform(key, _WHETHER) < self.share
        return {name: (order[:, i] < self.count) & hit for i, name in enumerate(names)}

    def _corrupted(self, x: Tensor, bad: Tensor, key: Tensor) -> Tensor:
        """A modality with the samples in ``bad`` corrupted; ``bad`` loses those for which there is no partner."""
        kind = (uniform(key, _KIND) * len(self.kinds)).long()
        result = x.clone()
        for number, name in enumerate(self.kinds):
            chosen = bad & (kind == number)
            if name == "shuffle" and len(x) == 1:
                bad &= ~chosen
                continue
            rows = _worth_making(chosen)
            made = getattr(self, f"_{name}")(x, rows, key[rows])
            result.index_copy_(0, rows, torch.where(_as_wide(chosen[rows], x), made, result[rows]))
        return result

    def _noise(self, x: Tensor, rows: Tensor, key: Tensor) -> Tensor:
        low, high = self.strength
        sigma = low + (high - low) * uniform(key, _STRENGTH)
        return x[rows] + (_as_wide(sigma, x) * normal(key, x.shape[1:], _NOISE)).to(x.dtype)

    def _drop(self, x: Tensor, rows: Tensor, key: Tensor) -> Tensor:
        return x.new_zeros(()).expand(len(rows), *x.shape[1:])

    def _stuck(self, x: Tensor, rows: Tensor, key: Tensor) -> Tensor:
        channels = x.shape[1:2] if x.ndim > 2 else torch.Size([])
        return _as_wide(normal(key, channels, _STUCK).to(x.dtype), x).expand(len(rows), *x.shape[1:])

    def _shuffle(self, x: Tensor, rows: Tensor, key: Tensor) -> Tensor:
        size = len(x)
        offset = 1 + (uniform(key, _PARTNER) * (size - 1)).long().clamp(max=size - 2)
        return x[(rows + offset) % size]


def _worth_making(chosen: Tensor) -> Tensor:
    """The rows of a batch to corrupt; elsewhere than on a CPU all, since to ask which are chosen would wait for it."""
    return (
        chosen.nonzero().squeeze(-1) if chosen.device.type == "cpu" else torch.arange(len(chosen), device=chosen.device)
    )


def _as_wide(values: Tensor, x: Tensor) -> Tensor:
    """Values (N,) or (N, channels), which broadcast over inputs (N, channels, …)."""
    return values.reshape(*values.shape, *(1,) * (x.ndim - values.ndim))
