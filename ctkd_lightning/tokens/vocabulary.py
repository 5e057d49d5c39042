"""Whether a network's classes are the tokens of a vocabulary, and whether two vocabularies are one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ctkd_lightning.errors import UserError

_MANY = 10_000  # more than data sets of images have labels
_NAMED = 3  # tokens that an error names


def vocabulary_size(network: nn.Module) -> int | None:
    """How many tokens a language model scores; ``None`` for networks whose classes are no vocabulary.

    A language model has an embedding of the same tokens that its last linear layer scores; of one that sees images too
    these must be many, since image networks may embed their labels. One that computes its scores from the embedding
    itself, without such a layer, is not known for one.

    Args:
        network: any.

    Example:
        >>> vocabulary_size(nn.Sequential(nn.Embedding(500, 8), nn.Linear(8, 500)))
        500
        >>> vocabulary_size(nn.Sequential(nn.Embedding(500, 8), nn.Linear(8, 2))) is None  # a classifier of texts
        True
    """
    embedded, scored, sees = set(), None, False
    for part in network.modules():
        sees = sees or isinstance(part, nn.Conv2d)
        if isinstance(part, nn.Embedding):
            embedded.add(part.num_embeddings)
        elif isinstance(part, nn.Linear):
            scored = part.out_features
    return scored if scored in embedded and not (sees and scored < _MANY) else None


def check_same_vocabulary(student: Any, teacher: Any) -> None:
    """Refuse tokenisers that give different numbers to the same text: their models' scores are of different things.

    Args:
        student: a tokeniser with ``get_vocab()``, such as those of transformers and tokenizers, or its vocabulary, from
            token to number.
        teacher: likewise.

    Raises:
        UserError: numbers that stand for different tokens; naming the first.
    """
    own, other = (_by_number(each, role) for each, role in ((student, "student"), (teacher, "teacher")))
    differ = sorted(n for n in own.keys() | other.keys() if own.get(n) != other.get(n))
    if not differ:
        return
    found = "; ".join(f"{n} is {_said(own.get(n))} and {_said(other.get(n))}" for n in differ[:_NAMED])
    if len(own) != len(other) and all(own.get(n) == other.get(n) for n in own.keys() & other.keys()):
        shorter, longer = sorted((len(own), len(other)))
        raise UserError(
            f"one vocabulary has {longer - shorter} tokens more than the other ({found}): compare the common ones, as "
            f"with teacher_logits=lambda output: output.logits[..., :{shorter}], if no text has those"
        )
    raise UserError(
        f"student and teacher have different tokenisers: {len(differ)} of {len(own.keys() | other.keys())} numbers "
        f"stand for different tokens ({found}): take a teacher with the student's tokeniser, or train the student on "
        "texts that the teacher wrote"
    )


def _by_number(tokeniser: Any, role: str) -> dict[int, str]:
    vocabulary = tokeniser.get_vocab() if hasattr(tokeniser, "get_vocab") else tokeniser
    if not isinstance(vocabulary, Mapping):
        raise UserError(
            f"the {role}'s tokeniser must have get_vocab(), or be a mapping from token to number, found a "
            f"{type(tokeniser).__name__}"
        )
    return {number: token for token, number in vocabulary.items()}


def _said(token: str | None) -> str:
    return "no token" if token is None else repr(token)
