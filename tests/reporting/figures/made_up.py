"""Runs that nobody trained."""

import torch
from omegaconf import OmegaConf

from ctkd_lightning.job.outputs import NetworkOutputs, TestOutputs
from ctkd_lightning.job.run_directory import RunDirectory
from ctkd_lightning.job.summary import NetworkSummary, Summary
from ctkd_lightning.reporting.figures._comparison import compare
from ctkd_lightning.reporting.runs import ReportedRun, Runs

_CLASSES = {"normkd": "NormKD", "kd": "KD", "dkd": "DKD", "crd": "CRD"}


def run(
    folder, temperature="global", seed=1, *, series=None, outputs=None, final=None, alone=False, model="pair",
    method="kd", settings=None,
):  # fmt: skip
    """A run in a folder of its own, with what a test gives it."""
    path = folder / f"{len(list(folder.iterdir()))}"
    path.mkdir(parents=True)
    target = f"ctkd_lightning.temperature.{_CLASSES.get(temperature, temperature.capitalize())}Temperature"
    configuration = {
        "seed": seed,
        "run_dir": str(path),
        "method": {"alone": alone, "terms": {method: {"_target_": f"ctkd_lightning.methods.{_CLASSES[method]}"}}},
        "temperature": {"_target_": target},
        **(settings or {}),
    }
    if outputs is not None:
        outputs.write(RunDirectory(path))
    summary = Summary(
        model=model,
        data="digits",
        method="none" if alone else method,
        temperature=temperature,
        curriculum="cosine",
        seed=seed,
        status="complete",
        stage="test",
        teacher=None if alone else NetworkSummary("teacher"),
        student=NetworkSummary("student"),
        final=final or {},
    )
    numbered = {
        name: values if isinstance(values[0], tuple) else list(enumerate(values, 1))
        for name, values in (series or {}).items()
    }
    return ReportedRun(RunDirectory(path), summary, OmegaConf.create(configuration), numbered)


def comparison(*runs):
    """Them as figures see them."""
    return compare(Runs(list(runs), []))


def outputs(target, features=None, tau=None, pictures=None, names=None, **logits):
    """Outputs of networks by role; of numbers that float16 has, they are read as they were written."""
    networks = {role: NetworkOutputs(torch.as_tensor(values).float()) for role, values in logits.items()}
    if features is not None:
        networks["student"].features = torch.as_tensor(features).float()
    target = torch.as_tensor(target)
    return TestOutputs(torch.arange(len(target)), target, networks, tau, pictures or {}, names or [])


def drawn(axes):
    """(x, y) of each line by its label."""
    return {line.get_label(): tuple(map(list, line.get_data())) for line in axes.lines}
