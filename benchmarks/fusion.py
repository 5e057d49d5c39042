"""How ways to fuse modalities stand corruption, with the same encoders, seeds and corruption.

Learned temperatures beside each modality alone, concatenation, average, product, TMC and QMF.

    python -m benchmarks.fusion --study six_views --data DIR [--seeds 5] [--out FILE]
    python -m benchmarks.fusion --study sensors [--seeds 8] [--first-seed 8] [--grouping sensors axes channels]
    python -m benchmarks.fusion --study noise_view --data DIR
    python -m benchmarks.fusion --study overhead

``six_views``: the UCI multiple-features archive, linear encoders trained together with the fusion, half of the training
samples with noise (deviation 0.5 to 3) in one random view; a seed chooses the test samples (20 %), too. ``sensors``: a
watch's motion, encoders trained on clean windows, each by itself, then frozen; the fusion alone is trained, half of its
windows with one modality noisy, dead, stuck or shuffled; a seed is another three of the ten subjects for the test.
``sensors_end_to_end``: the same trained together. ``noise_view``: frozen encoders of the six views, of which one is
pure noise in all samples, and a global τ. ``overhead``: a training step with the fusion over the encoders' alone.

Fixed for all arms: the last epoch counts, no arm chooses on test data within a run, the number of steps. Each line of
the JSON file is one arm of one seed; what it holds is not run again. Differences to our default are paired by seed;
intervals are Student's, 95 %. Our own design was chosen with a look at splits 0 to 7: higher ones are fresh.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from benchmarks.fusion_arms import (
    BEST,
    OURS,
    Alone,
    Encoders,
    StoredTemperatures,
    Temperatures,
    end_to_end,
    over_frozen,
)
from benchmarks.quiet import hush
from ctkd_lightning import ModalityCorruption
from ctkd_lightning.data import MultimodalDataModule, SixViews, WatchSensors
from ctkd_lightning.fusion import fit_temperatures
from ctkd_lightning.fusion.network import feature_widths
from ctkd_lightning.models import SeriesEncoder, VectorEncoder

ALL = 10**6  # samples in a batch: all of them
VERSIONS = 8  # of each corruption of the training samples, over frozen encoders
Inputs = dict[str, Tensor]
Draw = Callable[[int], Inputs]
"""The training inputs of an epoch, some of them corrupted."""


class Split:
    """All samples of a training and of a test set.

    Args:
        data: whose batches hold all of them.
    """

    def __init__(self, data: MultimodalDataModule) -> None:
        data.setup("fit")
        data.setup("test")
        self.names, self.shapes, self.num_classes = list(data.modalities), data.modalities, data.num_classes
        train, test = next(iter(data.train_dataloader())), next(iter(data.test_dataloader()))
        self.train, self.test = ({n: batch[n] for n in self.names} for batch in (train, test))
        self.train_target, self.test_target = train["target"], test["target"]

    def encoders(self) -> dict[str, nn.Module]:
        """New ones: linear of vectors, convolutions of series."""
        kinds = {1: VectorEncoder, 2: SeriesEncoder}
        return {name: kinds[len(shape)](shape, self.num_classes) for name, shape in self.shapes.items()}


def fit(arm: nn.Module, draw: Draw, target: Tensor, *, epochs: int, batch: int, seed: int) -> None:
    """The same steps for all: AdamW at 3e-3 with a cosine, in an order that the seed decides."""
    parameters = [p for p in arm.parameters() if p.requires_grad]
    if not parameters:
        return
    count = len(target)
    steps = max(count // batch, 1)
    optimizer = torch.optim.AdamW(parameters, 3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)
    order = torch.Generator().manual_seed(seed)
    arm.train()
    for epoch in range(epochs):
        inputs, permutation = draw(epoch), torch.randperm(count, generator=order)
        for index in permutation[: steps * batch].split(batch):
            loss = arm.loss({n: x[index] for n, x in inputs.items()}, target[index], index, epoch)  # type: ignore[operator]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    arm.eval()


def conditions(kinds: Mapping[str, Mapping[str, Any]], seed: int) -> dict[str, ModalityCorruption | None]:
    """The test's corruptions by name."""
    return {
        "clean": None,
        **{name: ModalityCorruption(**{"seed": 1000 + seed, **settings}) for name, settings in kinds.items()},
    }


