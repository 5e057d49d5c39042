"""Which temperature distils a language model? Python's standard library as pairs of bytes, a student with few texts.

    python -m benchmarks.tokens --folder DIR [--seeds 5] [--arms ARM …] [--results FILE]
    python -m benchmarks.tokens --table

A teacher of four layers and 3.7 million parameters learns from all training files, once; it is kept in the folder. Its
students, of one layer and 0.48 million, have 150,000 of their tokens and 400 steps of 16 texts of 128 tokens; their
loss is 0.1 · cross-entropy + 0.9 · KD. Fixed beforehand, and the same for all arms of a seed: the student's first
weights, the order of the texts, steps, rates; the last step counts, and nothing is chosen on the test files.

Each line of the results is one run; what is there is not run again. Bits a byte on 131,072 tokens of files that nobody
trained on; differences to a constant τ of 1 are paired by seed, with Student's 95 % interval.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer, seed_everything
from torch import nn

from benchmarks.quiet import hush
from ctkd_lightning import CurriculumTemperatureCallback, FixedTemperature, GlobalTemperature
from ctkd_lightning.data import StdlibTokens
from ctkd_lightning.job.summary import describe_environment
from ctkd_lightning.methods import KD
from ctkd_lightning.models import LanguageModel, fingerprint, load_weights, save_weights
from ctkd_lightning.modules import ClassifierModule, DistillationModule
from ctkd_lightning.reporting.statistics import paired_difference, spread
from ctkd_lightning.temperature import Temperature

RESULTS = Path(__file__).parent / "results" / "tokens.jsonl"
VOCABULARY, LENGTH, BATCH = 2048, 128, 16
EPOCH = 20  # steps
TEACHER = {"width": 256, "layers": 4, "heads": 4, "epochs": 50, "rate": 2e-3}
STUDENT = {"width": 128, "layers": 1, "heads": 4, "epochs": 20, "rate": 5e-3}
FEW = 150_000 // LENGTH  # the student's texts
TESTED = 131_072 // LENGTH
REFERENCE = "fixed 1"
ARMS: dict[str, Callable[[], Temperature] | None] = {
    "no teacher": None,
    "fixed 1": partial(FixedTemperature, 1.0),
    "fixed 2": partial(FixedTemperature, 2.0),
    "fixed 4": partial(FixedTemperature, 4.0),
    "global, [1, 5] from 1.2": GlobalTemperature.for_tokens,
    "the same, cooperative": partial(GlobalTemperature.for_tokens, "cooperative"),
    "global, [1, 21] from 15.6": GlobalTemperature,
}


def texts(folder: Path, *, seed: int, few: bool) -> StdlibTokens:
    """The data of one training."""
    return StdlibTokens(
        vocabulary=VOCABULARY,
        length=LENGTH,
        cache_dir=folder,
        batch_size=BATCH,
        eval_batch_size=BATCH,
        drop_last=True,
        limit_train=FEW if few else None,
        limit_eval=TESTED,
        seed=seed,
    )


def network(size: dict[str, Any]) -> LanguageModel:
    """A language model of a size."""
    return LanguageModel(VOCABULARY, **{key: size[key] for key in ("width", "layers", "heads")}, length=LENGTH)


def fit(module: Any, data: StdlibTokens, size: dict[str, Any], *callbacks: Any) -> Trainer:
    """Train for the size's epochs of 20 steps, the rate up in the first and then down along a cosine."""
    trainer = Trainer(
        accelerator="cpu", max_epochs=size["epochs"], limit_train_batches=EPOCH, limit_val_batches=0,
        gradient_clip_val=1.0, callbacks=list(callbacks), logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    return trainer


def optimization(size: dict[str, Any]) -> dict[str, Any]:
    """What makes optimizer and scheduler."""

    def factor(epoch: int) -> float:
        return 0.5 if epoch == 0 else 0.5 * (1 + math.cos(math.pi * epoch / size["epochs"]))

    return {
        "optimizer": partial(torch.optim.AdamW, lr=size["rate"], betas=(0.9, 0.95), weight_decay=0.01),
        "scheduler": lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, factor),
        "class_dim": -1,
    }


def bits(model: nn.Module, data: StdlibTokens) -> float:
    """Bits a byte on the test files."""
    module = ClassifierModule(model, class_dim=-1)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    (found,) = trainer.test(module, datamodule=data, verbose=False)
    return found["test/loss"] / math.log(2) / data.bytes_per_token("test")


