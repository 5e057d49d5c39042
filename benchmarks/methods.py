"""Each method's loss, forward and backward, against the shortest correct formulation in plain PyTorch.

    python -m benchmarks.methods [--device cuda] [--threads 1] [--seconds 2] [--only kd,dkd]

Batch 64, 100 classes, learned temperature, features as a wide residual network gives them on CIFAR. The two take
turns; the medians and their ratio are printed. The goal is a ratio of 2 at most. A method without a plain formulation
here is measured alone, as a whole: the module with its trainable parts.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ctkd_lightning import methods
from ctkd_lightning._facts import choices
from ctkd_lightning.temperature import Softening

BATCH, CLASSES, SAMPLES, NEGATIVES = 64, 100, 50_000, 16_384
GOAL = 2.0

Loss = Callable[..., Tensor]


def plain_kd(s: Tensor, t: Tensor, tau: Tensor) -> Tensor:
    """KD by PyTorch's own divergence."""
    return F.kl_div((s / tau).log_softmax(1), (t / tau).softmax(1), reduction="batchmean") * tau**2


def plain_dkd(s: Tensor, t: Tensor, tau: Tensor, target: Tensor) -> Tensor:
    """DKD with the target's column cut out by a mask."""
    own = F.one_hot(target, CLASSES).bool()
    logs = []
    for x in (s / tau, t / tau):
        mine, others = x[own], x[~own].view(BATCH, -1)
        logs.append((torch.stack([mine, others.logsumexp(1)], dim=1).log_softmax(1), others.log_softmax(1)))
    binary, others = (F.kl_div(q, p, reduction="batchmean", log_target=True) for q, p in zip(*logs, strict=True))
    return (binary + 8 * others) * tau**2


def plain_pkt(s: Tensor, t: Tensor) -> Tensor:
    """PKT."""

    def probabilities(x: Tensor) -> Tensor:
        x = F.normalize(x)
        similarity = (x @ x.T + 1) / 2
        return similarity / similarity.sum(1, keepdim=True)

    q, p = probabilities(s), probabilities(t)
    return (p * ((p + 1e-7) / (q + 1e-7)).log()).mean()


def plain_sp(s: Tensor, t: Tensor) -> Tensor:
    """SP."""
    q, p = (F.normalize(x.flatten(1) @ x.flatten(1).T) for x in (s, t))
    return (q - p).square().mean()


def plain_vid(s: Tensor, t: Tensor, variance: Tensor) -> Tensor:
    """VID by PyTorch's own likelihood."""
    return F.gaussian_nll_loss(s, t, variance.view(-1, 1, 1).expand_as(s))


