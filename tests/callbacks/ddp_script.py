"""Train every way under DDP; run by test_ddp.py in two processes, which each write down what they ended with."""

import json
import os
import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils import parameters_to_vector
from torch.utils.data import DataLoader, DistributedSampler

from ctkd_lightning import (
    CurriculumTemperatureCallback,
    Distillation,
    DistillationModule,
    InstanceTemperature,
    LinearCurriculum,
    TemperatureFusion,
)
from ctkd_lightning.errors import UserError
from tests.callbacks import foreign

CURRICULUM = LinearCurriculum(epochs=4, start=0.5)
UNUSED = "ddp_find_unused_parameters_true"


class WithUnused(foreign.Plain):
    def __init__(self):
        super().__init__()
        self.unused = nn.Linear(2, 2)


def callback(**settings):
    defaults = {"teacher": foreign.teacher(), "temperature": foreign.temperature()}
    return CurriculumTemperatureCallback(CURRICULUM, **(defaults | settings))


def differing_teacher():
    net = foreign.teacher()
    nn.init.constant_(net[2].bias, float(os.environ["LOCAL_RANK"]))
    return net


def per_sample():
    torch.manual_seed(int(os.environ["LOCAL_RANK"]))  # the first process's weights must win
    return InstanceTemperature(3, hidden=4)


def module_of_the_package(**settings):
    def optimizer(parameters):
        return torch.optim.SGD(parameters, lr=foreign.LEARNING_RATE, momentum=foreign.MOMENTUM)

    defaults = {"teacher": foreign.teacher(), "temperature": foreign.temperature()}
    module = DistillationModule(student=foreign.student(), optimizer=optimizer, **(defaults | settings))
    module.net = module.student
    return module


def several():
    return {"good": foreign.teacher(), "other": foreign.network(3)}


def fused():
    torch.manual_seed(int(os.environ["LOCAL_RANK"]))  # the first process's weights must win
    return TemperatureFusion(None, list(several()), "instance", normalize=True)


CASES = {
    "way 1": lambda: (foreign.Distilling(), CurriculumTemperatureCallback(CURRICULUM), {}),
    "way 2": lambda: (foreign.Plain(), callback(), {}),
    "way 2, part": lambda: (foreign.Part(), callback(student="net"), {}),
    "way 1, find_unused_parameters": lambda: (
        foreign.Distilling(),
        CurriculumTemperatureCallback(CURRICULUM),
        {"strategy": UNUSED},
    ),
    "way 2, find_unused_parameters": lambda: (WithUnused(), callback(), {"strategy": UNUSED}),
    "way 1, manual": lambda: (foreign.DistillingManual(), CurriculumTemperatureCallback(CURRICULUM), {}),
    "way 2, manual": lambda: (foreign.Manual(), callback(), {}),
    "way 2, accumulation": lambda: (foreign.Plain(), callback(), {"accumulate_grad_batches": 2}),
    "way 2, compiled": lambda: (torch.compile(foreign.Plain(), backend="aot_eager"), callback(), {}),
    "way 2, per sample": lambda: (foreign.Plain(), callback(temperature=per_sample()), {}),
    "module": lambda: (module_of_the_package(), CurriculumTemperatureCallback(CURRICULUM), {}),
    "module without a callback": lambda: (module_of_the_package(curriculum=CURRICULUM), None, {}),
    "way 2, several teachers": lambda: (foreign.Plain(), callback(teacher=several(), teacher_fusion=fused()), {}),
    "module, several teachers": lambda: (
        module_of_the_package(teacher=several(), teacher_fusion=fused()),
        CurriculumTemperatureCallback(CURRICULUM),
        {},
    ),
    "way 2, teachers differ": lambda: (foreign.Plain(), callback(teacher=differing_teacher()), {}),
}


def in_order():
    """Both processes' batches of 8 together are the next 16 samples; Lightning's own sampler would shuffle."""
    dataset = foreign.loader().dataset
    sampler = DistributedSampler(dataset, num_replicas=2, rank=int(os.environ["LOCAL_RANK"]), shuffle=False)
    return DataLoader(dataset, batch_size=8, sampler=sampler)


def run(make, folder):
    module, added, settings = make()
    defaults = {"strategy": "ddp", "devices": 2, "use_distributed_sampler": False}
    trainer = foreign.trainer(folder, *([] if added is None else [added]), **(defaults | settings))
    try:
        trainer.fit(module, in_order())
    except UserError as error:
        return str(error)
    module = getattr(module, "_orig_mod", module)
    holder = module if hasattr(module, "temperature") else added
    temperature, fusion = holder.temperature, getattr(holder, "teacher_fusion", None)
    return {
        "weights": torch.cat([p.detach().flatten() for p in module.net.parameters()]).tolist(),
        "temperature": torch.cat([p.detach().flatten() for p in temperature.parameters()]).tolist(),
        "fusion": [] if fusion is None else parameters_to_vector(fusion.parameters()).tolist(),
        "logged": sorted(trainer.callback_metrics),
    }


def engine_in_a_loop():
    """The engine itself under DistributedDataParallel."""
    distillation = Distillation(
        foreign.student(), foreign.teacher(), temperature=foreign.temperature(), curriculum=CURRICULUM
    )
    parallel = nn.parallel.DistributedDataParallel(distillation)
    parameters = distillation.parameters()
    optimizer = torch.optim.SGD(parameters, lr=foreign.LEARNING_RATE, momentum=foreign.MOMENTUM)
    for epoch in range(foreign.EPOCHS):
        distillation.progress(epoch)
        for x, y in in_order():
            optimizer.zero_grad()
            parallel(x, target=y)["loss"].backward()
            optimizer.step()
    return {
        "weights": torch.cat([p.detach().flatten() for p in distillation.student.parameters()]).tolist(),
        "temperature": [distillation.temperature.value.item()],
        "logged": ["ctkd/lambda", "ctkd/temperature"],
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    results = {name: run(make, folder) for name, make in CASES.items()}
    results["engine in a loop"] = engine_in_a_loop()  # in the process group that the trainings have left
    (folder / f"{os.environ['LOCAL_RANK']}.json").write_text(json.dumps(results))
