import pytest
import torch
from torch import nn

from ctkd_lightning.errors import UserError
from ctkd_lightning.features.outputs import Step
from ctkd_lightning.methods import SRRL, NetworkOutput, srrl_loss
from ctkd_lightning.temperature import Softening
from tests.methods import golden
from tests.methods.setting import Setting

SETTINGS = {"srrl": Setting(SRRL, lambda s, t: srrl_loss(s, t, 2 * s, 4 * t))}

SOFTENING = Softening.at(4.0, torch.zeros(8, 3))


def test_golden():
    classifier = golden.fill_weights(nn.Linear(96, 10))
    nn.init.zeros_(classifier.bias)
    pooled = golden.TEACHER_VECTOR
    teacher = NetworkOutput(classifier(pooled), {"pooled": pooled}, classifier)
    method = SRRL()
    method.build(NetworkOutput(torch.empty(8, 10), {"pooled": golden.STUDENT_VECTOR}), teacher)
    golden.fill_weights(method)

    def loss(student):
        return method(NetworkOutput(torch.empty(8, 10), {"pooled": student}), teacher, Step(golden.TARGET), SOFTENING)

    golden.check("srrl", loss, golden.STUDENT_VECTOR)


def test_needs_the_teachers_classifier_and_its_parts():
    method = SRRL()
    output = NetworkOutput(torch.zeros(2, 3), {"pooled": torch.zeros(2, 4)})
    with pytest.raises(
        UserError, match="SRRL needs the teacher's classifier, found none: take a teacher that ends in a"
    ):
        method(output, output, Step(), SOFTENING)
    output.classifier = nn.Linear(4, 3)
    with pytest.raises(UserError, match="SRRL was not built: call build"):
        method(output, output, Step(), SOFTENING)
