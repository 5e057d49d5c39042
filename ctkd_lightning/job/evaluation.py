"""Evaluate networks: what they are worth on test samples, and what they cost on this machine."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import nn

from ctkd_lightning import build
from ctkd_lightning._files import user_path
from ctkd_lightning.errors import UserError
from ctkd_lightning.job.cost import Cost, cost, seconds_per_call
from ctkd_lightning.job.earlier import explained_run
from ctkd_lightning.job.evaluated import Subject
from ctkd_lightning.job.evaluated_checkpoint import of_checkpoint
from ctkd_lightning.job.evaluated_run import of_run
from ctkd_lightning.job.evaluation_summary import Evaluation, NetworkEvaluation, read_evaluation_file
from ctkd_lightning.job.evaluation_table import print_evaluation
from ctkd_lightning.job.hardware import accelerator_in_use
from ctkd_lightning.job.outputs import RecordingModule, TestOutputs, outputs_of
from ctkd_lightning.job.quality import agreement, quality
from ctkd_lightning.job.summary import describe_environment
from ctkd_lightning.job.training import run_test

log = logging.getLogger(__name__)

_DEVICES = ("auto", "cpu", "cuda", "mps")


def evaluate(cfg: DictConfig, overrides: Sequence[str] = ()) -> Evaluation:
    """Evaluate a run, or a network from a checkpoint; print a table and write the result.

    Args:
        cfg: the composed ``conf/evaluate.yaml``.
        overrides: what the user set.

    Raises:
        UserError: a setting that cannot be, nothing there to evaluate, or a file that would be overwritten.
    """
    _check(cfg)
    subject = _subject(cfg, overrides)
    path = subject.file if cfg.output is None else user_path(str(cfg.output))
    if path is not None and not cfg.overwrite:
        _check_replaceable(path, subject)
    found = _evaluate(subject, timed=cfg.latency)
    if path is not None:
        found.write(path)
    print_evaluation(found, subject.title, path)
    return found


def _check(cfg: DictConfig) -> None:
    if (cfg.run is None) == (cfg.checkpoint is None):
        raise UserError("give run=DIR, the folder of a run, or checkpoint=FILE with model= and data=")
    pair, network = "student" in cfg.model, cfg.model.name is not None
    if cfg.run is not None and (pair or network or cfg.teacher.checkpoint is not None):
        raise UserError("model= and teacher.checkpoint= go with checkpoint=FILE, and a run has its own: leave them out")
    missing = " and ".join(
        key for key, given in (("model", pair or network), ("data", cfg.get("data") is not None)) if not given
    )
    if cfg.checkpoint is not None and missing:
        raise UserError(f"checkpoint= needs {missing}=: the network or the pair by name, and data to test it on")
    if pair and network:
        raise UserError(f"model.name={cfg.model.name} is one network, and model= a pair: give one of them")
    for key in ("latency", "recompute", "overwrite"):
        if not isinstance(cfg[key], bool):
            raise UserError(f"{key} must be true or false, found {cfg[key]}")
    if cfg.device not in _DEVICES:
        raise UserError(f"device must be {', '.join(_DEVICES)}, found {cfg.device}")
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(cfg.device, True):
        raise UserError(f"device={cfg.device} is not on this machine: take auto or cpu")


def _subject(cfg: DictConfig, overrides: Sequence[str]) -> Subject:
    if cfg.run is not None:
        with explained_run(cfg.run):
            return of_run(str(cfg.run), cfg.device, cfg.get("data"), overrides, recompute=cfg.recompute)
    return of_checkpoint(str(cfg.checkpoint), cfg.model, cfg.teacher.checkpoint, cfg.data, cfg.device)


def _check_replaceable(path: Path, subject: Subject) -> None:
    """Let an evaluation take the place of an earlier one on the same samples, and of nothing else."""
    if not path.exists():
        return
    earlier = read_evaluation_file(path)
    if earlier is None or earlier.test_data != subject.test_data:
        what = "no evaluation, or a damaged one" if earlier is None else "an evaluation on other samples"
        raise UserError(f"{path} is there and is {what}: set output=FILE, or overwrite=true to replace it")


def _evaluate(subject: Subject, *, timed: bool) -> Evaluation:
    data, cfg = subject.data, subject.cfg
    outputs, costs = _outputs_and_costs(subject, timed=timed)
    teacher = outputs.networks.get("teacher")
    networks = {
        role: NetworkEvaluation(
            subject.candidates[role].name,
            quality(found := outputs.networks[role].logits, outputs.target),
            agreement(found, teacher.logits) if teacher is not None and role != "teacher" else None,
            measured,
        )
        for role, measured in costs.items()
    }
    return Evaluation(
        data=subject.data_name,
        test_data=subject.test_data,
        samples=len(outputs.target),
        num_classes=data.num_classes,
        image_size=data.image_size,
        outputs="computed" if subject.kept is None else "kept",
        networks=networks,
        device=accelerator_in_use(cfg.trainer.accelerator),
        threads=torch.get_num_threads(),
        channels_last=build.channels_last(cfg),
        batch_size=data.batch_size,
        **describe_environment(),
    )


def _outputs_and_costs(subject: Subject, *, timed: bool) -> tuple[TestOutputs, dict[str, Cost]]:
    """One network at a time: they need not fit into memory together."""
    costs: dict[str, Cost] = {}
    tested: dict[str, RecordingModule] = {}
    for role, candidate in subject.candidates.items():
        try:
            network = candidate.untrained() if subject.kept else candidate.trained()
        except UserError as error:
            if candidate.needed:
                raise
            log.warning("Without the %s: %s", "student alone" if role == "baseline" else role, error)
            continue
        if subject.kept is None:
            _, tested[role] = run_test(subject.cfg, RecordingModule, network, subject.data)
        costs[role] = _cost(subject, network, timed=timed)
    if subject.kept is not None:
        return subject.kept, costs
    outputs = outputs_of(tested, subject.data.class_names)
    if subject.keep_in is not None and len(tested) == len(subject.candidates):
        outputs.write(subject.keep_in)
        log.info("What the networks gave is kept in %s, without temperatures", subject.keep_in.test_outputs)
    return outputs, costs


def _cost(subject: Subject, network: nn.Module, *, timed: bool) -> Cost:
    cfg, data = subject.cfg, subject.data
    image = data.example_image[:1]
    found = cost(network, image)
    if timed:
        device = accelerator_in_use(cfg.trainer.accelerator)
        layout = torch.channels_last if build.channels_last(cfg) else torch.contiguous_format
        network = network.to(device).to(memory_format=layout).eval()
        one, several = (
            image.expand(size, -1, -1, -1).to(device).contiguous(memory_format=layout) for size in (1, data.batch_size)
        )
        found.latency_ms = 1000 * seconds_per_call(network, one)
        found.images_per_second = data.batch_size / seconds_per_call(network, several)
    return found
