"""What is lost by what is kept of a language model, and what a student's step costs from a store.

    python -m benchmarks.store --folder DIR [--vocabularies 2048 32000] [--table]

Two teachers with a student each, of ``benchmarks.language_models``. Each design keeps something of the teacher's logits
on held-out tokens; its relative errors are the largest over τ = 1 to 21, of KL and of its gradients to the real
student's hidden states and head. What is measured is in ``benchmarks/results/store.jsonl`` and not measured again:
``--table`` writes it into ``docs/methods.md``.

The usual designs are distributions at each τ. *Dropped*: the top k renormalised. *Bucket*: the rest is one outcome,
whose probability at another τ is that at 1 to the power of 1/τ, as offline packages take it; *true mass*: it is known
at each τ; *uniform*: and spread evenly over the rest.

With ``--train`` students are trained from a store and from the live teacher, seed by seed, on the same texts.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.language_models import CONTEXT, LARGE, STUDENT, TEACHER, LanguageModel, network, rate_at, tokenised
from ctkd_lightning.job.hardware import describe_hardware
from ctkd_lightning.methods import kd_loss, linear_kd_loss
from ctkd_lightning.token_store import TokenStore, write_token_store
from ctkd_lightning.token_store._asked import AskedModel
from ctkd_lightning.token_store._basis import Basis
from ctkd_lightning.token_store._choice import Sample
from ctkd_lightning.token_store._measuring import Student, relative_errors, stand_in
from ctkd_lightning.token_store._records import Bits, Encoder, Layout
from ctkd_lightning.token_store._stored import stored_tokens
from ctkd_lightning.token_store.writing import _sample

RESULTS = Path(__file__).parent / "results" / "store.jsonl"
PAGE = Path(__file__).parents[1] / "docs" / "methods.md"
TAUS = (1.0, 1.5, 2.0, 4.0, 8.0, 15.62, 21.0)
FAR_BELOW = -1e4
"""The logit of a token that is dropped."""

Kept = Callable[[Tensor, Tensor, float], Tensor]
"""From the teacher's and the student's logits and τ to the logits that are taken for the teacher's at this τ."""


