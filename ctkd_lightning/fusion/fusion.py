"""Fuse the scores of several modalities, each with a temperature."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctkd_lightning._across_processes import processes, shares, weighed
from ctkd_lightning._scores.ignored import kept_targets
from ctkd_lightning._scores.scores import Kind, Scores, Task, check_scores_classes
from ctkd_lightning.errors import UserError, check_number, suggest
from ctkd_lightning.features.outputs import at_least_float32
from ctkd_lightning.fusion._broken import BrokenNumbers, finite_rows
from ctkd_lightning.fusion._experts import Experts, check_names, stack
from ctkd_lightning.fusion._joint import JointHead, need_features
from ctkd_lightning.fusion.temperatures import (
    ExpertTemperatures,
    FixedExpertTemperatures,
    GlobalExpertTemperatures,
    InstanceExpertTemperatures,
)
from ctkd_lightning.temperature._softening import masked_classes

FusionKind = Literal["instance", "global", "fixed"]
Rule = Literal["product", "mixture"]

JOINT = "joint"
"""The name of the joint head among the experts."""

_IGNORED = -100  # PyTorch's target that counts nowhere


class TemperatureFusion(nn.Module):
    r"""Fuse the scores of several modalities; a learned temperature each turns the bad ones down.

    As a product of experts (``rule="product"``) or as a mixture:

    .. math:: \log p = \log\mathrm{softmax} \sum_m \log\mathrm{softmax}(z_m / \tau_m), \qquad
        p = \frac{1}{M} \sum_m \mathrm{softmax}(z_m / \tau_m)

    A modality with a high τ has a flat distribution and does not count; a missing one has τ = ∞. The temperatures are
    trained to *lower* the loss (nothing is reversed). Where τ is one per sample, it is made of statistics of the
    modality's own scores and of its agreement with the others', all detached.

    Two ways of use. Over networks that exist, which stay frozen: train the fusion's parameters alone, on their scores,
    some of them from corrupted inputs (:class:`~ctkd_lightning.ModalityCorruption`). Within a training: call it in the
    step and add :meth:`losses`, where each modality has a loss of its own, so that its scores stay a classifier's and
    its τ means something::

        self.fusion = TemperatureFusion(10, ["image", "audio"])                        # in __init__
        loss = self.fusion.losses({"image": z1, "audio": z2}, target)["loss"]          # in training_step
        log_probabilities, taus = self.fusion({"image": z1, "audio": z2})              # wherever it predicts

    Products of experts: Hinton, *Training Products of Experts by Minimizing Contrastive Divergence*, Neural Computation
    2002. One τ a modality fitted on held-out data: Guo et al., *On Calibration of Modern Neural Networks*, ICML 2017
    (:func:`~ctkd_lightning.fusion.fit_temperatures`). Learned temperatures for fusion are this package's own.

    Args:
        num_classes: C; the number of labels under ``multilabel``; 1 under ``binary``. ``None``: whatever the scores
            have, in dimension 1 of (B, C), else in ``class_dim``; ``prior`` and ``joint`` need the number.
        modalities: their names.
        kind: ``"instance"``: τ for each sample; ``"global"``: one for each modality; ``"fixed"``: ``tau_init`` for all.
        rule: how the distributions are fused.
        agreement: whether τ sees how far a modality agrees with the others.
        joint: a head over the features of all modalities together, which takes part as one more expert with a τ of its
            own, named ``"joint"``: from each modality's name to the width of its feature vector.
        context: what else τ sees: from a modality's name to the width of a vector.
        prior: the classes' frequencies, which are the answer where all modalities are missing; equal by default.
        tau_init: τ of each modality at the start.
        tau_min: lower end of τ.
        tau_max: upper end of τ.
        hidden: width of the networks that make τ.
        task: what the scores say, as in :class:`~ctkd_lightning.Distillation`.
        scores: ``"logits"`` or ``"probabilities"``, for all or by name: ``{"audio": "probabilities"}``.
        class_dim: where the classes are; by default where the shape has ``num_classes``.
        normalize: whether the τ of a product are multiplied by :math:`\sum_m 1 / \tau_m`, so that their inverses sum
            to 1. The fused distribution is then as sharp as one modality's, a weighted geometric mean (a logarithmic
            opinion pool), and the temperatures say whom to believe and not how surely.

    Attributes:
        names: of the experts, the joint head last.
        lambda_: strength of the temperatures' gradient, 1 unless a curriculum sets it.

    Raises:
        UserError: settings out of range or without effect; in use, names, shapes or classes that do not fit.

    Example:
        >>> fusion = TemperatureFusion(10, ["image", "audio"])
        >>> log_p, taus = fusion({"image": torch.randn(4, 10), "audio": torch.randn(4, 10)})
        >>> log_p.shape, taus["audio"].shape
        (torch.Size([4, 10]), torch.Size([4, 1]))
    """

    log_prior: Tensor | None

    def __init__(
        self,
        num_classes: int | None,
        modalities: Sequence[str],
        kind: FusionKind = "instance",
        rule: Rule = "product",
        *,
        agreement: bool = True,
        joint: Mapping[str, int] | None = None,
        context: Mapping[str, int] | None = None,
        prior: Sequence[float] | None = None,
        tau_init: float = 1.0,
        tau_min: float = 0.1,
        tau_max: float = 100.0,
        hidden: int = 32,
        task: Task = "multiclass",
        scores: Kind | Mapping[str, Kind] = "logits",
        class_dim: int | None = None,
        normalize: bool = False,
    ) -> None:
        super().__init__()
        if num_classes is not None:
            least = 2 if task == "multiclass" else 1
            check_number("TemperatureFusion's num_classes", num_classes, least=least, whole=True)
        elif prior is not None or joint is not None:
            raise UserError("prior= and joint= are made for so many classes: pass num_classes")
        if task == "binary" and num_classes not in (None, 1):
            raise UserError(
                f"task='binary' is one score a sample, found num_classes={num_classes}: pass 1, or another task"
            )
        for what, word, words in (
            ("kind", kind, ("instance", "global", "fixed")),
            ("rule", rule, ("product", "mixture")),
        ):
            if word not in words:
                raise UserError(f"{what} is {word!r}: {suggest(str(word), words)}")
        self.modalities = check_names(modalities)
        self.kind, self.rule = kind, rule
        self.num_classes = num_classes if num_classes is None else int(num_classes)
        check_scores_classes(task, "TemperatureFusion")
        self.scores = Scores(task, scores, class_dim, roles=self.modalities)
        self.joint: JointHead | None = None
        if joint is not None:
            self._check_joint(joint)
            self.joint = JointHead(joint, cast(int, self.num_classes))
        self.names = (*self.modalities, *([JOINT] if joint is not None else []))
        self._check_without_effect(kind, agreement, context)
        self.temperature = self._temperature(kind, agreement, context, tau_init, tau_min, tau_max, hidden)
        if normalize and rule != "product":
            raise UserError(f"normalize is of a product's temperatures, and rule is {rule!r}: leave it out")
        self.temperature.normalized = normalize
        self.register_buffer("log_prior", self._log_prior(prior))  # None: all classes alike
        self._broken = BrokenNumbers()

    def _check_joint(self, joint: Mapping[str, int]) -> None:
        if self.scores.single:
            raise UserError(
                f"joint= scores classes that exclude each other, and the task is {self.scores.task}: leave it out"
            )
        if JOINT in self.modalities:
            raise UserError(f"a modality is named {JOINT!r}, as the joint head is: take another name")
        for name in joint:
            if name not in self.modalities:
                raise UserError(f"joint names no modality with {name!r}: {suggest(name, self.modalities)}")
        if not joint:
            raise UserError("joint is empty: give the width of each modality's features, or leave it out")

    def _check_without_effect(self, kind: str, agreement: bool, context: Mapping[str, int] | None) -> None:
        if context and kind != "instance":
            raise UserError(f"context says what τ of a sample sees, and with kind={kind!r} τ sees none: leave it out")
        for name in context or {}:
            if name not in self.names:
                raise UserError(f"context names no modality with {name!r}: {suggest(name, self.names)}")
        if kind == "instance" and agreement and len(self.names) == 1:
            warnings.warn(
                f"agreement has no effect: {self.names[0]!r} is the only modality; its τ sees its own scores alone",
                stacklevel=4,
            )

    def _temperature(
        self,
        kind: str,
        agreement: bool,
        context: Mapping[str, int] | None,
        tau_init: float,
        tau_min: float,
        tau_max: float,
        hidden: int,
    ) -> FixedExpertTemperatures | ExpertTemperatures:
        if kind == "fixed":
            return FixedExpertTemperatures(self.names, tau_init)
        bounds = {"tau_init": tau_init, "tau_min": tau_min, "tau_max": tau_max}
        if kind == "global":
            return GlobalExpertTemperatures(self.names, **bounds)
        agrees = agreement and len(self.names) > 1
        return InstanceExpertTemperatures(self.names, agreement=agrees, context=context, hidden=hidden, **bounds)

    def _log_prior(self, prior: Sequence[float] | None) -> Tensor | None:
        """(C,), or for scores of their own (labels, 2); ``None`` where C is not known."""
        size = self.num_classes
        if size is None:
            return None
        if prior is None:
            return torch.full((size, 2), 0.5).log() if self.scores.single else torch.full((size,), 1 / size).log()
        given = torch.as_tensor(prior, dtype=torch.float32)
        if given.shape != (size,) or not (given >= 0).all() or not given.sum() > 0 or not given.isfinite().all():
            raise UserError(f"prior must be {size} frequencies, found {prior!r:.80}")
        if not self.scores.single:
            return (given / given.sum()).clamp(min=1e-12).log()
        if not (given <= 1).all():
            raise UserError(f"prior under {self.scores.task} is the probability of each label, found {prior!r:.80}")
        return torch.stack([given, 1 - given], dim=-1).clamp(min=1e-12).log()

    @property
    def lambda_(self) -> Tensor | None:
        """λ of the temperatures; ``None`` where they are fixed."""
        found = getattr(self.temperature, "lambda_", None)
        return found if isinstance(found, Tensor) else None

    def forward(
        self,
        logits: Mapping[str, Tensor | None],
        mask: Tensor | Mapping[str, Tensor] | None = None,
        *,
        features: Mapping[str, Tensor] | None = None,
        context: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The fused scores, and each expert's τ.

        Args:
            logits: scores by modality, all of one shape: (B, C), (B, T, C) or maps; ``None`` for a modality that the
                whole batch misses. Where scores are NaN or infinite the modality counts as missing, with a warning.
                Their gradient is then 0; a network that they come from multiplies it by its own NaN, so that its inputs
                must be finite where it is trained (:class:`~ctkd_lightning.fusion.FusedNetwork` sees to that).
            mask: which samples have which modality (true or 1: it is there): (B, M), or by name (B,), or one entry a
                position; names that it does not mention are there.
            features: for the joint head, by name (B, width); where they are not finite they count as missing.
            context: what else τ sees, by name (B, width); likewise.

        Returns:
            Log-probabilities in the scores' shape; under ``binary`` and ``multilabel`` logits. And τ by name: scalars,
            or one a sample or position, (B, 1), (B, T, 1), ∞ where the modality is missing.
        """
        experts, tau = self.experts(logits, mask, features=features, context=context)
        return experts.layout.scores(self.fuse(experts, tau)), self._by_name(tau, experts)

    def losses(
        self,
        logits: Mapping[str, Tensor | None],
        target: Tensor,
        mask: Tensor | Mapping[str, Tensor] | None = None,
        *,
        features: Mapping[str, Tensor] | None = None,
        context: Mapping[str, Tensor] | None = None,
        expert_weight: float = 1.0,
    ) -> dict[str, Tensor]:
        r"""The loss to minimise, and its parts: :math:`L = L_\mathrm{fused} + w \sum_m L_m`.

        Each modality's own loss is that of its scores without τ, over the samples that have it. That of a frozen
        network is a constant: it is in the sum and trains nothing. With several processes, in training, the mean of
        each loss over them is that of all their samples together.

        Args:
            logits: as in :meth:`forward`; likewise ``mask``, ``features``, ``context``.
            target: class indices, one a position, -100 where none counts; 1 or 0 under ``binary`` and ``multilabel``.
            mask: which samples have which modality.
            features: for the joint head.
            context: what else τ sees.
            expert_weight: w.

        Returns:
            ``"loss"``, ``"fused"``, and each expert's by its name.
        """
        experts, tau = self.experts(logits, mask, features=features, context=context)
        return self.losses_of(experts, self.fuse(experts, tau), target, expert_weight)

    def losses_of(
        self, experts: Experts, fused: Tensor, target: Tensor, expert_weight: float = 1.0
    ) -> dict[str, Tensor]:
        """As :meth:`losses`, of what :meth:`experts` and :meth:`fuse` gave."""
        check_number("expert_weight", expert_weight, least=0)
        rows, given = self.classes(target, experts), target.reshape(-1)
        counted = kept_targets(given, _IGNORED).unsqueeze(1)
        there = torch.cat([counted, experts.present & counted], dim=1)
        scored = torch.cat([fused.unsqueeze(1), experts.logits], dim=1)
        with torch.autocast(scored.device.type, enabled=False):
            each = self._losses(scored, given, rows, counted).masked_fill(~there, 0.0)
            counts = there.sum(dim=0)
            mean = each.sum(dim=0) / counts.clamp(min=1)
            if self.training and processes() > 1:
                mean = weighed(mean, torch.stack(shares(*counts.double())))
            loss = mean[0] + expert_weight * mean[1:].sum()
        return {"loss": loss, **dict(zip(("fused", *self.names), mean.unbind(), strict=True))}

    def _losses(self, scored: Tensor, given: Tensor, rows: Tensor, counted: Tensor) -> Tensor:
        """(N, K) losses of K scores (N, K, C) at each position; anything finite where the target does not count."""
        count = scored.shape[1]
        if self.scores.single:
            expected = given.unsqueeze(1).to(scored.dtype).masked_fill(~counted, 0.0).expand(-1, count)
            return F.binary_cross_entropy_with_logits(scored[..., 0] - scored[..., 1], expected, reduction="none")
        labels = rows.long().unsqueeze(1).masked_fill(~counted, 0).expand(-1, count)
        return F.cross_entropy(scored.flatten(0, 1), labels.flatten(), reduction="none").view(-1, count)

    def experts(
        self,
        logits: Mapping[str, Tensor | None],
        mask: Tensor | Mapping[str, Tensor] | None = None,
        *,
        features: Mapping[str, Tensor] | None = None,
        context: Mapping[str, Tensor] | None = None,
    ) -> tuple[Experts, Tensor]:
        """The experts' scores (N, M, C), the joint head's among them, and their τ, (M,) or (N, M)."""
        experts = self._scored(logits, mask, features)
        z, present, given = experts.logits, experts.present, self._context(context, experts)
        with torch.autocast(z.device.type, enabled=False):
            return experts, self.temperature(z, present, given)

    def fuse(self, experts: Experts, tau: Tensor) -> Tensor:
        """Fused log-probabilities (N, C)."""
        z, missing = experts.logits, ~experts.present.unsqueeze(-1)
        with torch.autocast(z.device.type, enabled=False):
            # a masked class stays as impossible as it is, whatever τ
            z = z - z.detach().amax(dim=-1, keepdim=True)  # where scores lie says nothing of which are masked
            softened = torch.where(masked_classes(z), z, z / tau.unsqueeze(-1)).log_softmax(dim=-1)
            if self.rule == "product":
                fused = softened.masked_fill(missing, 0.0).sum(dim=1)
            else:
                fused = softened.masked_fill(missing, -1e30).logsumexp(dim=1)
            return torch.where(missing.all(dim=1), self._prior_of(experts), fused.log_softmax(dim=-1))

    def _scored(
        self,
        logits: Mapping[str, Tensor | None],
        mask: Tensor | Mapping[str, Tensor] | None,
        features: Mapping[str, Tensor] | None,
    ) -> Experts:
        experts = stack(logits, self.modalities, self.scores, self.num_classes, mask, self._broken)
        if self.joint is None:
            if features is not None:
                raise UserError("features= are for the joint head, and there is none: pass joint={name: width, …}")
            return experts
        if len(experts.layout.positions) != 1:
            raise UserError(
                f"the joint head scores samples, and the scores have the positions {tuple(experts.layout.positions)}: "
                "leave joint= out"
            )
        given = need_features(features, self.joint.widths, experts.logits.shape[0])
        given, known = self._finite("features", {name: given[name] for name in self.joint.widths}, experts.present)
        own = at_least_float32(self.joint(list(given.values()), known)).unsqueeze(1)
        present = known.any(dim=1, keepdim=True)
        return Experts(
            torch.cat([experts.logits, own.masked_fill(~present.unsqueeze(-1), 0.0)], dim=1),
            torch.cat([experts.present, present], dim=1),
            experts.layout,
        )

    def classes(self, target: Tensor, experts: Experts) -> Tensor:
        """A target as class indices (N,); under ``binary`` and ``multilabel`` class 0 is *there*.

        Raises:
            UserError: a target that does not fit the scores' positions.
        """
        positions = experts.layout.positions
        found = self.scores.classes(target, positions)
        if found is None:
            raise UserError(
                f"target has shape {tuple(target.shape)} and type {target.dtype}, and the scores' positions are "
                f"{tuple(positions)}: pass one class index a position"
            )
        return found.flatten()

    def _context(self, context: Mapping[str, Tensor] | None, experts: Experts) -> dict[str, Tensor]:
        made_for = getattr(self.temperature, "context", {})
        if context and not made_for:
            raise UserError(
                "context= is given, and τ was made to see none: make the fusion with context={name: width, …}"
            )
        found = {}
        for name, value in (context or {}).items():
            if name not in made_for:
                raise UserError(f"τ was not made to see a context of {name!r}: {suggest(name, made_for)}")
            positions = experts.layout.positions
            if value.shape[-1:] != (made_for[name],) or value.shape[:-1] != positions[: value.ndim - 1]:
                raise UserError(
                    f"context of {name!r} has shape {tuple(value.shape)}: pass ({', '.join(map(str, positions))}, "
                    f"{made_for[name]})"
                )
            wide = value.reshape(value.shape[:-1] + (1,) * (len(positions) - value.ndim + 1) + value.shape[-1:])
            found[name] = wide.expand(*positions, -1).flatten(0, -2)
        return self._finite("context", found, experts.present)[0] if found else {}

    def _finite(self, what: str, vectors: Mapping[str, Tensor], present: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """K vectors (N, width), zeros where they are not finite or their expert is missing; and (N, K), where not."""
        meant = torch.stack([present[:, self.names.index(name)] for name in vectors], dim=1)
        finite = torch.stack([finite_rows(value) for value in vectors.values()], dim=1)
        self._broken.look(what, list(vectors), meant & ~finite)
        there = meant & finite
        left_out = there.logical_not().unsqueeze(-1).unbind(dim=1)
        found = zip(vectors.items(), left_out, strict=True)
        return {name: value.masked_fill(out, 0.0) for (name, value), out in found}, there

    def _prior_of(self, experts: Experts) -> Tensor:
        if self.log_prior is None or self.num_classes is None:
            return torch.full_like(experts.logits[:, 0], 1 / experts.logits.shape[-1]).log()
        if not self.scores.single:
            return self.log_prior.to(experts.logits.dtype)
        labels = self.log_prior.expand(*experts.layout.positions, 2) if self.num_classes > 1 else self.log_prior
        return labels.reshape(-1, 2).to(experts.logits.dtype)

    def _by_name(self, tau: Tensor, experts: Experts) -> dict[str, Tensor]:
        columns = tau.unbind(dim=-1)
        if tau.ndim == 1:
            return dict(zip(self.names, columns, strict=True))
        return {n: experts.layout.per_position(column) for n, column in zip(self.names, columns, strict=True)}

    def extra_repr(self) -> str:
        """Modalities, kind and rule."""
        return f"{self.num_classes}, {list(self.modalities)}, kind={self.kind!r}, rule={self.rule!r}"