SIX_VIEWS = {
    "half σ 1": {"kinds": ["noise"], "share": 0.5, "strength": 1.0},
    "σ 1": {"kinds": ["noise"], "share": 1.0, "strength": 1.0},
    "σ 3": {"kinds": ["noise"], "share": 1.0, "strength": 3.0},
    "two σ 3": {"kinds": ["noise"], "share": 1.0, "strength": 3.0, "count": 2},
    "drop": {"kinds": ["drop"], "share": 1.0},
    "stuck": {"kinds": ["stuck"], "share": 1.0},
    "shuffle": {"kinds": ["shuffle"], "share": 1.0},
}
SENSORS = {
    f"{word}{kind}": {"kinds": [kind], "share": share, "strength": 2.0}
    for kind in ("drop", "noise", "stuck", "shuffle")
    for word, share in (("half ", 0.5), ("", 1.0))
}


def evaluate(
    arm: nn.Module, test: Mapping[str, tuple[Inputs, dict[str, Tensor]]], target: Tensor
) -> dict[str, dict[str, float]]:
    """By condition accuracy in percent, and where τ is one a sample its mean AUROC over the modalities."""
    found: dict[str, dict[str, float]] = {}
    with torch.no_grad():
        for name, (inputs, bad) in test.items():
            guesses = arm.scores(inputs).argmax(dim=1)  # type: ignore[operator]
            found[name] = {"top1": 100 * float((guesses == target).float().mean())}
            if hasattr(arm, "tau") and bad:
                tau = arm.tau(inputs)  # type: ignore[operator]
                told = [roc_auc_score(b, tau[n]) for n, b in bad.items() if b.any() and not b.all()]
                if any(t.std() > 0 for t in tau.values()):
                    found[name]["auroc"] = float(np.mean(told))
    return found


# Over frozen encoders: what they give for each kind of corruption is computed once


def train_clean(split: Split, epochs: int, seed: int) -> dict[str, nn.Module]:
    """Encoders, each trained by itself on clean inputs."""
    torch.manual_seed(seed)
    encoders = split.encoders()
    for name, encoder in encoders.items():
        fit(Alone(encoder, name), lambda epoch: split.train, split.train_target, epochs=epochs, batch=64, seed=seed)
    return {name: encoder.eval().requires_grad_(False) for name, encoder in encoders.items()}


@torch.no_grad()
def stored(encoders: Mapping[str, nn.Module], inputs: Inputs) -> Inputs:
    """Scores and features side by side, (N, C + D)."""
    found = {}
    for name, encoder in encoders.items():
        features = encoder.features(inputs[name])
        found[name] = torch.cat([encoder.head(features), features], dim=1)
    return found


def stored_draws(encoders: Mapping[str, nn.Module], split: Split, seed: int) -> Draw:
    """Epochs of stored inputs: half of the samples have one modality noisy, dead, stuck or of another sample."""
    index = torch.arange(len(split.train_target))
    clean = stored(encoders, split.train)
    versions: dict[str, list[Inputs]] = {}
    for kind in ("noise", "drop", "stuck"):
        versions[kind] = []
        for number in range(1 if kind == "drop" else VERSIONS):
            everywhere = ModalityCorruption([kind], dict.fromkeys(split.names, 1.0), strength=(0.5, 3.0), seed=seed)  # type: ignore[list-item]
            versions[kind].append(stored(encoders, everywhere(split.train, index, number)[0]))
    made = {  # by kind and modality, (V, N, C + D)
        kind: {name: torch.stack([version[name] for version in found]) for name in split.names}
        for kind, found in versions.items()
    }

    def draw(epoch: int) -> Inputs:
        rng = torch.Generator().manual_seed(10_000 * seed + epoch)
        count = len(index)
        which = torch.randint(len(split.names), (count,), generator=rng)
        which[torch.rand(count, generator=rng) >= 0.5] = -1
        kind = torch.randint(4, (count,), generator=rng)
        other = (index + torch.randint(1, count, (count,), generator=rng)) % count
        number = torch.randint(VERSIONS, (count,), generator=rng)
        found = {}
        for m, name in enumerate(split.names):
            x = clean[name].clone()
            for k, word in enumerate((*made, "shuffle")):
                rows = ((which == m) & (kind == k)).nonzero()[:, 0]
                if word == "shuffle":
                    x[rows] = clean[name][other[rows]]
                    continue
                own = made[word][name]
                x[rows] = own[number[rows] % len(own), rows]
            found[name] = x
        return found

    return draw