def ready_teacher(folder: Path) -> LanguageModel:
    """The teacher, trained if the folder does not have it."""
    seed_everything(0, verbose=False)
    model, path = network(TEACHER), folder / "teacher.safetensors"
    if path.is_file():
        load_weights(model, path)
    else:
        started, data = time.perf_counter(), texts(folder, seed=0, few=False)
        fit(ClassifierModule(model, **optimization(TEACHER)), data, TEACHER)
        save_weights(model, path)
        print(f"teacher: {bits(model, data):.3f} bits a byte in {time.perf_counter() - started:.0f} s", flush=True)
    return model.eval()


def run(arm: str, seed: int, teacher: LanguageModel, folder: Path) -> dict[str, Any]:
    """Train and test one student."""
    data = texts(folder, seed=seed, few=True)
    seed_everything(seed, verbose=False)
    student, make = network(STUDENT), ARMS[arm]
    start = fingerprint(student.state_dict())[:16]
    started = time.perf_counter()
    tau = None
    if make is None:
        fit(ClassifierModule(student, **optimization(STUDENT)), data, STUDENT)
    else:
        temperature = make()
        module = DistillationModule(
            teacher, student, KD(weight=0.9), temperature, ce_weight=0.1, **optimization(STUDENT)
        )
        fit(module, data, STUDENT, CurriculumTemperatureCallback())
        tau = round(float(torch.as_tensor(temperature(None, None))), 3)  # type: ignore[arg-type]  # none reads logits
    seconds = time.perf_counter() - started
    about = describe_environment()
    return {
        "study": "tokens", "arm": arm, "seed": seed, "bits": round(bits(student, data), 4), "tau": tau,
        "seconds": round(seconds, 1), "start": start, "teacher": fingerprint(teacher.state_dict())[:16],
        **{name: about[name] for name in ("versions", "hardware", "git")},
    }  # fmt: skip


def lines_of(path: Path) -> list[dict[str, Any]]:
    """What the results hold."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def table(lines: list[dict[str, Any]]) -> Iterator[str]:
    """A row an arm: bits a byte, difference to the reference, τ at the end.

    Raises:
        SystemExit: arms of one seed that did not start alike, or of different teachers.
    """
    by_arm: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for line in lines:
        by_arm[line["arm"]][line["seed"]] = line
    if len({line["teacher"] for line in lines}) > 1 or any(
        len({line["start"] for line in lines if line["seed"] == seed}) > 1 for seed in {line["seed"] for line in lines}
    ):
        raise SystemExit("the runs have different teachers, or their students different first weights")
    yield "| arm | seeds | bits a byte | less `fixed 1` | τ at the end |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    reference = {seed: line["bits"] for seed, line in by_arm[REFERENCE].items()}
    for arm in ARMS:
        if not (runs := by_arm.get(arm)):
            continue
        own = {seed: line["bits"] for seed, line in runs.items()}
        found = None if arm == REFERENCE else paired_difference(own, reference)
        difference = "–"
        if found is not None and found.interval is not None:
            difference = f"{found.mean:+.3f} ± {(found.interval[1] - found.interval[0]) / 2:.3f}".replace("-", "−")
        taus = [line["tau"] for line in runs.values() if line["tau"] is not None]
        mean = spread(list(own.values())).mean
        yield f"| {arm} | {len(own)} | {mean:.3f} | {difference} | {f'{sum(taus) / len(taus):.2f}' if taus else '–'} |"


def main() -> None:
    """Do what is not done, and show what is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="for tokens and teacher")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), metavar="ARM", default=list(ARMS))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    if not arguments.table:
        if arguments.folder is None:
            parser.error("--folder DIR, for tokens and teacher")
        hush("ctkd_lightning")
        teacher = ready_teacher(arguments.folder)
        for seed in range(1, arguments.seeds + 1):
            for arm in arguments.arms:
                if any((line["arm"], line["seed"]) == (arm, seed) for line in lines_of(arguments.results)):
                    continue
                line = run(arm, seed, teacher, arguments.folder)
                with arguments.results.open("a") as file:
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
                print(f"{arm}, seed {seed}: {line['bits']:.3f} bits a byte in {line['seconds']:.0f} s", flush=True)
    print("\n".join(table(lines_of(arguments.results))))


if __name__ == "__main__":
    main()
