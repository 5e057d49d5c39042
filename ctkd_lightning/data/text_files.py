"""The files of a folder as pairs of bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctkd_lightning._files import locked, user_path, written_whole
from ctkd_lightning.data._checks import whole_number
from ctkd_lightning.data._labelled import Split
from ctkd_lightning.data._tokens import TokenDataModule
from ctkd_lightning.errors import UserError

_END = "<end>"  # of a file
_PARTS = 20  # of the files, by their names: one validates and one tests
_SPLITS: dict[int, Split] = {0: "test", 1: "val"}


class TextFiles(TokenDataModule):
    """The texts of a folder's files, for small language models.

    A twentieth of the files, by a hash of their names, validates and another tests. Files stand one after the other,
    each with an end, and are cut into texts of ``length`` tokens. The tokens are of byte-pair encoding, learned on the
    training files once and kept in ``cache_dir``. Needs tokenizers: ``pip install 'ctkd-lightning[tokens]'``.

    Args:
        root: the folder.
        pattern: of the files' names, in any folder below it; bytes that are no UTF-8 are replaced.
        vocabulary: how many tokens, 257 at least.
        length: tokens of a text, T.
        cache_dir: for tokeniser and tokens.
        **common: the arguments of ``LabelledDataModule``, but ``val_size``: batch_size, eval_batch_size,
            batch_size_is_total, limit_train, limit_eval (texts), seed, drop_last.

    Raises:
        UserError: a setting that cannot be; too few files, or no tokenizers.
    """

    name = "text_files"

    def __init__(
        self,
        root: str | Path,
        pattern: str = "*.txt",
        *,
        vocabulary: int = 2048,
        length: int = 128,
        cache_dir: str | Path = "~/.cache/ctkd_lightning",
        **common: Any,
    ) -> None:
        super().__init__(length=length, **common)
        self.vocabulary = whole_number("vocabulary", vocabulary, least=257)
        self.root, self.pattern, self.cache_dir = user_path(root), pattern, user_path(cache_dir)
        self._tokens: dict[Split, Tensor] = {}

    @property
    def class_names(self) -> list[str]:
        """The tokens, in the order of their numbers."""
        tokeniser = _tokenizers().Tokenizer.from_file(str(self._prepared / "tokenizer.json"))
        return [tokeniser.id_to_token(number) for number in range(self.vocabulary)]

    @property
    def num_classes(self) -> int:
        """The vocabulary."""
        return self.vocabulary

    def bytes_per_token(self, split: Split) -> float:
        """How many bytes of text a token of a split stands for."""
        sizes = {"train": 0, "val": 0, "test": 0}
        for name, path in self._files:
            sizes[_split_of(name)] += len(_read(path).encode())
        return sizes[split] / len(self.tokens(split))

    def tokens(self, split: Split) -> Tensor:
        """(N,), int64: all of a split in order."""
        if split not in self._tokens:
            self._tokens[split] = torch.from_numpy(np.load(self._prepared / f"{split}.npy").astype(np.int64))
        return self._tokens[split]

    def prepare_data(self) -> None:
        """Learn the tokens and encode the files, on one process and once."""
        _ = self._prepared

    @cached_property
    def _files(self) -> list[tuple[str, Path]]:
        if not self.root.is_dir():
            raise UserError(f"root: no folder at {self.root}: give the one that has the texts")
        files = ((path.relative_to(self.root).as_posix(), path) for path in self.root.rglob(self.pattern))
        found = sorted((name, path) for name, path in files if path.is_file() and self._has(name))
        if not {_split_of(name) for name, _ in found} >= {"train", "val", "test"}:
            raise UserError(
                f"{self.root} has {len(found)} files {self.pattern}, too few to train, validate and test, since a "
                "twentieth of them does either: give more, or cut large ones"
            )
        return found

    def _has(self, name: str) -> bool:
        """Whether a file, by its name below the root, is one of the data's."""
        return True

    @cached_property
    def _prepared(self) -> Path:
        """The folder with tokeniser and tokens."""
        content = [(name, hashlib.sha256(path.read_bytes()).hexdigest()) for name, path in self._files]
        decides = repr((content, self.vocabulary)).encode()
        folder = self.cache_dir / self.name / hashlib.sha256(decides).hexdigest()[:16]
        if not (folder / "test.npy").is_file():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with locked(folder):
                if not (folder / "test.npy").is_file():
                    self._prepare(folder)
        return folder

    def _prepare(self, folder: Path) -> None:
        tokenizers = _tokenizers()
        tokeniser = tokenizers.Tokenizer(tokenizers.models.BPE())
        tokeniser.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokeniser.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=self.vocabulary,
            special_tokens=[_END],
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokeniser.train_from_iterator(self._texts("train"), trainer)
        if tokeniser.get_vocab_size() != self.vocabulary:
            raise UserError(
                f"vocabulary={self.vocabulary}: the files give {tokeniser.get_vocab_size()} tokens: set that or fewer"
            )
        folder.mkdir(parents=True, exist_ok=True)
        with written_whole(folder / "tokenizer.json") as part:
            tokeniser.save(str(part))
        end = [tokeniser.token_to_id(_END)]
        splits: tuple[Split, ...] = ("train", "val", "test")
        for split in splits:  # the test's at last: with it all is there
            encoded = tokeniser.encode_batch(list(self._texts(split)))
            with written_whole(folder / f"{split}.npy") as part, part.open("wb") as file:
                np.save(file, np.concatenate([np.array(text.ids + end, dtype=np.uint32) for text in encoded]))

    def _texts(self, split: Split) -> Iterator[str]:
        return (_read(path) for name, path in self._files if _split_of(name) == split)


def _split_of(name: str) -> Split:
    return _SPLITS.get(int(hashlib.sha256(name.encode()).hexdigest(), 16) % _PARTS, "train")


def _read(path: Path) -> str:
    return path.read_bytes().decode("utf-8", errors="replace")


def _tokenizers() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise UserError("these data need tokenizers: pip install 'ctkd-lightning[tokens]'") from error
    return tokenizers
