"""Train a teacher, distil it into a student at a learned temperature: plain Python, a minute on a CPU.

python examples/distil_digits.py
"""

from __future__ import annotations

from functools import partial

import torch
from lightning.pytorch import Trainer, seed_everything

from ctkd_lightning import CosineCurriculum, CurriculumTemperatureCallback, DistillationModule
from ctkd_lightning.data import Digits
from ctkd_lightning.models import create_model
from ctkd_lightning.modules import ClassifierModule
from ctkd_lightning.schedule import step_decay

EPOCHS = 8
RECIPE = {  # the paper's, of any length
    "optimizer": partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=5e-4),
    "scheduler": partial(step_decay, max_epochs=EPOCHS),
}


def main() -> dict[str, float]:
    seed_everything(1)
    data = Digits(image_size=16, padding=2)
    settings = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": EPOCHS,
        "logger": False,
        "enable_checkpointing": False,
    }

    teacher = create_model("resnet20", num_classes=data.num_classes)
    Trainer(**settings).fit(ClassifierModule(teacher, **RECIPE), datamodule=data)

    student = create_model("resnet8", num_classes=data.num_classes)
    module = DistillationModule(teacher, student, **RECIPE)  # knowledge distillation with a global learned temperature
    curriculum = CurriculumTemperatureCallback(CosineCurriculum(epochs=EPOCHS))
    trainer = Trainer(**settings, callbacks=[curriculum])
    trainer.fit(module, datamodule=data)

    temperature = module.temperature(None, None).item()
    (tested,) = trainer.test(module, datamodule=data)
    print(f"temperature {temperature:.2f}, student's top-1 {tested['test/top1']:.1f} %")
    return {"temperature": temperature, **tested}


if __name__ == "__main__":
    main()