def top_and_rest(teacher: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities at τ = 1, and which are the top k."""
    log_p = torch.log_softmax(teacher, dim=1)
    return log_p, torch.zeros_like(log_p, dtype=torch.bool).scatter_(1, log_p.topk(k, dim=1).indices, True)


def dropped(k: int) -> Kept:
    """The top k alone."""

    def kept(teacher: Tensor, student: Tensor, tau: float) -> Tensor:
        log_p, top = top_and_rest(teacher, k)
        return log_p.masked_fill(~top, FAR_BELOW)

    return kept


def bucket(k: int, *, true_mass: bool, uniform: bool = False) -> Kept:
    """The top k, and the mass of the rest: spread as the student's, which is what a bucket's divergence is."""

    def kept(teacher: Tensor, student: Tensor, tau: float) -> Tensor:
        log_p, top = top_and_rest(teacher, k)
        of_rest = log_p.masked_fill(top, -torch.inf)
        mass = torch.logsumexp(of_rest / tau, 1, True) if true_mass else torch.logsumexp(of_rest, 1, True) / tau
        within = torch.zeros_like(student) if uniform else student / tau
        within = torch.log_softmax(within.masked_fill(top, -torch.inf), dim=1)
        return tau * torch.where(top, log_p / tau, mass + within)

    return kept


def coded(basis: Basis, rank: int, top: int, bits: Bits = 8) -> Kept:
    """What our store has, at every τ the same."""

    @cache
    def kept_of(teacher: Tensor) -> Tensor:
        encoder = Encoder(basis.truncated(rank), Layout(rank, top, teacher.shape[1], bits))
        return stored_tokens(encoder(teacher, torch.zeros(len(teacher))), encoder.basis).logits()

    def kept(teacher: Tensor, student: Tensor, tau: float) -> Tensor:
        return kept_of(teacher)

    return kept


def bytes_of(rank: int, top: int, vocabulary: int, bits: Bits = 8) -> int:
    """A token."""
    return Layout(rank, top, vocabulary, bits).nbytes


def designs(sample: Sample) -> Iterator[tuple[str, int, Kept]]:
    """Name, bytes a token, and what is kept."""
    vocabulary, width = sample.logits.shape[1], sample.fitted.shape[1]
    basis = sample.basis()
    plans: list[tuple[int, int, Bits]] = [(64, 16, 8), (width, 0, 8), (32, 16, 8), (64, 32, 8), (32, 0, 16)]
    for rank, top, bits in [*plans, (width, 16, 8)]:
        what = "hidden state" if rank == width else f"rank {rank}"
        exactly = f" + top {top}" if top else ""
        yield f"{what}, {bits} bits{exactly}", bytes_of(rank, top, vocabulary, bits), coded(basis, rank, top, bits)
    yield "top 128, bucket of mass^(1/τ)", 4 * 128, bucket(128, true_mass=False)
    yield "top 128, bucket, true mass", 4 * 128 + 36, bucket(128, true_mass=True)
    yield "top 128, uniform rest, true mass", 4 * 128 + 36, bucket(128, true_mass=True, uniform=True)
    for k in (64, 128):
        yield f"top {k}, dropped", 4 * k, dropped(k)


def worst_errors(teacher: Tensor, student: Student, kept: Kept) -> dict[str, float]:
    """The largest over the temperatures."""
    found = [relative_errors(teacher, kept(teacher, student.logits, tau), student, [tau])[f"{tau:g}"] for tau in TAUS]
    return {part: max(errors[part] for errors in found) for part in found[0]}


@torch.no_grad()
def measure_errors(folder: Path, vocabulary: int, known: set[tuple[int, str]]) -> Iterator[dict[str, Any]]:
    """All designs on tokens that neither the networks nor the basis have seen."""
    teacher, student = (network(folder, vocabulary, size) for size in (TEACHER, STUDENT))
    _, held_out = tokenised(folder, vocabulary)
    texts = held_out[: len(held_out) // CONTEXT * CONTEXT].view(-1, CONTEXT)
    sample = _sample(AskedModel(teacher), list(enumerate(texts[:200])), batch_size=8)
    measured = texts[200 : 200 + max(4, min(16, 2**24 // vocabulary // CONTEXT))]
    logits, hidden = teacher(measured).flatten(0, 1), student.hidden(measured).flatten(0, 1)
    real = Student(student(measured).flatten(0, 1), hidden, student.lm_head.weight)
    imagined = stand_in(logits, sample.basis())
    for name, nbytes, kept in designs(sample):
        if (vocabulary, name) in known:
            continue
        found = {"vocabulary": vocabulary, "design": name, "bytes": nbytes, "tokens": len(logits)}
        found["errors"] = worst_errors(logits, real, kept)
        if vocabulary <= LARGE:
            found["stand_in"] = worst_errors(logits, imagined, kept)
        yield found


def step_seconds(folder: Path, vocabulary: int, rank: int, rounds: int = 5) -> dict[str, Any]:
    """CPU seconds of a student's step: alone, with the live teacher, and from a store; the formulations take turns."""
    teacher, student = (network(folder, vocabulary, size) for size in (TEACHER, STUDENT))
    teacher.requires_grad_(False)
    _, held_out = tokenised(folder, vocabulary)
    texts = held_out[: 200 * CONTEXT].view(-1, CONTEXT)
    with torch.no_grad():
        sample = _sample(AskedModel(teacher), list(enumerate(texts)), batch_size=8)
        encoder = Encoder(sample.basis().truncated(rank), Layout(rank, 16, vocabulary))
        batch = texts[:8]
        records = encoder(teacher(batch).flatten(0, 1), batch.flatten())

    def of_student(**given: Tensor) -> None:
        student.zero_grad()
        hidden = student.hidden(batch)
        loss = F.cross_entropy(student.lm_head(hidden)[:, :-1].flatten(0, 1), batch[:, 1:].flatten())
        if given:
            loss = loss + linear_kd_loss(hidden.flatten(0, 1), student.lm_head.weight, 4.0, **given)
        loss.backward()

    def of_store() -> None:
        of_student(teacher_store=stored_tokens(records, encoder.basis))

    def of_teacher() -> None:
        with torch.no_grad():
            hidden = teacher.hidden(batch).flatten(0, 1)
        of_student(teacher_hidden=hidden, teacher_weight=teacher.lm_head.weight)

    def of_own_logits() -> None:
        """The loss alone, of logits that are there: what any teacher costs at least."""
        of_student(teacher_logits=there)

    there = stored_tokens(records, encoder.basis).logits()
    steps = {"alone": of_student, "store": of_store, "logits at hand": of_own_logits, "live teacher": of_teacher}
    found: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(rounds + 1):
        for name, step in steps.items():
            start = time.process_time()
            step()
            if round_:
                found[name].append(time.process_time() - start)
    seconds = {name: sorted(of)[len(of) // 2] for name, of in found.items()}
    return {
        "vocabulary": vocabulary,
        "seconds": seconds,
        "rank": encoder.layout.rank,
        "threads": torch.get_num_threads(),
    }


def train(folder: Path, seed: int, from_store: bool, *, steps: int = 60, tau: float = 4.0) -> float:
    """The held-out cross-entropy, nats a token, of a student that was distilled at a fixed temperature."""
    vocabulary, rows = 2048, 8
    teacher = network(folder, vocabulary, TEACHER)
    tokens, held_out = tokenised(folder, vocabulary)
    documents = list(enumerate(tokens[: steps * rows * CONTEXT].view(-1, CONTEXT)))
    store = None
    if from_store:
        write_token_store(folder / f"store_{steps}", teacher, documents)
        store = TokenStore(folder / f"store_{steps}")
    torch.manual_seed(seed)
    student = LanguageModel(vocabulary, STUDENT.layers, STUDENT.width)
    optimizer = torch.optim.AdamW(student.parameters(), lr=STUDENT.rate, betas=(0.9, 0.95), weight_decay=0.01)
    order = torch.randperm(len(documents), generator=torch.Generator().manual_seed(seed)).tolist()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = STUDENT.rate * rate_at(step, steps)
        keys = order[rows * step : rows * (step + 1)]
        batch = torch.stack([documents[key][1] for key in keys])
        logits = student(batch)
        if store is None:
            with torch.no_grad():
                guide = teacher(batch)
        else:
            guide = store.at(keys, tokens=batch).logits()
        loss = 0.1 * F.cross_entropy(logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten())
        loss = loss + 0.9 * kd_loss(logits, guide, tau)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
    batch = held_out[: 128 * (CONTEXT + 1)].view(-1, CONTEXT + 1)
    with torch.no_grad():
        return float(F.cross_entropy(student(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten()))


def train_missing(folder: Path, seeds: int) -> None:
    """Both ways, seed by seed."""
    known = {(r["seed"], r["from_store"]) for r in read() if "seed" in r}
    for seed in range(seeds):
        for from_store in (False, True):
            if (seed, from_store) not in known:
                add({"seed": seed, "from_store": from_store, "nats": train(folder, seed, from_store)})


def read() -> list[dict[str, Any]]:
    """What has been measured."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def add(result: dict[str, Any]) -> None:
    """Keep it."""
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a") as file:
        file.write(json.dumps(result | {"hardware": describe_hardware(), "torch": torch.__version__}) + "\n")
    print(json.dumps(result), flush=True)


def shown(value: float) -> str:
    """Two digits."""
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def table() -> str:
    """The errors in Markdown: a design a row, the vocabularies beside each other."""
    results = [result for result in read() if "design" in result]
    vocabularies = sorted({result["vocabulary"] for result in results})
    head = "".join(f" V = {v:,}: bytes | KL | to hidden | to head |" for v in vocabularies)
    lines = [f"| kept |{head}", "| --- |" + " --- | --- | --- | --- |" * len(vocabularies)]
    names = list(dict.fromkeys(result["design"] for result in results))
    for name in names:
        cells = ""
        for v in vocabularies:
            own = next((r for r in results if r["vocabulary"] == v and r["design"] == name), None)
            if own is None:
                cells += " – | – | – | – |"
                continue
            errors = " | ".join(shown(own["errors"][part]) for part in ("kl", "hidden", "head"))
            cells += f" {own['bytes']} | {errors} |"
        lines.append(f"| {name} |{cells}")
    return "\n".join(lines)


def write_table() -> None:
    """Into the page, between its marks."""
    page = PAGE.read_text()
    before, mark, rest = page.partition("<!-- benchmarks.store -->\n")
    _, end, after = rest.partition("<!-- end -->")
    PAGE.write_text(f"{before}{mark}{table()}\n{end}{after}")


def main() -> None:
    """Measure what is not known yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[2048, 32000])
    parser.add_argument("--train", type=int, metavar="SEEDS")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        write_table()
        return
    if arguments.folder is None:
        parser.error("--folder DIR keeps the networks")
    torch.set_num_threads(1)
    if arguments.train:
        train_missing(arguments.folder, arguments.train)
        return
    for vocabulary in arguments.vocabularies:
        known = {(r["vocabulary"], r["design"]) for r in read() if "design" in r}
        for result in measure_errors(arguments.folder, vocabulary, known):
            add(result)
        if not any("seconds" in r and r["vocabulary"] == vocabulary for r in read()):
            add(step_seconds(arguments.folder, vocabulary, rank=64))


if __name__ == "__main__":
    main()
