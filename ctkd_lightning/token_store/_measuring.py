"""How far what a store keeps is from what the teacher gave, for a student that learns from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ctkd_lightning.methods._checks import no_autocast
from ctkd_lightning.methods._chunked_kd import pieces
from ctkd_lightning.token_store._basis import Basis, centred

TEMPERATURES = (1.0, 4.0, 16.0)
"""At which a store is measured before it is written; between and beyond them the error moves little."""

STAND_IN_WIDTH = 64
UNEXPLAINED = 0.5


@dataclass(frozen=True)
class Student:
    """Whose gradients are looked at.

    Attributes:
        logits: (N, V).
        hidden: (N, H), what its head reads.
        weight: (V, H), the head.
    """

    logits: Tensor
    hidden: Tensor
    weight: Tensor


def stand_in(teacher: Tensor, basis: Basis, seed: int = 0) -> Student:
    r"""A student for a teacher whose own student nobody has trained yet.

    .. math:: s = t + \tfrac12 \sum_j (R c)_j b_j

    Its error is half as large as the teacher's logits vary, in the directions in which they vary: the student is a good
    one, and against a small difference the store's errors are large. R is a random rotation: the error is a function of
    what the teacher says, as that of a network that could not learn it, and does not average out over tokens. The head
    is random, so that an error counts alike in whatever direction of the vocabulary it is; of a trained head the widest
    directions, which a store keeps best, are a larger part. The hidden states are the logits seen through that head.

    Args:
        teacher: its logits on held-out tokens, (N, V).
        basis: with all directions.
        seed: of the random numbers.
    """
    generator = torch.Generator().manual_seed(seed)

    def random(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=generator)

    varying = centred(teacher).to(basis.mean.dtype) - basis.mean
    rotation = torch.linalg.qr(random(basis.rank, basis.rank)).Q.to(basis.mean)
    error = (varying @ basis.projection()) @ rotation
    weight = random(len(basis.mean), STAND_IN_WIDTH).to(basis.mean)
    logits = torch.addmm(teacher, error, basis.directions.T, alpha=UNEXPLAINED)
    return Student(logits, varying @ weight / len(weight) ** 0.5, weight)


def relative_errors(
    teacher: Tensor, kept: Tensor, student: Student, temperatures: Sequence[float] = TEMPERATURES
) -> dict[str, dict[str, float]]:
    r"""Relative errors of KD by what is kept of the teacher, by temperature.

    .. math::
        \frac{\sum_i |\hat K_i - K_i|}{\sum_i K_i}, \qquad
        \frac{\lVert (\hat p - p) W \rVert}{\lVert (q - p) W \rVert}, \qquad
        \frac{\lVert (\hat p - p)^\top h \rVert}{\lVert (q - p)^\top h \rVert}

    with the softened probabilities p of the teacher, :math:`\hat p` of what is kept and q of the student, and K =
    KL(p ‖ q): ``kl``, and its gradients to ``hidden`` states and ``head`` by their Frobenius norms.

    Args:
        teacher: logits (N, V).
        kept: likewise, up to a constant for each token.
        student: on the same tokens.
        temperatures: τ.
    """
    found = {}
    for tau in temperatures:
        sums = torch.zeros(4, dtype=torch.float64, device=teacher.device)
        to_head, head_error = (torch.zeros_like(student.weight) for _ in range(2))
        with no_autocast(teacher):
            for rows in pieces(teacher):
                log_p, log_kept, log_q = (  # a divergence far below 1 is one of rounding in float32
                    torch.log_softmax(x[rows].double() / tau, dim=1) for x in (teacher, kept, student.logits)
                )
                p, kept_p = log_p.exp(), log_kept.exp()
                divergence = (p * (log_p - log_q)).sum(dim=1)
                error = (kept_p * (log_kept - log_q)).sum(dim=1) - divergence
                dtype = student.weight.dtype
                gradient, off = (log_q.exp_() - p).to(dtype), (kept_p - p).to(dtype)
                parts = (error.abs(), divergence, (off @ student.weight) ** 2, (gradient @ student.weight) ** 2)
                sums += torch.stack([part.sum(dtype=torch.float64) for part in parts])
                to_head.addmm_(gradient.T, student.hidden[rows])
                head_error.addmm_(off.T, student.hidden[rows])
        kl_error, kl, hidden_error, hidden = sums.tolist()
        found[f"{tau:g}"] = {
            "kl": kl_error / kl,
            "hidden": (hidden_error / hidden) ** 0.5,
            "head": float(head_error.norm() / to_head.norm()),
        }
    return found


def worst(errors: dict[str, dict[str, float]]) -> float:
    """The largest of them."""
    return max(error for of_tau in errors.values() for error in of_tau.values())
