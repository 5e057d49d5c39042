"""One table of all methods, which carries them through the same checks: here, in training, on resume, under DDP."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ctkd_lightning import methods
from ctkd_lightning.features.outputs import Step
from ctkd_lightning.methods import Method, NetworkOutput
from ctkd_lightning.temperature import Softening

NUM_SAMPLES = 40
TARGET = torch.arange(NUM_SAMPLES) % 2  # of all samples: fits two classes and more


@dataclass(frozen=True)
class Setting:
    """How to check one method.

    Attributes:
        make: the method, with small sizes.
        loss: its function, on a student's and a teacher's tensor (and, if the temperature acts on it, a temperature).
        student: shape of the student's tensor, after the batch.
        teacher: shape of the teacher's.
        same_widths: whether it wants networks with the same numbers of channels.
    """

    make: Callable[[], Method]
    loss: Callable[..., Tensor]
    student: tuple[int, ...] = (7,)
    teacher: tuple[int, ...] = (7,)
    same_widths: bool = False


def _dkd(student: Tensor, teacher: Tensor, temperature: Tensor) -> Tensor:
    return methods.dkd_loss(student, teacher, _classes(student), temperature)


def _vid(student: Tensor, teacher: Tensor) -> Tensor:
    return methods.vid_loss(student, teacher, student.new_tensor([0.5, 1.0, 2.0]))


def _srrl(student: Tensor, teacher: Tensor) -> Tensor:
    return methods.srrl_loss(student, teacher, 2 * student, 4 * teacher)


def _crd(student: Tensor, teacher: Tensor) -> Tensor:
    student, teacher = (nn.functional.normalize(x.float() if x.dtype.itemsize < 4 else x) for x in (student, teacher))
    bank = torch.eye(9, 7, dtype=student.dtype)
    negatives = torch.arange(12).remainder(9).expand(len(student), 12)
    keep = negatives != _classes(student).unsqueeze(1)
    return methods.crd_loss(student, teacher, bank, negatives, 4.0, 0.5, keep)


def _levels(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def on_two_maps(student: Tensor, teacher: Tensor) -> Tensor:
        return loss([student, student[:, :2, ::2, ::2]], [teacher, teacher[:, :2, ::2, ::2]])

    return on_two_maps


def _classes(like: Tensor) -> Tensor:
    return torch.arange(len(like)) % 2


_SMALL, _LARGE = (3, 4, 4), (5, 6, 6)

SETTINGS: dict[str, Setting] = {
    "ab": Setting(methods.AB, methods.ab_loss, _SMALL, _SMALL),
    "at": Setting(methods.AT, methods.at_loss, _SMALL, _LARGE),
    "cc": Setting(lambda: methods.CC(dim=4), methods.cc_loss),
    "crd": Setting(lambda: methods.CRD(NUM_SAMPLES, dim=4, negatives=16), _crd),
    "dist": Setting(methods.DIST, methods.dist_loss),
    "dkd": Setting(methods.DKD, _dkd),
    "fitnet": Setting(methods.FitNet, methods.fitnet_loss, _SMALL, _SMALL),
    "fsp": Setting(methods.FSP, _levels(methods.fsp_loss), _SMALL, _SMALL, same_widths=True),
    "ft": Setting(methods.FT, methods.ft_loss, _SMALL, _LARGE),
    "kd": Setting(methods.KD, methods.kd_loss),
    "kdsvd": Setting(methods.KDSVD, _levels(methods.kdsvd_loss), _SMALL, _SMALL, same_widths=True),
    "lskd": Setting(methods.LSKD, methods.lskd_loss),
    "mlkd": Setting(methods.MLKD, methods.mlkd_loss),
    "normkd": Setting(methods.NormKD, methods.normkd_loss),
    "nst": Setting(methods.NST, methods.nst_loss, _SMALL, _LARGE),
    "ofd": Setting(methods.OFD, methods.ofd_loss, _SMALL, _SMALL),
    "pkt": Setting(methods.PKT, methods.pkt_loss, (7,), (5,)),
    "reviewkd": Setting(methods.ReviewKD, _levels(methods.reviewkd_loss), _SMALL, _SMALL),
    "rkd": Setting(methods.RKD, methods.rkd_loss, (7,), (5,)),
    "sp": Setting(methods.SP, methods.sp_loss, _SMALL, _LARGE),
    "srrl": Setting(methods.SRRL, _srrl),
    "ttm": Setting(methods.TTM, methods.ttm_loss),
    "vid": Setting(methods.VID, _vid, _SMALL, _SMALL),
    "wttm": Setting(methods.WTTM, methods.wttm_loss),
}


@dataclass
class Example:
    """Outputs of two networks for a batch, and what else a method is called with."""

    student: NetworkOutput
    teacher: NetworkOutput
    target: Tensor
    temperature: Tensor
    index: Tensor

    def built(self, setting: Setting) -> Method:
        """The method, with its parts for these outputs."""
        torch.manual_seed(0)
        method = setting.make()
        method.build(self.student, self.teacher)
        return method

    def loss(self, method: Method) -> Tensor:
        """The method's term."""
        step = Step(target=self.target, index=self.index)
        return method(self.student, self.teacher, step, Softening.at(self.temperature, self.student.logits))

    def gradients(self, loss: Tensor, method: Method) -> list[Tensor]:
        """With respect to all that the term can train: student, temperature, own parameters."""
        sources = [self.student.logits, *self.student.features.values(), self.temperature, *method.parameters()]
        found = torch.autograd.grad(loss, [s for s in sources if s.requires_grad], allow_unused=True)
        return [g for g in found if g is not None]


def example(
    setting: Setting,
    batch: int = 4,
    classes: int = 5,
    logits_scale: float = 1.0,
    features_scale: float = 1.0,
    same_shapes: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Example:
    """Random outputs of a student and a wider teacher, unless the method or the caller wants the same shapes."""
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(1)  # of the teacher's classifier
    widths = (4, 5, 6) if setting.same_widths or same_shapes else (6, 7, 8)
    student = _network(batch, classes, (4, 5, 6), 6, generator, dtype)
    teacher = _network(batch, classes, widths, 6 if same_shapes else 9, generator, dtype)
    for output in (student, teacher):
        output.logits.mul_(logits_scale)
        for feature in set(output.features.values()):  # one may have two roles
            feature.mul_(features_scale)
    for leaf in (student.logits, *student.features.values()):
        leaf.requires_grad_()
    temperature = torch.full((batch, 1), 4.0, requires_grad=True)
    return Example(student, teacher, TARGET[:batch], temperature, torch.arange(batch))


def _network(
    batch: int, classes: int, widths: tuple[int, ...], vector: int, generator: torch.Generator, dtype: torch.dtype
) -> NetworkOutput:
    def draw(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=generator).to(dtype)

    maps = {f"stage{i}": draw(d, 16 >> i, 16 >> i) for i, d in enumerate(widths, start=1)}
    classifier = nn.Linear(vector, classes).requires_grad_(False).to(dtype)
    pooled, logits = draw(vector), draw(classes)
    preacts = {f"{stage}_preact": draw(*x.shape[1:]) for stage, x in maps.items()}
    return NetworkOutput(logits, {**maps, "last": maps["stage3"], "pooled": pooled, **preacts}, classifier)
