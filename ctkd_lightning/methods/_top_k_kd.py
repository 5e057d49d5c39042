"""Knowledge distillation from a teacher's largest log-probabilities, which are right at τ = 1 alone."""

from __future__ import annotations

import torch
from torch import Tensor

from ctkd_lightning._masks import check_mask, masked, mean_over_positions
from ctkd_lightning.errors import UserError
from ctkd_lightning.features.outputs import at_least_float32, is_integer


def top_k_kd_loss(
    student_logits: Tensor,
    teacher_ids: Tensor,
    teacher_log_probabilities: Tensor,
    temperature: float = 1.0,
    *,
    mask: Tensor | None = None,
) -> Tensor:
    r"""KD at τ = 1 from the k largest log-probabilities, with all other classes as one outcome.

    .. math::
        L = \frac{1}{N} \sum_i \Big[ \sum_{v \in K_i} p_{iv} (\log p_{iv} - \log q_{iv}) + P_i (\log P_i - \log Q_i)
        \Big], \qquad P_i = 1 - \sum_{v \in K_i} p_{iv}, \quad Q_i = 1 - \sum_{v \in K_i} q_{iv}

    A lower bound of KL(p ‖ q), and never negative: left out, the rest would make it so. It is what can be learned from
    data sets of top-k log-probabilities, as DistillKit (once unpacked), TRL and vLLM give them. At another τ they say
    nothing of the rest, which has most of the mass there: :mod:`ctkd_lightning.token_store` keeps what does.

    Args:
        student_logits: (..., V).
        teacher_ids: K, (..., k), classes, each once.
        teacher_log_probabilities: log p of these, the same shape, normalised over all V classes; minus infinity for a
            place that is not used, with any id.
        temperature: 1.
        mask: as for :func:`~ctkd_lightning.methods.kd_loss`.

    Returns:
        A scalar.

    Raises:
        UserError: another temperature, or a learned one; shapes that do not fit; ids that are no classes, or one twice.

    Example:
        >>> student = torch.tensor([[2.0, 1.0, 0.0, 0.0]])
        >>> top_k_kd_loss(student, torch.tensor([[1]]), torch.tensor([[0.5]]).log())
        tensor(0.1809)
    """
    if isinstance(temperature, Tensor) or temperature != 1:
        found = "a tensor, perhaps a learned one" if isinstance(temperature, Tensor) else repr(temperature)
        raise UserError(
            f"log-probabilities of the top k are right at temperature 1 alone, found {found}: take 1.0, or a token "
            "store of the teacher (python -m ctkd_lightning.store), which is right at every temperature"
        )
    positions, k = student_logits.shape[:-1], teacher_ids.shape[-1:]
    shapes = (teacher_ids.shape, teacher_log_probabilities.shape)
    if not student_logits.ndim or any(shape != (*positions, *k) for shape in shapes) or not is_integer(teacher_ids):
        raise UserError(
            f"student logits have shape {tuple(student_logits.shape)}, the teacher's ids {tuple(shapes[0])} of "
            f"{teacher_ids.dtype} and its log-probabilities {tuple(shapes[1])}: expected (..., V) and twice (..., k)"
        )
    check_mask(mask, student_logits)
    log_q = torch.log_softmax(at_least_float32(masked(student_logits, mask)), dim=-1)
    given = at_least_float32(teacher_log_probabilities)
    used = given != -torch.inf
    if mask is not None:
        used = used & (mask != 0).unsqueeze(-1)
    ids = teacher_ids.long().where(used, 0)
    _check_classes(ids, log_q.shape[-1])
    p = given.exp()
    inside = torch.where(used, p * (torch.where(used, given, 0.0) - log_q.gather(-1, ids)), 0.0)
    among_top = torch.zeros_like(log_q, dtype=torch.int8).scatter_add_(-1, ids, used.to(torch.int8)) != 0
    _check_distinct(ids, used, among_top)
    rest = (1 - p.sum(dim=-1)).clamp(min=0).masked_fill(among_top.all(dim=-1), 0.0)
    log_rest = log_q.masked_fill(among_top, torch.finfo(log_q.dtype).min).logsumexp(dim=-1)
    each = inside.sum(dim=-1) + torch.special.xlogy(rest, rest) - rest * log_rest
    return mean_over_positions(each, mask)


def _check_classes(ids: Tensor, classes: int) -> None:
    wrong = ids[(ids < 0) | (ids >= classes)]
    if len(wrong):
        raise UserError(
            f"the teacher's ids are classes of the student, from 0 to {classes - 1}, found {int(wrong[0])}: take the "
            "tokeniser of both, and log-probabilities of -inf for places that are not used"
        )


def _check_distinct(ids: Tensor, used: Tensor, among_top: Tensor) -> None:
    repeated = among_top.sum(dim=-1) != used.sum(dim=-1)
    if repeated.any():
        of_one = ids[repeated][0][used[repeated][0]]
        values, counts = of_one.unique(return_counts=True)
        raise UserError(
            f"the teacher's ids have class {int(values[counts.argmax()])} twice at one position: give each once, and "
            "log-probabilities of -inf for places that are not used"
        )