# Studies: each gives (seed, setting, arm, result) lines


def six_views(arguments: argparse.Namespace, done: set[tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    """Linear encoders, end to end."""
    for seed in _seeds(arguments):
        settings: Any = {"val_size": 0, "batch_size": ALL, "eval_batch_size": ALL}
        data = SixViews(arguments.data, split=seed, scaling="unit", **settings)  # as TMC's authors scale them
        corruption = ModalityCorruption(["noise"], 0.5, strength=(0.5, 3.0), seed=seed)
        yield from _end_to_end(Split(data), "six_views", corruption, SIX_VIEWS, seed, arguments, done)


def sensors_end_to_end(arguments: argparse.Namespace, done: set[tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    """Convolutions over time, end to end."""
    for seed in _seeds(arguments):
        for grouping in arguments.grouping:
            corruption = ModalityCorruption(share=0.5, strength=(0.5, 3.0), seed=seed)
            split, study = _sensors(grouping, seed, arguments), f"sensors_end_to_end, {grouping}"
            yield from _end_to_end(split, study, corruption, SENSORS, seed, arguments, done)


def _sensors(grouping: Any, seed: int, arguments: argparse.Namespace) -> Split:
    settings: Any = {"split": seed, "val_size": 0, "batch_size": ALL, "eval_batch_size": ALL}
    return Split(WatchSensors(arguments.data, grouping=grouping, **settings))


def _end_to_end(
    split: Split,
    study: str,
    corruption: ModalityCorruption,
    kinds: Mapping[str, Mapping[str, Any]],
    seed: int,
    arguments: argparse.Namespace,
    done: set[tuple[Any, ...]],
) -> Iterator[dict[str, Any]]:
    encoders: Encoders = split.encoders
    features = feature_widths(encoders(), {name: x[:2] for name, x in split.train.items()})
    widths = {name: x[0].numel() for name, x in split.train.items()}
    arms = end_to_end(encoders, split.num_classes, features, widths, len(split.train_target))
    index = torch.arange(len(split.train_target))
    test = _test(split.test, kinds, seed)

    def draw(epoch: int) -> Inputs:
        return corruption(split.train, index, epoch)[0]

    for name in _to_run(arms, study, seed, arguments, done):
        yield _one(study, seed, name, arms[name], draw, split, test, epochs=arguments.epochs, batch=64)


def sensors(arguments: argparse.Namespace, done: set[tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    """Over frozen encoders."""
    for seed in _seeds(arguments):
        for grouping in arguments.grouping:
            study, split = f"sensors, {grouping}", _sensors(grouping, seed, arguments)
            widths = feature_widths(split.encoders(), {name: x[:2] for name, x in split.train.items()})
            arms = over_frozen(split.num_classes, widths, len(split.train_target))
            names = _to_run(arms, study, seed, arguments, done)
            if not names:
                continue
            encoders = train_clean(split, epochs=15, seed=seed)
            draw, test = stored_draws(encoders, split, seed), _test(split.test, SENSORS, seed)
            given = {name: (stored(encoders, inputs), bad) for name, (inputs, bad) in test.items()}
            for name in names:
                yield _one(study, seed, name, arms[name], draw, split, given, epochs=arguments.epochs, batch=128)


def _one(
    study: str,
    seed: int,
    name: str,
    make: Callable[[], nn.Module],
    draw: Draw,
    split: Split,
    test: Mapping[str, tuple[Inputs, dict[str, Tensor]]],
    **training: int,
) -> dict[str, Any]:
    torch.manual_seed(seed)
    arm, started = make(), time.perf_counter()
    fit(arm, draw, split.train_target, seed=seed, **training)
    seconds = round(time.perf_counter() - started, 2)
    found = evaluate(arm, test, split.test_target)
    return {"study": study, "seed": seed, "arm": name, "seconds": seconds, "found": found}


def _test(
    inputs: Inputs, kinds: Mapping[str, Mapping[str, Any]], seed: int
) -> dict[str, tuple[Inputs, dict[str, Tensor]]]:
    index = torch.arange(len(next(iter(inputs.values()))))
    found: dict[str, tuple[Inputs, dict[str, Tensor]]] = {}
    for name, corruption in conditions(kinds, seed).items():
        found[name] = (inputs, {}) if corruption is None else corruption(inputs, index)
    return found


def _seeds(arguments: argparse.Namespace) -> range:
    return range(arguments.first_seed, arguments.first_seed + arguments.seeds)


def _to_run(
    arms: Iterable[str], study: str, seed: int, arguments: argparse.Namespace, done: set[tuple[Any, ...]]
) -> list[str]:
    chosen = [name for name in arms if not arguments.arms or name in arguments.arms]
    return [name for name in chosen if (study, seed, name) not in done]


def noise_view(arguments: argparse.Namespace, done: set[tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    """Encoders that know clean views, frozen; then one view is pure noise in all samples.

    A tenth of the training samples is kept from encoders and fusion, for :func:`fit_temperatures`: what the others
    have learned by heart looks right on them however it is weighted.
    """
    for seed in _seeds(arguments):
        data = SixViews(arguments.data, split=seed, scaling="unit", val_size=0.1, batch_size=ALL, eval_batch_size=ALL)
        split, held_out = Split(data), data.validation_batch()
        target = held_out.pop("target")
        held_out = {view: held_out[view] for view in split.names}
        broken = split.names[seed % len(split.names)]
        encoders = train_clean(split, epochs=arguments.epochs, seed=seed)
        for number, part in enumerate((split.train, split.test, held_out)):
            part[broken] = torch.rand(part[broken].shape, generator=torch.Generator().manual_seed(3 * seed + number))
        for arm in ("with noise", "without"):
            if ("noise_view", seed, arm) in done:
                continue
            chosen = {view: encoder for view, encoder in encoders.items() if arm == "with noise" or view != broken}
            found = _global(split, chosen, held_out, target, seed, arguments.epochs)
            yield {"study": "noise_view", "seed": seed, "arm": arm, "seconds": 0.0, "broken": broken, **found}


def _global(
    split: Split, encoders: dict[str, nn.Module], held_out: Inputs, target: Tensor, seed: int, epochs: int
) -> dict[str, Any]:
    torch.manual_seed(seed)
    given, test, kept = (stored(encoders, inputs) for inputs in (split.train, split.test, held_out))
    classes = split.num_classes
    arm = StoredTemperatures(classes, {view: x.shape[1] - classes for view, x in given.items()}, kind="global")
    fit(arm, lambda epoch: given, split.train_target, epochs=epochs, batch=64, seed=seed)
    learned = {view: float(values[0]) for view, values in arm.tau(test).items()}
    fit_temperatures(arm.fusion, {view: x[:, :classes] for view, x in kept.items()}, target)
    tau = {view: float(values[0]) for view, values in arm.tau(test).items()}
    return {"tau": tau, "learned": learned, "found": evaluate(arm, {"clean": (test, {})}, split.test_target)}


def noise_table(lines: list[dict[str, Any]]) -> str:
    """τ of the noise over the others', and accuracy with and without it, by seed."""
    headings = ["pure noise", "top-1 % with it", "without it", "its τ", "greatest other τ"]
    rows = [_row("seed", headings), _row("---", ["---:"] * len(headings))]
    found = {(line["seed"], line["arm"]): line for line in lines}
    differences = []
    for seed in sorted({line["seed"] for line in lines}):
        noisy, without = found[seed, "with noise"], found[seed, "without"]
        accuracies = [line["found"]["clean"]["top1"] for line in (noisy, without)]
        differences.append(accuracies[0] - accuracies[1])
        others = max(tau for view, tau in noisy["tau"].items() if view != noisy["broken"])
        numbers = [*accuracies, noisy["tau"][noisy["broken"]], others]
        rows.append(_row(str(seed), [noisy["broken"], *(f"{number:.2f}" for number in numbers)]))
    rows.append(f"\nmean difference {statistics.mean(differences):+.2f} points")
    return "\n".join(rows)


def overhead(arguments: argparse.Namespace) -> str:
    """A training step with the fusion over the encoders' alone, in turns; processor time of one thread."""
    rows = [_row("modalities", ["encoders alone, ms", *OVERHEADS]), _row("---", ["---:"] * (1 + len(OVERHEADS)))]
    for grouping in arguments.grouping:
        split = _sensors(grouping, 0, arguments)
        inputs, target = {name: x[:64] for name, x in split.train.items()}, split.train_target[:64]
        widths = feature_widths(split.encoders(), {name: x[:2] for name, x in inputs.items()})
        arms = {"alone": _Encoders(split.encoders())}
        arms |= {
            name: Temperatures(split.encoders(), split.num_classes, widths, **kind)  # type: ignore[dict-item]
            for name, kind in OVERHEADS.items()
        }
        steps = {name: _stepper(arm, inputs, target) for name, arm in arms.items()}
        times: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(STEPS):
            for name, step in steps.items():
                started = time.process_time()
                step()
                times[name].append(time.process_time() - started)
        middle = {name: statistics.median(values[STEPS // 5 :]) for name, values in times.items()}
        ratios = [f"{100 * (middle[name] / middle['alone'] - 1):+.1f} %" for name in OVERHEADS]
        rows.append(_row(f"{len(split.names)}", [f"{1000 * middle['alone']:.2f}", *ratios]))
    return "\n".join(rows)


STEPS = 200
OVERHEADS: dict[str, dict[str, Any]] = {
    "global τ": {"kind": "global"},
    "τ": {},
    "τ, joint": {"joint": True},
    "τ, joint, features": {"joint": True, "context": True},
}


class _Encoders(nn.Module):
    """Each by itself, with its own loss."""

    def __init__(self, encoders: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)

    def loss(self, inputs: Inputs, target: Tensor, index: Tensor, epoch: int) -> Tensor:
        return torch.stack([F.cross_entropy(e(inputs[n]), target) for n, e in self.encoders.items()]).sum()


def _stepper(arm: nn.Module, inputs: Inputs, target: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(arm.parameters(), 1e-3, fused=True)
    index = torch.arange(len(target))

    def step() -> None:
        loss = arm.loss(inputs, target, index, 0)  # type: ignore[operator]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


STUDIES = {
    "six_views": six_views,
    "sensors": sensors,
    "sensors_end_to_end": sensors_end_to_end,
    "noise_view": noise_view,
}


# Tables


def table(lines: list[dict[str, Any]]) -> str:
    """Of each study mean ± deviation by arm and condition, our default less the best other arm, and AUROC."""
    parts = []
    for study in dict.fromkeys(line["study"] for line in lines):
        own = [line for line in lines if line["study"] == study]
        seeds = sorted({line["seed"] for line in own})
        names = list(own[0]["found"])
        by_arm: dict[str, dict[int, Any]] = {}
        for line in own:
            by_arm.setdefault(line["arm"], {})[line["seed"]] = line["found"]
        whole = {arm: found for arm, found in by_arm.items() if len(found) == len(seeds)}
        parts += [f"\n{study}, {len(seeds)} seeds: test top-1 %, mean ± deviation\n", _row("", [*names, "worst"])]
        parts.append(_row("---", ["---:"] * (len(names) + 1)))
        for arm, found in whole.items():
            columns = [_values(found, seeds, name) for name in names]
            worst = min(statistics.mean(column) for column in columns)
            parts.append(_row(arm, [*(_mean(column) for column in columns), f"{worst:.1f}"]))
        if BEST in whole and len(seeds) > 1:
            parts.append(_differences(whole, seeds, names))
        told = _row("AUROC of τ", [*(_auroc(whole.get(BEST, {}), seeds, name) for name in names), ""])
        parts.append(told)
    return "\n".join(parts)


def _differences(whole: Mapping[str, Any], seeds: list[int], names: list[str]) -> str:
    """Our default less the best other arm in each condition, paired by seed."""
    others = [arm for arm in whole if arm not in OURS]
    cells = []
    for name in names:
        best = max(others, key=lambda arm: statistics.mean(_values(whole[arm], seeds, name)))
        cells.append(f"{_paired(whole[BEST], whole[best], seeds, name)} ({best})")
    return _row(f"{BEST} − best other", [*cells, ""])


def _paired(ours: Mapping[int, Any], other: Mapping[int, Any], seeds: list[int], name: str) -> str:
    differences = [a - b for a, b in zip(_values(ours, seeds, name), _values(other, seeds, name), strict=True)]
    mean, error = statistics.mean(differences), stats.sem(differences)
    half = stats.t.ppf(0.975, len(differences) - 1) * error
    return f"{mean:+.1f} ± {half:.1f}"


SHOWN = ("concatenation", "average", "product", "TMC", "QMF", "τ", BEST)


def draw(lines: list[dict[str, Any]], path: Path) -> None:
    """Mean accuracy and its 95 % interval by condition, a panel a study."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    studies = list(dict.fromkeys(line["study"] for line in lines))
    figure, grid = plt.subplots(len(studies), 1, figsize=(9, 3.1 * len(studies)), squeeze=False, layout="constrained")
    for axes, study in zip(grid[:, 0], studies, strict=True):
        own = [line for line in lines if line["study"] == study]
        names = list(own[0]["found"])
        for place, arm in enumerate(SHOWN):
            found = [line["found"] for line in own if line["arm"] == arm]
            if not found:
                continue
            columns = [[one[name]["top1"] for one in found] for name in names]
            means = [statistics.mean(column) for column in columns]
            halves = [stats.t.ppf(0.975, len(c) - 1) * stats.sem(c) if len(c) > 1 else 0.0 for c in columns]
            places = [i + (place - len(SHOWN) / 2) * 0.1 for i in range(len(names))]
            ours = arm in OURS
            axes.errorbar(
                places, means, halves, fmt="D" if ours else "o", color=f"C{place}", markersize=6 if ours else 4,
                linewidth=0.8, label=arm,
            )  # fmt: skip
        axes.set_xticks(range(len(names)), names)
        axes.set(ylabel="test top-1 %", title=f"{study}, {len({line['seed'] for line in own})} seeds")
        axes.grid(axis="y", alpha=0.3)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=110)


def _values(found: Mapping[int, Any], seeds: list[int], name: str) -> list[float]:
    return [found[seed][name]["top1"] for seed in seeds]


def _auroc(found: Mapping[int, Any], seeds: list[int], name: str) -> str:
    values = [found[seed][name]["auroc"] for seed in seeds if "auroc" in found.get(seed, {}).get(name, {})]
    return f"{statistics.mean(values):.2f}" if values else "–"


def _mean(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def _row(first: str, cells: Iterable[str]) -> str:
    return "| " + " | ".join([first, *cells]) + " |"


def main() -> None:
    """Run what is not there yet, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", choices=[*STUDIES, "overhead"], required=True)
    parser.add_argument("--data", help="folder of the study's files")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0, help="the seed, or split, from which to count")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--arms", nargs="*", help="only these")
    parser.add_argument("--grouping", nargs="*", default=["sensors", "axes", "channels"])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/fusion.jsonl"))
    parser.add_argument("--figure", type=Path, help="draw what is there into this file")
    arguments = parser.parse_args()
    hush()
    torch.set_num_threads(1)
    if arguments.study == "overhead":
        print(overhead(arguments))
        return
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in arguments.out.read_text().splitlines()] if arguments.out.exists() else []
    done = {(line["study"], line["seed"], line["arm"]) for line in lines}
    with arguments.out.open("a") as file:
        for line in STUDIES[arguments.study](arguments, done):
            lines.append(line)
            file.write(json.dumps(line) + "\n")
            file.flush()
            clean = f"{line['found']['clean']['top1']:.1f} % clean"
            print(f"{line['study']}, seed {line['seed']}: {line['arm']}, {clean}, {line['seconds']:.0f} s", flush=True)
    own = [
        line
        for line in lines
        if line["study"].partition(",")[0] == arguments.study and line["seed"] in _seeds(arguments)
    ]
    if arguments.figure:
        draw(own, arguments.figure)
    print(noise_table(own) if arguments.study == "noise_view" else table(own))


if __name__ == "__main__":
    main()
