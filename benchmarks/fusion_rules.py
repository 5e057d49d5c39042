"""Two published rules that fuse modalities, written from their papers, for the comparison with learned temperatures.

Trusted multi-view classification (TMC) and quality-aware multimodal fusion (QMF). Both are trained with an encoder for
each modality, or over frozen ones: then the inputs are stored features and the encoders are :func:`heads` on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Dirichlet, kl_divergence
from torch.nn import functional as F

from ctkd_lightning.errors import check_number


def heads(widths: Mapping[str, int], num_classes: int, hidden: int = 0) -> dict[str, nn.Module]:
    """A trained last layer for each modality, over the stored features of a frozen encoder.

    Both papers train encoders of their own, whose last linear layer gives evidence or scores: over frozen encoders it
    is that layer which remains to be trained. An affine map of the frozen *scores* would be less than the papers ask
    for, as it only scales a classifier that never saw a bad sample; the features also tell that a sample is bad. With
    ``hidden`` a rule is as free as a network of temperatures with that width; a linear layer gives a feature that is
    far off evidence on one side, and only a layer between can give it none on either.

    Args:
        widths: of the features of each modality.
        num_classes: C.
        hidden: width of a layer between; none by default.
    """
    return {name: _head(width, num_classes, hidden) for name, width in widths.items()}


def _head(width: int, num_classes: int, hidden: int) -> nn.Module:
    if not hidden:
        return nn.Linear(width, num_classes)
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, num_classes))


def tmc_combine(evidences: Sequence[Tensor]) -> Tensor:
    r"""Dempster's rule, reduced to opinions on single classes: the fused evidence (B, C).

    Evidence e of C classes is the opinion :math:`b = e / S,\ u = C / S` with :math:`S = \sum_c e_c + C`. Two opinions
    make :math:`b_c \propto b_c^1 b_c^2 + b_c^1 u^2 + b_c^2 u^1` and :math:`u \propto u^1 u^2`. Their fused evidence
    :math:`C\, b_c / u` is :math:`e_c^1 + e_c^2 + e_c^1 e_c^2 / C`, in which the conflict cancels, and that of any
    number of them

    .. math:: e_c = C \Big( \prod_m (1 + e_c^m / C) - 1 \Big)

    Args:
        evidences: of each modality (B, C), 0 or more.
    """
    stacked = torch.stack(list(evidences))
    num_classes = stacked.shape[-1]
    return num_classes * torch.expm1(torch.log1p(stacked / num_classes).sum(dim=0))


def tmc_loss(evidences: Sequence[Tensor], target: Tensor, epoch: int, annealing_epochs: int = 50) -> Tensor:
    r"""TMC's loss, of each modality's opinion and of the fused one, summed; mean over the batch.

    Of one opinion with :math:`\alpha = e + 1` and :math:`S = \sum_c \alpha_c`, the cross-entropy that is expected under
    its Dirichlet distribution, and what speaks for the other classes is drawn to nothing:

    .. math:: \psi(S) - \psi(\alpha_y) + \min(1, t / T)\;
        \mathrm{KL}\big(\mathrm{Dir}(\tilde\alpha) \,\|\, \mathrm{Dir}(1)\big), \qquad
        \tilde\alpha = y + (1 - y) \odot \alpha

    Args:
        evidences: of each modality (B, C), 0 or more.
        target: (B,), int64.
        epoch: t, from 0.
        annealing_epochs: T, from which on the divergence counts in full.

    Raises:
        UserError: ``annealing_epochs`` below 1.
    """
    check_number("tmc_loss's annealing_epochs", annealing_epochs, least=1)
    strength = min(1.0, epoch / annealing_epochs)
    opinions = [*evidences, tmc_combine(evidences)]
    return torch.stack([_opinion_loss(evidence, target, strength) for evidence in opinions]).sum(dim=0).mean()


def _opinion_loss(evidence: Tensor, target: Tensor, strength: float) -> Tensor:
    alpha, own = evidence + 1, target.unsqueeze(1)
    expected = torch.digamma(alpha.sum(dim=1)) - torch.digamma(alpha.gather(1, own).squeeze(1))
    misleading = Dirichlet(alpha.scatter(1, own, 1.0), validate_args=False)
    nothing = Dirichlet(torch.ones_like(alpha), validate_args=False)
    return expected + strength * kl_divergence(misleading, nothing)


class TMC(nn.Module):
    """Trusted multi-view classification: Han et al., ICLR 2021.

    Each encoder's scores become evidence by a softplus. The published code trains the handwritten digits in six views
    with one linear layer each for 500 epochs in batches of 200, Adam at 3e-4 (weight decay 1e-5), 50 epochs of
    annealing, inputs in [0, 1].

    Args:
        encoders: by modality, from its inputs to scores (B, C).
        annealing_epochs: of the loss.
    """

    def __init__(self, encoders: Mapping[str, nn.Module], *, annealing_epochs: int = 50) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.annealing_epochs = annealing_epochs

    def evidences(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Of each modality (B, C)."""
        return [F.softplus(encoder(inputs[name])) for name, encoder in self.encoders.items()]

    def loss(self, inputs: Mapping[str, Tensor], target: Tensor, epoch: int) -> Tensor:
        """What training lowers; see :func:`tmc_loss`."""
        return tmc_loss(self.evidences(inputs), target, epoch, self.annealing_epochs)

    def scores(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Log-probabilities (B, C): of the mean of the fused opinion's Dirichlet distribution."""
        alpha = tmc_combine(self.evidences(inputs)) + 1
        return (alpha / alpha.sum(dim=1, keepdim=True)).log()


def qmf_confidence(scores: Tensor) -> Tensor:
    """How sure a modality is (B,): a tenth of the log-sum-exp of its scores (B, C), their negative energy."""
    return scores.logsumexp(dim=1) / 10


def qmf_fuse(scores: Sequence[Tensor]) -> Tensor:
    """The scores of the modalities, weighted by their confidences, which are no path for the gradient: (B, C).

    Args:
        scores: of each modality (B, C).
    """
    return torch.stack([qmf_confidence(z).detach().unsqueeze(1) * z for z in scores]).sum(dim=0)


class LossHistory(nn.Module):
    """The mean loss of each training sample in one modality so far.

    Args:
        num_samples: of the training set.
    """

    total: Tensor
    count: Tensor

    def __init__(self, num_samples: int) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(num_samples))
        self.register_buffer("count", torch.zeros(num_samples))

    def update(self, index: Tensor, losses: Tensor) -> None:
        """Note a batch's losses (B,) of the samples with the numbers ``index`` (B,), each once."""
        self.total[index] += losses.detach().to(self.total.dtype)
        self.count[index] += 1

    def relative(self, index: Tensor) -> Tensor:
        """Mean losses (B,) of samples that were noted, from 0 at the least of all samples to 1 at the greatest."""
        mean = self.total / self.count  # NaN where there is nothing yet
        known = mean[self.count > 0]
        low, high = known.min(), known.max()
        return (mean[index] - low) / (high - low).clamp(min=torch.finfo(mean.dtype).tiny)


