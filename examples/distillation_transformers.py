"""The engine as the loss of Hugging Face's ``Trainer``: a small vision transformer learns from a larger one.

pip install transformers accelerate
python examples/distillation_transformers.py
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from ctkd_lightning import CosineCurriculum, Distillation, GlobalTemperature, Step, StudentCall

try:
    import accelerate  # noqa: F401 - what the Trainer stands on
    from transformers import Trainer, TrainerCallback, TrainingArguments, ViTConfig, ViTForImageClassification, set_seed
except ImportError as error:
    raise SystemExit("this example needs two more packages: pip install transformers accelerate") from error

EPOCHS = 15


class Progress(TrainerCallback):
    """Tell the engine where the training stands, and begin each of its steps anew."""

    def __init__(self, distillation: Distillation) -> None:
        self.distillation = distillation

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set λ of this step; the epoch is a fraction."""
        self.distillation.progress(state.epoch, state.global_step / state.max_steps)
        self.distillation.zero_grad()  # the Trainer clears the gradients of its model alone


class DistillationTrainer(Trainer):
    """A Trainer whose loss is the engine's, of a model that knows nothing of it."""

    def __init__(self, *args: Any, distillation: Distillation, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.distillation = distillation.to(self.args.device)
        self.add_callback(Progress(distillation))
        self.model_accepts_loss_kwargs = (
            False  # the loss is a mean: accumulated batches must be divided by their number
        )

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The model's, and the temperature beside it."""
        optimizer = super().create_optimizer(model)
        learned = [p for p in self.distillation.parameters() if p.requires_grad]
        if learned:
            optimizer.add_param_group({"params": learned, "weight_decay": 0.0})
        return optimizer

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """The weighted sum of the task's loss and the distillation's; in evaluation the model's own."""
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, **kwargs)
        given = {name: value for name, value in inputs.items() if name != "labels"}
        teacher = self.distillation.ask(StudentCall((), given), inputs)
        output = model(**given)
        losses = self.distillation.losses(output, teacher, Step(target=inputs["labels"]))
        self.distillation.record.add(losses)
        return (losses["loss"], output) if return_outputs else losses["loss"]

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Each loss by its name, the means since the last time."""
        losses = {name: value.item() for name, value in self.distillation.collect().items()}
        super().log({**logs, **losses}, *args, **kwargs)


def transformer(width: int) -> ViTForImageClassification:
    """From digits (B, 1, 8, 8) to logits (B, 10); with random weights."""
    config = ViTConfig(
        image_size=8,
        patch_size=2,
        num_channels=1,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_labels=10,
    )
    return ViTForImageClassification(config)


def digits() -> list[dict[str, Any]]:
    """Samples as such models take them."""
    images, classes = load_digits(return_X_y=True)
    pixels = torch.tensor(images / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    return [{"pixel_values": image, "labels": int(label)} for image, label in zip(pixels, classes, strict=True)]


def settings(folder: str | Path, **others: Any) -> TrainingArguments:
    """What both trainings have in common."""
    return TrainingArguments(
        output_dir=str(folder),
        learning_rate=3e-3,
        per_device_train_batch_size=32,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        **others,
    )


def distilled(teacher: nn.Module) -> Distillation:
    """The engine, without a student: that is the Trainer's."""
    temperature = GlobalTemperature(tau_init=1.0, tau_range=4.0)
    return Distillation(teacher=teacher, temperature=temperature, curriculum=CosineCurriculum(epochs=EPOCHS // 2))


def main(seed: int = 0) -> dict[str, float]:
    set_seed(seed)
    data = digits()
    train, test = data[:1200], data[1200:]
    teacher, student = transformer(48), transformer(24)

    def accuracy(model: nn.Module) -> float:
        model.eval()
        with torch.no_grad():
            found = model(torch.stack([sample["pixel_values"] for sample in test])).logits.argmax(dim=1)
        return (found == torch.tensor([sample["labels"] for sample in test])).float().mean().item()

    with TemporaryDirectory() as folder:
        Trainer(teacher, settings(folder, num_train_epochs=EPOCHS), train_dataset=train).train()
        distillation = distilled(teacher)
        args = settings(folder, num_train_epochs=EPOCHS, logging_strategy="epoch")
        DistillationTrainer(student, args, train_dataset=train, distillation=distillation).train()
    return {
        "teacher": accuracy(teacher),
        "student distilled": accuracy(student),
        "temperature": distillation.temperature(None, None).item(),
    }


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:20}{value:8.3f}")
