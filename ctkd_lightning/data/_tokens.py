"""What the data modules of texts share."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ctkd_lightning.data._checks import whole_number
from ctkd_lightning.data._labelled import LabelledDataModule, Split
from ctkd_lightning.data._loading.loader import Loader
from ctkd_lightning.data._loading.sampler import EpochSampler
from ctkd_lightning.errors import UserError


class TokenBatch(NamedTuple):
    """One batch of texts.

    Attributes:
        input: (B, T), int64, tokens.
        target: (B, T), int64, the token after each.
        index: (B,), int64, the texts' positions in the full split.
    """

    input: Tensor
    target: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody asks of a batch


class TokenDataModule(LabelledDataModule):
    """Texts of one length for language models, with the next token as the target of each.

    The tokens of a split stand in one row and are cut into texts; a subclass says which they are.

    Works with any Trainer and module, or alone: ``next(iter(data.train_dataloader()))``.

    Args:
        length: tokens of a text, T.
        **common: the arguments of ``LabelledDataModule``, but ``val_size``: batch_size, eval_batch_size,
            batch_size_is_total, limit_train, limit_eval (texts), seed, drop_last.

    Raises:
        UserError: a setting that cannot be; in :meth:`setup`, a split without a text.
    """

    default_batch_size = 16

    def __init__(self, *, length: int = 128, **common: Any) -> None:
        super().__init__(**common)
        self.length = whole_number("length", length, least=2)

    # What a data set defines

    @abstractmethod
    def tokens(self, split: Split) -> Tensor:
        """(N,), int64: all of a split in order."""

    @abstractmethod
    def bytes_per_token(self, split: Split) -> float:
        """How many bytes of text a token of a split stands for: nats a token over this and ln 2 are bits a byte."""

    # What it says of them

    @property
    def has_validation(self) -> bool:
        """Texts of its own."""
        return True

    @property
    def example_text(self) -> Tensor:
        """(2, T), int64: the first training texts."""
        return self.tokens("train")[: 2 * self.length].reshape(2, self.length)

    def text(self, split: Split, index: int) -> Tensor:
        """(T,), int64: what a network is given of a text, by its position in the full split."""
        return self.tokens(split)[index * self.length : (index + 1) * self.length]

    def fingerprint(self) -> str:
        """A hash over all that decides the training texts, but not their order."""
        return self._text_hash("train", self.length, self.limit_train)

    def text_fingerprint(self) -> str:
        """A hash over all that decides which text an index of a training batch stands for."""
        return self._text_hash("train", self.length)

    def test_fingerprint(self) -> str:
        """What tells the test texts from others."""
        return self._text_hash("test", self.length, self.limit_eval)

    def _text_hash(self, split: Split, *selection: object) -> str:
        found = hashlib.sha256(repr((self.name, self.num_classes, *selection)).encode())
        found.update(self.tokens(split).numpy().tobytes())
        return found.hexdigest()[:32]

    # What the splits and loaders are made of

    def _targets(self, split: Split) -> Tensor:
        """Of one kind all: a text has a target for each of its tokens."""
        tokens, least = len(self.tokens(split)), 2 if split == "train" else 1
        texts = (tokens - 1) // self.length
        if texts < least:
            raise UserError(
                f"length={self.length} makes {texts} texts of the {tokens} {split} tokens, and {least} are needed: "
                "lower it (data.length on the command line), or give more files"
            )
        return torch.zeros(texts, dtype=torch.int64)

    def _loader(self, split: Split, sampler: EpochSampler, training: bool) -> Loader[TokenBatch]:
        return _TokenLoader(self.tokens(split), self.length, sampler, self._device())


class _TokenLoader(Loader[TokenBatch]):
    """Gathers batches on the device."""

    def __init__(self, tokens: Tensor, length: int, sampler: EpochSampler, device: torch.device) -> None:
        super().__init__(sampler)
        self.tokens, self.length, self.device = tokens, length, device

    def _batches(self) -> Iterator[TokenBatch]:
        tokens, offsets = self.tokens.to(self.device), torch.arange(self.length + 1, device=self.device)
        order = self.sampler.order()[0].to(self.device)
        for part in self.sampler.slices():
            index = order[part]
            texts = tokens[index.unsqueeze(1) * self.length + offsets]
            yield TokenBatch(texts[:, :-1], texts[:, 1:], index)
