"""What is evaluated of checkpoints."""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf
from torch import nn

from ctkd_lightning import build
from ctkd_lightning.errors import UserError
from ctkd_lightning.job.evaluated import Candidate, Subject, name_of, on_device, untrained
from ctkd_lightning.models import load_weights


def of_checkpoint(
    checkpoint: str, model: DictConfig, teacher_checkpoint: str | None, node: DictConfig, device: str
) -> Subject:
    """A network with weights from a file, or a pair of networks.

    Args:
        checkpoint: the network's, or the pair's student's.
        model: the network as ``name``, or the pair as ``teacher`` and ``student``.
        teacher_checkpoint: of the pair's teacher, where that is evaluated too.
        node: the data's, as in a configuration.
        device: to evaluate on.

    Raises:
        UserError: an unknown name, or weights that do not fit.
    """
    pair = "student" in model
    if teacher_checkpoint is not None and not pair:
        raise UserError(f"teacher.checkpoint goes with a pair, and model={model.name} is one network: name a pair")
    cfg = on_device(build.config(), device)
    cfg.model = OmegaConf.merge(cfg.model, model if pair else {"student": {"name": str(model.name)}})
    cfg.data = OmegaConf.to_container(node, resolve=False)
    data = build.data(cfg, test_only=True)

    def candidate(role: str, weights: str) -> Candidate:
        def bare() -> nn.Module:
            return untrained(cfg, role, data.num_classes)

        def trained() -> nn.Module:
            network = bare()
            load_weights(network, weights)
            return network

        return Candidate(cfg.model[role].name, bare, trained)

    candidates = {} if teacher_checkpoint is None else {"teacher": candidate("teacher", teacher_checkpoint)}
    candidates["student" if pair else "network"] = candidate("student", checkpoint)
    return Subject(str(checkpoint), cfg, data, name_of(data), candidates)
