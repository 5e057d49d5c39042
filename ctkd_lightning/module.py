"""The LightningModule that distils a teacher into a student."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ctkd_lightning.errors import UserError
from ctkd_lightning.frozen import FrozenNetwork
from ctkd_lightning.methods import KD, Method, NetworkOutput
from ctkd_lightning.supervised import SupervisedModule
from ctkd_lightning.temperature import GlobalTemperature, Temperature


class DistillationModule(SupervisedModule):
    r"""Train a student with a frozen teacher at a temperature that may be learned.

    .. math:: L = w_\mathrm{CE} \cdot \mathrm{CE}(s, y) + \sum_m w_m \cdot L_m(s, t, \tau)

    The teacher is always in eval mode, without gradients, in no optimizer and in no checkpoint. The temperature and
    the methods' own parameters share the student's optimizer, as in the CTKD paper (Li et al., AAAI 2023,
    https://arxiv.org/abs/2211.16231). A learned temperature stands still until λ rises: add
    :class:`~ctkd_lightning.CurriculumTemperatureCallback` to the Trainer.

    Logs ``train/loss``, ``train/ce`` and ``train/<method>`` once an epoch, and loss and accuracy of the student on
    validation and test data.

    Args:
        teacher: images to logits (B, C).
        student: images to logits (B, C).
        method: a term of the loss, or several by name; ``KD()`` by default.
        temperature: :class:`~ctkd_lightning.GlobalTemperature` by default.
        ce_weight: w_CE, the paper's γ.
        **settings: as in :class:`~ctkd_lightning.supervised.SupervisedModule`: ``optimizer``, ``scheduler``,
            ``channels_last``.

    Raises:
        UserError: no method.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        method: Method | Mapping[str, Method] | None = None,
        temperature: Temperature | None = None,
        *,
        ce_weight: float = 0.1,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.teacher = FrozenNetwork(self.network_in_layout(teacher))
        self.student = self.network_in_layout(student)
        self.methods = nn.ModuleDict(_by_name(KD() if method is None else method))
        self.temperature = GlobalTemperature() if temperature is None else temperature
        self.ce_weight = ce_weight

    @property
    def network(self) -> nn.Module:
        """The student."""
        return self.student

    @property
    def uses_temperature(self) -> bool:
        """Whether the temperature acts on any of the methods."""
        return any(method.uses_temperature for method in self.methods.values())

    def losses(self, images: Tensor, batch: tuple[Any, ...]) -> Mapping[str, Tensor]:
        """The total loss, cross-entropy and each method's unweighted term."""
        target = batch[1]
        index = batch[2] if len(batch) > 2 else None
        teacher = NetworkOutput(self.teacher(images))
        student = NetworkOutput(self.student(images))
        tau = self.temperature(student.logits, teacher.logits)

        ce = F.cross_entropy(student.logits.float(), target)
        terms = {name: method(student, teacher, target, tau, index) for name, method in self.methods.items()}
        loss = self.ce_weight * ce + sum(self.methods[name].weight * term for name, term in terms.items())
        return {"loss": loss, "ce": ce, **terms}


def _by_name(method: Method | Mapping[str, Method]) -> dict[str, Method]:
    if isinstance(method, Method):
        return {type(method).__name__.lower(): method}
    if not method:
        raise UserError("method has no terms: pass at least one, for example method=KD()")
    return dict(method)
