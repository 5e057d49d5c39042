"""How many coefficients a store needs for its teacher."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ctkd_lightning.errors import UserError
from ctkd_lightning.token_store._basis import Basis, basis_of_head, basis_of_rows
from ctkd_lightning.token_store._manifest import Errors
from ctkd_lightning.token_store._measuring import Student, relative_errors, stand_in, worst
from ctkd_lightning.token_store._records import Bits, Encoder, Layout, check_finite
from ctkd_lightning.token_store._stored import stored_tokens

RANKS = (4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)


@dataclass(frozen=True)
class Sample:
    """Tokens that a basis is fitted to, and others on which the errors are measured.

    Attributes:
        tokens: (N,), held-out ones.
        logits: (N, V), what the teacher gave for them.
        fitted: hidden states (M, H) for the basis where the head is known; else logits (M, V).
        head: weight and bias.
        all_read: whether the documents have no more tokens that a basis could be fitted to.
    """

    tokens: Tensor
    logits: Tensor
    fitted: Tensor
    head: tuple[Tensor, Tensor | None] | None
    all_read: bool = False

    def basis(self) -> Basis:
        """With all directions that there are."""
        return basis_of_rows(self.fitted) if self.head is None else basis_of_head(self.fitted, *self.head)


@dataclass(frozen=True)
class Candidate:
    """A layout, and what was measured of it.

    Attributes:
        layout: of a record.
        errors: on held-out tokens.
        whole: whether it has all coefficients that there are.
    """

    layout: Layout
    errors: Errors
    whole: bool


@dataclass(frozen=True)
class Choice:
    """The layout that serves, with its encoder.

    Attributes:
        encoder: from logits to records.
        candidate: of that layout.
        tried: all candidates, the chosen one last.
        measured_on: number of held-out tokens.
    """

    encoder: Encoder
    candidate: Candidate
    tried: list[Candidate]
    measured_on: int


def choose(sample: Sample, *, tolerance: float, top: int, rank: int | None = None) -> Choice:
    """The fewest coefficients whose errors are all within the tolerance.

    Args:
        sample: of the teacher's outputs.
        tolerance: the largest relative error that is let pass.
        top: largest logits that are kept exactly.
        rank: take so many instead, whatever the errors.

    Raises:
        UserError: logits that are not finite or do not vary; not even all coefficients in 16 bits are within the
            tolerance; more coefficients or logits than there are.
    """
    check_finite(sample.logits)
    check_finite(sample.fitted)
    basis, vocabulary = sample.basis(), sample.logits.shape[1]
    if top > vocabulary:
        raise UserError(f"top={top} is more than the vocabulary's {vocabulary}: lower it")
    if not basis.varies:
        raise UserError(
            f"the teacher's logits do not vary over the {len(sample.fitted)} token(s) of the sample: give more "
            "documents, or a teacher whose head is trained"
        )
    short = sample.all_read and sample.head is None and basis.rank == len(sample.fitted) - 1  # as many as rows can have
    if rank is not None and rank > basis.rank:
        do = "lower it, or give more documents" if short else "lower it"
        raise UserError(f"rank={rank} is more than the {basis.rank} directions that the logits have: {do}")
    student = stand_in(sample.logits, basis)
    tried = []
    for number, bits in _candidates(basis.rank, rank):
        encoder = Encoder(basis.truncated(number), Layout(number, top, vocabulary, bits))
        tried.append(Candidate(encoder.layout, _measured(encoder, sample, student), number == basis.rank))
        if rank is not None or worst(tried[-1].errors) <= tolerance:
            return Choice(encoder, tried[-1], tried, len(sample.tokens))
    best = min(worst(candidate.errors) for candidate in tried)
    do = (
        f"give more documents, the {len(sample.fitted)} tokens of the sample have no more directions"
        if short
        else f"raise tolerance, or keep more logits exactly than top={top}"
    )
    raise UserError(
        f"no store of this teacher is within tolerance={tolerance:g}: all {basis.rank} coefficients in 16 bits have an "
        f"error of {best:.2g}; {do}"
    )


def _candidates(most: int, rank: int | None) -> Iterator[tuple[int, Bits]]:
    if rank is not None:
        yield rank, 8
        return
    yield from ((number, 8) for number in RANKS if number < most)
    yield most, 8
    yield most, 16


def _measured(encoder: Encoder, sample: Sample, student: Student) -> Errors:
    with torch.no_grad():
        kept = stored_tokens(encoder(sample.logits, sample.tokens), encoder.basis).logits()
        return relative_errors(sample.logits, kept, student)
