"""Contrastive representation distillation: tell the teacher's view of a sample from its views of others."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctkd_lightning._across_processes import WholeBatch
from ctkd_lightning._facts import MethodFacts
from ctkd_lightning._masks import mean
from ctkd_lightning.errors import UserError, check_number
from ctkd_lightning.features.outputs import NetworkOutput, Step, at_least_float32, is_integer
from ctkd_lightning.methods._adapter import Adapter, width
from ctkd_lightning.methods._base import Method, built
from ctkd_lightning.methods._checks import check_features, need_target, no_autocast, unit
from ctkd_lightning.temperature._softening import Softening


def crd_loss(
    anchor: Tensor,
    positive: Tensor,
    bank: Tensor,
    negatives: Tensor,
    log_normalizer: float | Tensor,
    temperature: float = 0.07,
    keep: Tensor | None = None,
) -> Tensor:
    r"""Noise-contrastive loss of one network's embeddings against a memory of the other's.

    .. math::
        L = -\frac{1}{B} \sum_i \Big[ \log h(a_i, p_i) + \frac{K}{|\mathcal{K}_i|} \sum_{k \in \mathcal{K}_i}
            \log (1 - h(a_i, m_k)) \Big], \qquad
        h(a, m) = \frac{e^{a \cdot m / T} / Z}{e^{a \cdot m / T} / Z + K / N}

    with K negatives drawn for each anchor out of a memory of N rows, of which those in :math:`\mathcal{K}_i` (of other
    classes) are kept and stand for all K. Written with log-sigmoids, so that nothing overflows. One product with the
    whole memory takes the place of gathering (B, K, D) rows: 512 MB at the paper's settings. Computed in float32 or
    wider.

    Tian et al., *Contrastive Representation Distillation*, ICLR 2020, https://arxiv.org/abs/1910.10699. The authors'
    code draws the negatives of a sample without replacement from the other classes and adds 1e-7 to each denominator.

    Args:
        anchor: a, (B, D), of length 1.
        positive: p, (B, D), the memory of the same samples.
        bank: m, (N, D), the whole memory; no gradient reaches it.
        negatives: (B, K), rows of the memory; their values are not looked at.
        log_normalizer: log Z; Z brings :math:`e^{a \cdot m / T}` to the scale of a probability over the N rows.
        temperature: T, of the contrast; not the distillation's.
        keep: (B, K), truth values: false for the draws to leave out.

    Returns:
        A scalar.

    Raises:
        UserError: shapes or types that do not fit, or a temperature that is not positive and finite.

    Example:
        >>> bank = torch.eye(4)
        >>> crd_loss(bank[:2], bank[:2], bank, torch.tensor([[2, 3], [2, 3]]), log_normalizer=1.5, temperature=1.0)
        tensor(1.3392)
    """
    check_features(anchor, positive, ndim=2, same_shape=True)
    _check_memory(anchor, bank, negatives, keep)
    check_number("CRD's temperature", temperature, above=0)
    if not isinstance(log_normalizer, Tensor):
        check_number("CRD's log_normalizer", log_normalizer)
    anchor, positive = at_least_float32(anchor), at_least_float32(positive)
    # log h(a, m) = logsigmoid(a · m / T - offset)
    offset = log_normalizer + math.log(negatives.shape[1] / len(bank))
    similar = (anchor * positive).sum(dim=1) / temperature - offset
    different = _similarities(anchor, bank, negatives) / temperature - offset
    attraction = F.softplus(-similar)
    repulsion = F.softplus(different)
    if keep is None:
        return mean(attraction + repulsion.sum(dim=1))
    kept = keep.sum(dim=1).clamp(min=1)
    repulsion = repulsion.masked_fill(~keep, 0.0).sum(dim=1) * (negatives.shape[1] / kept)
    return mean(attraction + repulsion)


def _check_memory(anchor: Tensor, bank: Tensor, negatives: Tensor, keep: Tensor | None) -> None:
    fits = bank.ndim == 2 and bank.shape[1] == anchor.shape[1] and negatives.ndim == 2 and len(negatives) == len(anchor)
    if not (fits and len(bank) and negatives.shape[1]):
        raise UserError(
            f"bank has shape {tuple(bank.shape)} and negatives {tuple(negatives.shape)}: expected (N, {width(anchor)}) "
            f"and ({len(anchor)}, K), N and K from 1"
        )
    if not is_integer(negatives):
        raise UserError(f"negatives have type {negatives.dtype}: expected whole numbers, rows of the bank")
    if keep is not None and (keep.shape != negatives.shape or keep.dtype != torch.bool):
        raise UserError(
            f"keep has shape {tuple(keep.shape)} and type {keep.dtype}: expected one truth value for each of the "
            f"negatives, shape {tuple(negatives.shape)}"
        )


def _similarities(anchor: Tensor, bank: Tensor, rows: Tensor) -> Tensor:
    with no_autocast(anchor):
        return (anchor @ bank.detach().to(anchor.dtype).T).gather(1, rows.long())


class CRD(Method):
    """Contrastive distillation of the pooled features: :func:`crd_loss` from student to teacher and back.

    Both networks' features are embedded by a trainable linear layer and kept, for each training sample, in a memory
    that follows with momentum. The memory learns the samples' classes as it sees them; a row not yet seen holds a
    random direction, and serves as a negative for all. Negatives are drawn uniformly with replacement; those of the
    anchor's own class are left out and the others stand for them. The draws are numbered, and the number and the
    sample's place in the batch seed one: a resumed run draws what an uninterrupted one would (the checkpoint holds the
    last number), and several processes what one would of all their batches together.

    The memories are buffers: saved, resumed, and equal on all ranks without being broadcast, for each rank writes what
    all ranks saw. DDP may therefore be told to leave them alone.
    A step writes to them, so use it in training only.

    Args:
        num_samples: size of the training set, or None to learn it in :meth:`prepare` or from a checkpoint.
        dim: width of the embedding.
        negatives: K, draws for each sample.
        contrast_temperature: T of :func:`crd_loss`.
        momentum: share of the old row that a visit keeps.
        weight: factor of the term.

    Raises:
        UserError: a setting out of range; in use, no ``index`` or no memory.
    """

    facts = MethodFacts(
        paper="Tian, ICLR 2020",
        url="https://arxiv.org/abs/1910.10699",
        weight_from="authors' code",
        index=True,
        own="embeddings, memory",
        cost="B · N · 128, once each way; two memories of N × 128 (51 MB for 50,000 samples, also in the checkpoint)",
    )

    needs = ("pooled",)
    needs_target = True
    student_bank: Tensor
    teacher_bank: Tensor
    labels: Tensor
    log_normalizers: Tensor
    draws: Tensor

    def __init__(
        self,
        num_samples: int | None = None,
        dim: int = 128,
        negatives: int = 16384,
        contrast_temperature: float = 0.07,
        momentum: float = 0.5,
        weight: float = 0.8,
    ) -> None:
        super().__init__(weight)
        check_number("CRD's dim", dim, least=1, whole=True)
        check_number("CRD's negatives", negatives, least=1, whole=True)
        check_number("CRD's contrast_temperature", contrast_temperature, above=0)
        check_number("CRD's momentum", momentum, least=0, below=1)
        self.dim = int(dim)
        self.negatives = int(negatives)
        self.contrast_temperature = contrast_temperature
        self.momentum = momentum
        self.student_embedding: Adapter | None = None
        self.teacher_embedding: Adapter | None = None
        self._allocate(0)
        # log Z of both directions, estimated on the first batch; zero until then
        self.register_buffer("log_normalizers", torch.zeros(2))
        self._calibrated = False
        self.register_buffer("draws", torch.randint(2**31, ()))  # begins where the run's seed says
        self._draws: int | None = None  # the same on the host
        if num_samples is not None:
            self.prepare(num_samples)

    def build(self, student: NetworkOutput, teacher: NetworkOutput) -> None:
        """The embeddings of both networks' pooled features."""
        self.student_embedding = Adapter(nn.Linear(width(student.feature("pooled")), self.dim))
        self.teacher_embedding = Adapter(nn.Linear(width(teacher.feature("pooled")), self.dim))

    def prepare(self, num_samples: int) -> None:
        """Allocate the memories, unless they have this size already."""
        check_number("CRD's num_samples", num_samples, least=2, whole=True)  # it contrasts them with each other
        if len(self.labels) != num_samples:
            self._allocate(int(num_samples))

    def _allocate(self, num_samples: int) -> None:
        device = self.labels.device if hasattr(self, "labels") else None
        generator = torch.Generator().manual_seed(0)  # a generator of its own: the ranks begin alike
        for name in ("student_bank", "teacher_bank"):
            rows = torch.randn(num_samples, self.dim, generator=generator)
            self.register_buffer(name, unit(rows).to(device))
        self.register_buffer("labels", torch.full((num_samples,), -1, device=device))  # -1: not seen yet

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, step: Step, softening: Softening) -> Tensor:
        """Both directions' contrastive losses, summed."""
        index, target = step.index, need_target(step.target, "CRD")
        if index is None:
            raise UserError(
                "CRD needs the samples' indices, found none: batches must carry (image, target, index), or "
                "index=lambda batch: … pick them"
            )
        if not len(self.labels):
            raise UserError("CRD has no memory: call prepare(num_samples) with the size of the training set")
        s = self._embed(self.student_embedding, student)
        t = self._embed(self.teacher_embedding, teacher)
        positives = self.teacher_bank[index], self.student_bank[index]
        # Before the loss reads the memories: its backward pass needs them as they are. Only negatives see the
        # difference, some of which are then one step fresher.
        batch = WholeBatch(len(index), index.device, together=self.training)
        learns = self.training and len(batch) > 0  # from an empty batch there is nothing to remember
        if learns:
            self._remember(*batch.gather(s.detach(), t.detach(), target, index))
        rows = self._draw(batch.own)
        keep = self.labels[rows] != target.unsqueeze(1)
        if learns:
            self._calibrate(batch, (s, self.teacher_bank, rows), (t, self.student_bank, rows))
        losses = [
            crd_loss(anchor, positive, bank, rows, log_normalizer, self.contrast_temperature, keep)
            for anchor, positive, bank, log_normalizer in zip(
                (s, t), positives, (self.teacher_bank, self.student_bank), self.log_normalizers.unbind(), strict=True
            )
        ]
        return losses[0] + losses[1]

    def _embed(self, embedding: Adapter | None, output: NetworkOutput) -> Tensor:
        return unit(at_least_float32(built(embedding, self)(output.feature("pooled"))))

    @torch.no_grad()
    def _remember(self, student: Tensor, teacher: Tensor, target: Tensor, index: Tensor) -> None:
        # A sampler that fills up the last batch repeats samples: all of a sample's entries write what its first does,
        # so that the order of the writes does not matter.
        first = (index.unsqueeze(1) == index).int().argmax(dim=1)
        for bank, new in ((self.student_bank, student), (self.teacher_bank, teacher)):
            rows = self.momentum * bank[index] + (1 - self.momentum) * new[first]
            bank[index] = unit(rows).to(bank.dtype)
        self.labels[index] = target

    def _draw(self, places: np.ndarray) -> Tensor:
        """The memories' rows that are the negatives of the samples at these places of the batch: (B, K)."""
        if self._draws is None:
            self._draws = int(self.draws)
        device = self.draws.device
        generator = torch.Generator(device)
        seeds = np.random.SeedSequence(self._draws).generate_state(places.max(initial=-1) + 1)[places].tolist()
        rows = torch.empty(len(places), self.negatives, dtype=torch.int64, device=device)
        for row, seed in zip(rows, seeds, strict=True):
            row.random_(len(self.labels), generator=generator.manual_seed(seed))
        if self.training:
            self._draws += 1
            self.draws += 1
        return rows

    @torch.no_grad()
    def _calibrate(self, batch: WholeBatch, *directions: tuple[Tensor, Tensor, Tensor]) -> None:
        """Estimate Z once, as the authors' code does: N times the mean score of the first batch."""
        if self._calibrated or bool(self.log_normalizers.all()):  # looks at the values once, not in each step
            self._calibrated = True
            return
        scores = torch.stack([_similarities(*direction) for direction in directions]) / self.contrast_temperature
        (scores,) = batch.gather(scores.transpose(0, 1))
        count = len(scores) * self.negatives
        self.log_normalizers.copy_(scores.logsumexp(dim=(0, 2)) + math.log(len(self.labels) / count))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        saved = state_dict.get(f"{prefix}labels")
        if saved is not None and not len(self.labels):
            self._allocate(len(saved))
        self._calibrated, self._draws = False, None
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