def qmf_ranking_loss(confidence: Tensor, index: Tensor, history: LossHistory) -> Tensor:
    r"""A sample that has had a higher loss than the next one of the batch shall be less sure by as much.

    .. math:: \max\big(0,\ \mathrm{sign}(\kappa_i - \kappa_j)\,(w_i - w_j) + |\kappa_i - \kappa_j|\big)

    with confidences w and relative mean losses κ; mean over the batch, whose last sample goes with the first. The
    published code subtracts :math:`|\kappa_i - \kappa_j|`, which asks for less than the order.

    Args:
        confidence: (B,).
        index: (B,), the samples' numbers.
        history: of this modality, with this batch noted.
    """
    kappa = history.relative(index).to(confidence.dtype)
    harder = kappa - kappa.roll(-1)
    surer = confidence - confidence.roll(-1)
    return F.relu(harder.sign() * surer + harder.abs()).mean()


class QMF(nn.Module):
    """Quality-aware multimodal fusion: Zhang et al., ICML 2023.

    The loss is the cross-entropy of the fused scores and of each modality's, and ``ranking`` times each modality's
    ranking loss. The published code weighs it with 0.1 (two images) or 1 (image and text), and trains with Adam.

    Args:
        encoders: by modality, from its inputs to scores (B, C).
        num_samples: of the training set.
        ranking: the weight.
    """

    def __init__(self, encoders: Mapping[str, nn.Module], num_samples: int, *, ranking: float = 0.1) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.histories = nn.ModuleDict({name: LossHistory(num_samples) for name in encoders})
        self.ranking = ranking

    def scores_by_modality(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of each modality (B, C)."""
        return {name: encoder(inputs[name]) for name, encoder in self.encoders.items()}

    def loss(self, inputs: Mapping[str, Tensor], target: Tensor, index: Tensor) -> Tensor:
        """What training lowers; notes the losses of the samples with the numbers ``index`` (B,)."""
        scores = self.scores_by_modality(inputs)
        loss = F.cross_entropy(qmf_fuse(list(scores.values())), target)
        for name, z in scores.items():
            losses = F.cross_entropy(z, target, reduction="none")
            history = self.histories[name]
            history.update(index, losses)
            loss = loss + losses.mean() + self.ranking * qmf_ranking_loss(qmf_confidence(z), index, history)
        return loss

    def scores(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The fused scores (B, C)."""
        return qmf_fuse(list(self.scores_by_modality(inputs).values()))