def plain_srrl(s: Tensor, t: Tensor, logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """SRRL."""
    return F.mse_loss(s, t) + F.mse_loss(logits, teacher_logits)


def plain_crd(s: Tensor, positive: Tensor, bank: Tensor, negatives: Tensor) -> Tensor:
    """CRD with the negatives' rows gathered."""
    rows = torch.cat([positive.unsqueeze(1), bank[negatives]], dim=1)
    score = torch.einsum("bkd,bd->bk", rows, s).div(0.07).sub(11.0).exp()
    share = score / (score + NEGATIVES / SAMPLES)
    return -(share[:, 0].log() + (1 - share[:, 1:]).log().sum(1)).mean()


def plain_at(s: Tensor, t: Tensor) -> Tensor:
    """AT."""
    q, p = (F.normalize(x.square().mean(1).flatten(1)) for x in (s, t))
    return (q - p).square().mean()


def plain_rkd(s: Tensor, t: Tensor) -> Tensor:
    """RKD."""
    differences = [x[None] - x[:, None] for x in (s, t)]
    q, p = (d / d[d > 0].mean() for d in (x.norm(dim=2) for x in differences))
    q_angle, p_angle = (d @ d.mT for d in (F.normalize(x, dim=2) for x in differences))
    return 25 * F.smooth_l1_loss(q, p) + 50 * F.smooth_l1_loss(q_angle, p_angle)


def plain_nst(s: Tensor, t: Tensor) -> Tensor:
    """NST with its three kernels."""
    q, p = (F.normalize(x.flatten(2), dim=2) for x in (s, t))
    return (q @ q.mT).square().mean() + (p @ p.mT).square().mean() - 2 * (q @ p.mT).square().mean()


def plain_cc(s: Tensor, t: Tensor) -> Tensor:
    """CC."""
    distance = (s - t).abs()
    return (distance[1:] * distance[:-1]).sum(1).mean()


def plain_ft(s: Tensor, t: Tensor) -> Tensor:
    """FT."""
    q, p = (F.normalize(x.square().mean(1).flatten(1)) for x in (s, t))
    return F.l1_loss(q, p)


def plain_ofd(s: Tensor, t: Tensor) -> Tensor:
    """OFD with the margin of this batch."""
    margin = (t * (t < 0)).sum((0, 2, 3)) / (t < 0).sum((0, 2, 3)).clamp(min=1)
    goal = torch.maximum(t, margin.view(-1, 1, 1))
    return (((s - goal) ** 2) * ((s > goal) | (goal > 0))).sum() / BATCH


def plain_ab(s: Tensor, t: Tensor) -> Tensor:
    """AB."""
    return (1 - torch.where(t > 0, s, -s)).relu().square().sum() / BATCH


def plain_fsp(s: list[Tensor], t: list[Tensor]) -> Tensor:
    """FSP."""

    def flow(a: Tensor, b: Tensor) -> Tensor:
        a = F.adaptive_avg_pool2d(a, (b.shape[2], b.shape[3]))
        return torch.einsum("bchw,bdhw->bcd", a, b) / b[0, 0].numel()

    return sum((F.mse_loss(flow(*s[i : i + 2]), flow(*t[i : i + 2])) for i in range(2)), torch.zeros(()))


def plain_reviewkd(s: list[Tensor], t: list[Tensor]) -> Tensor:
    """ReviewKD's context loss."""
    total = torch.zeros(())
    for a, b in zip(s, t, strict=True):
        loss = F.mse_loss(a, b)
        for i, size in enumerate((4, 2, 1), start=1):
            loss = loss + F.mse_loss(F.adaptive_avg_pool2d(a, size), F.adaptive_avg_pool2d(b, size)) / 2**i
        total = total + loss / 1.875
    return total


def plain_kdsvd(s: list[Tensor], t: list[Tensor]) -> Tensor:
    """KDSVD by the decomposition of the maps themselves."""

    def first(x: Tensor, count: int) -> Tensor:
        return torch.linalg.svd(x.flatten(2).mT, full_matrices=False)[2][:, :count].mT

    pairs = []
    for a, b in zip(s, t, strict=True):
        teacher = first(b, 1)
        teacher = teacher * teacher.sum(1, keepdim=True).sign()
        student = first(a, 4)
        cosine = student.mT @ teacher
        nearest = cosine.abs().argmax(1, keepdim=True)
        student = student.gather(2, nearest.expand(-1, student.shape[1], 1)) * cosine.gather(1, nearest).sign()
        pairs.append((student, teacher))
    total = torch.zeros(())
    for before, after in itertools.pairwise(pairs):
        q, p = ((-((y - x.mT) ** 2) / 8).exp() for x, y in zip(before, after, strict=True))
        total = total + (q - p).square().sum() / BATCH
    return total


def plain_dist(s: Tensor, t: Tensor, tau: Tensor) -> Tensor:
    """DIST by PyTorch's own cosine."""
    q, p = (s / tau).softmax(1), (t / tau).softmax(1)
    return sum(
        (1 - F.cosine_similarity(q - q.mean(d, True), p - p.mean(d, True), dim=d).mean() for d in (0, 1)),
        torch.zeros(()),
    )


def plain_lskd(s: Tensor, t: Tensor, tau: Tensor) -> Tensor:
    """LSKD."""
    s, t = ((x - x.mean(1, True)) / x.std(1, keepdim=True) for x in (s, t))
    return plain_kd(s, t, tau)


def plain_normkd(s: Tensor, t: Tensor, tau: Tensor) -> Tensor:
    """NormKD."""
    tau_s, tau_t = (tau * x.std(1, keepdim=True) for x in (s, t))
    divergence = F.kl_div((s / tau_s).log_softmax(1), (t / tau_t).softmax(1), reduction="none").sum(1, True)
    return (divergence * tau_t**2).mean()


def plain_mlkd(s: Tensor, t: Tensor, tau: Tensor) -> Tensor:
    """MLKD."""
    total = torch.zeros(())
    for factor in (0.5, 0.75, 1.0, 1.25, 1.5):
        q, p = (s / (factor * tau)).softmax(1), (t / (factor * tau)).softmax(1)
        total = total + plain_kd(s, t, factor * tau)
        total = total + (q @ q.T - p @ p.T).square().sum() / BATCH + (q.T @ q - p.T @ p).square().sum() / CLASSES
    return total


def plain_ttm(s: Tensor, t: Tensor, tau: Tensor) -> Tensor:
    """TTM."""
    return F.kl_div(s.log_softmax(1), (t / tau).softmax(1), reduction="batchmean")


def plain_wttm(s: Tensor, t: Tensor, tau: Tensor) -> Tensor:
    """WTTM."""
    powers = t.softmax(1) ** (1 / tau)
    weight = powers.sum(1, True)
    return (weight * F.kl_div(s.log_softmax(1), powers / weight, reduction="none")).sum(1).mean()


@dataclass(frozen=True)
class Case:
    """One comparison: both losses take the same arguments, of which those that require gradients get them."""

    ours: Loss
    plain: Loss | None
    arguments: tuple[object, ...]


def make_cases(device: str) -> dict[str, Case]:
    """All comparisons, with their inputs on the device."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int, grad: bool = False) -> Tensor:
        return torch.randn(BATCH, *shape, generator=generator).to(device).requires_grad_(grad)

    def maps(grad: bool = False) -> list[Tensor]:
        return [draw(d, n, n, grad=grad) for d, n in ((32, 32), (64, 16), (128, 8))]

    tau = torch.tensor(4.0, device=device, requires_grad=True)
    target = torch.randint(CLASSES, (BATCH,), generator=generator).to(device)
    logits = (4 * draw(CLASSES)).requires_grad_(), 4 * draw(CLASSES)
    vectors, same_vectors = (draw(128, grad=True), draw(256)), (draw(128, grad=True), draw(128))
    feature_maps = draw(128, 8, 8, grad=True), draw(128, 8, 8)
    stages = maps(grad=True), maps()
    variance = torch.ones(128, device=device, requires_grad=True)
    units = [F.normalize(draw(128)) for _ in range(2)]
    bank = F.normalize(torch.randn(SAMPLES, 128, generator=generator)).to(device)
    negatives = torch.randint(SAMPLES, (BATCH, NEGATIVES), generator=generator).to(device)
    contrast = units[0].requires_grad_(), units[1], bank, negatives

    def our_dkd(s: Tensor, t: Tensor, tau: Tensor, target: Tensor) -> Tensor:
        return methods.dkd_loss(s, t, target, tau)

    def our_crd(anchor: Tensor, positive: Tensor, bank: Tensor, negatives: Tensor) -> Tensor:
        return methods.crd_loss(anchor, positive, bank, negatives, log_normalizer=11.0)

    return {
        "kd": Case(methods.kd_loss, plain_kd, (*logits, tau)),
        "dkd": Case(our_dkd, plain_dkd, (*logits, tau, target)),
        "pkt": Case(methods.pkt_loss, plain_pkt, vectors),
        "sp": Case(methods.sp_loss, plain_sp, feature_maps),
        "vid": Case(methods.vid_loss, plain_vid, (*feature_maps, variance)),
        "srrl": Case(methods.srrl_loss, plain_srrl, (*same_vectors, *logits)),
        "crd": Case(our_crd, plain_crd, contrast),
        "fitnet": Case(methods.fitnet_loss, F.mse_loss, feature_maps),
        "at": Case(methods.at_loss, plain_at, feature_maps),
        "rkd": Case(methods.rkd_loss, plain_rkd, vectors),
        "nst": Case(methods.nst_loss, plain_nst, feature_maps),
        "cc": Case(methods.cc_loss, plain_cc, same_vectors),
        "ft": Case(methods.ft_loss, plain_ft, feature_maps),
        "ofd": Case(methods.ofd_loss, plain_ofd, feature_maps),
        "ab": Case(methods.ab_loss, plain_ab, feature_maps),
        "fsp": Case(methods.fsp_loss, plain_fsp, stages),
        "reviewkd": Case(methods.reviewkd_loss, plain_reviewkd, stages),
        "kdsvd": Case(methods.kdsvd_loss, plain_kdsvd, stages),
        "dist": Case(methods.dist_loss, plain_dist, (*logits, tau)),
        "lskd": Case(methods.lskd_loss, plain_lskd, (*logits, tau)),
        "normkd": Case(methods.normkd_loss, plain_normkd, (*logits, tau)),
        "mlkd": Case(methods.mlkd_loss, plain_mlkd, (*logits, tau)),
        "ttm": Case(methods.ttm_loss, plain_ttm, (*logits, tau)),
        "wttm": Case(methods.wttm_loss, plain_wttm, (*logits, tau)),
    }


def whole(kind: type[methods.Method], device: str) -> Case:
    """A method as a module, on the outputs of two networks."""

    def output(grad: bool) -> methods.NetworkOutput:
        maps = {f"stage{i}": torch.randn(BATCH, d, n, n) for i, (d, n) in enumerate(((32, 32), (64, 16), (128, 8)), 1)}
        features = {**maps, "last": maps["stage3"], "pooled": torch.randn(BATCH, 128)}
        on_device = {role: x.to(device).requires_grad_(grad) for role, x in features.items()}
        logits = (4 * torch.randn(BATCH, CLASSES)).to(device).requires_grad_(grad)
        return methods.NetworkOutput(logits, on_device, torch.nn.Linear(128, CLASSES).to(device).requires_grad_(False))

    student, teacher = output(grad=True), output(grad=False)
    tau = torch.tensor(4.0, device=device, requires_grad=True)
    step = methods.Step(torch.arange(BATCH, device=device) % CLASSES, torch.arange(BATCH, device=device))
    method = kind()
    method.build(student, teacher)
    method.prepare(SAMPLES)
    method.to(device)
    sources = [student.logits, *student.features.values(), tau, *method.parameters()]

    def loss(*_: Tensor) -> Tensor:
        return method(student, teacher, step, Softening.at(tau, student.logits))

    return Case(loss, None, tuple(sources))


def measure(case: Case, seconds: float) -> list[float]:
    """Median seconds of a forward and backward pass: ours, and plain if there is one. They take turns for so long."""
    losses = [loss for loss in (case.ours, case.plain) if loss is not None]
    values = [_time(loss, case.arguments)[1] for loss in losses for _ in range(3)]
    if case.plain is not None:
        torch.testing.assert_close(values[0], values[-1], rtol=1e-3, atol=1e-5)
    times: list[list[float]] = [[] for _ in losses]
    end = time.perf_counter() + seconds
    while len(times[0]) < 5 or time.perf_counter() < end:
        for record, loss in zip(times, losses, strict=True):
            record.append(_time(loss, case.arguments)[0])
    return [statistics.median(record) for record in times]


def _time(loss: Loss, arguments: tuple[object, ...]) -> tuple[float, Tensor]:
    flat = [x for a in arguments for x in (a if isinstance(a, list) else [a])]
    for x in flat:
        if isinstance(x, Tensor):
            x.grad = None
    _synchronize()
    start = time.perf_counter()
    value = loss(*arguments)
    value.backward()
    _synchronize()
    return time.perf_counter() - start, value.detach()


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each method")
    parser.add_argument("--only", help="names, separated by commas")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_default_device(options.device)
    print(f"torch {torch.__version__}, {options.device}, {options.threads} thread(s), batch {BATCH}, {CLASSES} classes")
    print(f"{'method':10} {'ours (ms)':>10} {'plain (ms)':>10} {'ratio':>6}")
    cases = make_cases(options.device)
    for name, kind in choices(methods, methods.Method).items():
        if options.only and name not in options.only.split(","):
            continue
        ours, *plain = measure(cases[name] if name in cases else whole(kind, options.device), options.seconds)
        compared = f"{'–':>10} {'–':>6}"
        if plain:
            mark = "" if ours <= GOAL * plain[0] else f"  above {GOAL:g}"
            compared = f"{1e3 * plain[0]:10.3f} {ours / plain[0]:6.2f}{mark}"
        print(f"{name:10} {1e3 * ours:10.3f} {compared}", flush=True)


if __name__ == "__main__":
    main()
