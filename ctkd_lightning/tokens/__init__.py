"""Sequences of tokens: which position predicts what, whether two vocabularies are one, teachers made of adapters."""

from typing import TYPE_CHECKING

from ctkd_lightning._lazy import lazy_names

if TYPE_CHECKING:
    from ctkd_lightning.tokens.adapters import AdapterTeacher
    from ctkd_lightning.tokens.shift import next_tokens
    from ctkd_lightning.tokens.vocabulary import check_same_vocabulary, vocabulary_size

__all__ = ["AdapterTeacher", "check_same_vocabulary", "next_tokens", "vocabulary_size"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "AdapterTeacher": "ctkd_lightning.tokens.adapters",
        "check_same_vocabulary": "ctkd_lightning.tokens.vocabulary",
        "next_tokens": "ctkd_lightning.tokens.shift",
        "vocabulary_size": "ctkd_lightning.tokens.vocabulary",
    },
)
