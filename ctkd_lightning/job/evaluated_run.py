"""What is evaluated of a run."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from functools import cache

from omegaconf import DictConfig, OmegaConf
from torch import nn

from ctkd_lightning import build
from ctkd_lightning.data import ImageDataModule
from ctkd_lightning.errors import UserError
from ctkd_lightning.job.earlier import EarlierRun, decode_into_own_cache, need_student, read_run
from ctkd_lightning.job.evaluated import Candidate, Subject, name_of, on_device, untrained
from ctkd_lightning.job.outputs import TestOutputs
from ctkd_lightning.job.overrides import sets
from ctkd_lightning.job.quality import quality
from ctkd_lightning.job.summary import Summary
from ctkd_lightning.job.teacher import load_baseline, load_teacher
from ctkd_lightning.models import load_weights

log = logging.getLogger(__name__)

_INPUT = ("image_size", "resize", "mean", "std")
"""Settings of data that say what a network sees: on other data it must see what it was trained on."""


def of_run(
    path: str, device: str, other_data: DictConfig | None = None, overrides: Sequence[str] = (), *, recompute: bool
) -> Subject:
    """A run's networks, on its own test samples or on others of the same classes.

    Args:
        path: the run's folder.
        device: to evaluate on.
        other_data: the node of these, as in a configuration.
        overrides: what the user set of it.
        recompute: leave what the run kept unread.

    Raises:
        UserError: no run that can be evaluated, or data of other classes.
    """
    run = read_run(path)
    summary = need_student(run)
    cfg = on_device(run.configuration, device)
    decode_into_own_cache(cfg)
    own_data = cache(lambda: build.data(cfg, test_only=True))
    candidates = _candidates(run, summary, own_data)
    title, kept = f"{summary.model} of {run.files}", TestOutputs.read(run.files)
    if other_data is not None:
        data = _other_data(cfg, other_data, overrides)
        check_classes(data, kept.class_names if kept is not None else own_data().class_names)
        name = name_of(data)
        return Subject(title, cfg, data, name, candidates, file=run.files.evaluation_on(name))
    subject = Subject(title, cfg, own_data(), summary.data, candidates, file=run.files.evaluation)
    if subject.test_data != summary.test_data:
        if summary.test_data is not None:
            log.warning("The test data have changed since the run: its networks are run on what is there now")
    elif kept is None:
        subject.keep_in = run.files if run.configuration.get("keep_outputs", True) else None
    elif not recompute and _as_tested(kept, summary):
        subject.kept = kept
    return subject


def _candidates(run: EarlierRun, summary: Summary, data: Callable[[], ImageDataModule]) -> dict[str, Candidate]:
    cfg = run.configuration

    def bare(role: str) -> nn.Module:
        return untrained(cfg, role, summary.num_classes or data().num_classes)

    def teacher() -> nn.Module:
        network = build.teacher(cfg, data())
        load_teacher(cfg, network, data())
        return network.eval()

    def student() -> nn.Module:
        network = bare("student")
        load_weights(network, run.files.student)
        return network

    def baseline() -> nn.Module:
        network = bare("student")
        load_baseline(cfg, network, data(), summary.precision)
        return network

    candidates = {}
    if summary.teacher is not None:
        candidates["teacher"] = Candidate(summary.teacher.name, lambda: bare("teacher"), teacher, needed=False)
    candidates["student"] = Candidate(summary.student.name, lambda: bare("student"), student)
    if summary.baseline is not None:
        candidates["baseline"] = Candidate(summary.baseline.name, lambda: bare("student"), baseline, needed=False)
    return candidates


def _as_tested(kept: TestOutputs, summary: Summary) -> bool:
    """Whether the accuracies of kept outputs are those of the run's test, which float16 can round away."""
    for role, told in (("teacher", summary.teacher), ("student", summary.student), ("baseline", summary.baseline)):
        if told is None:
            continue
        if role not in kept.networks or told.top1 is None or told.top5 is None:
            return False  # of an earlier part of a run that was gone on with
        found, sample = quality(kept.networks[role].logits, kept.target), 100.0 / len(kept.target)
        if max(abs(found.top1 - told.top1), abs(found.top5 - told.top5)) > sample / 2:
            log.info("Kept outputs give the %s another accuracy than its test had: networks are run anew", role)
            return False
    return True


def _other_data(cfg: DictConfig, node: DictConfig, overrides: Sequence[str]) -> ImageDataModule:
    """Other data that the run's networks see as they saw their own, where the user does not say otherwise."""
    cfg = copy.deepcopy(cfg)
    seen = build.unread_data(cfg)
    cfg.data = OmegaConf.to_container(node, resolve=False)
    for key in _INPUT:
        if key in cfg.data and not sets(overrides, f"data.{key}"):
            value = getattr(seen, key)
            cfg.data[key] = list(value) if isinstance(value, tuple) else value
    return build.data(cfg, test_only=True)


def check_classes(data: ImageDataModule, class_names: Sequence[str]) -> None:
    """Refuse data of other classes than a run's.

    Raises:
        UserError: another number of classes, or another name.
    """
    found = data.class_names
    if len(found) != len(class_names):
        raise UserError(
            f"data= has {len(found)} classes, and the run's networks know {len(class_names)}: take data of the run's "
            "classes"
        )
    for position, (other, own) in enumerate(zip(found, class_names, strict=True)):
        if other != own:
            raise UserError(
                f"class {position} of data= is {other!r}, and the run's networks know {own!r} there: take data of the "
                "run's classes, under the same names"
            )
