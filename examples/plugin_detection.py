"""torchvision's detectors, whose training pass returns losses alone: the callback listens to the student's own pass.

python examples/plugin_detection.py
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer, seed_everything
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign, box_iou

from ctkd_lightning import CurriculumTemperatureCallback, GlobalTemperature
from ctkd_lightning.detection import BoxKD
from ctkd_lightning.methods import KD

SIZE, CLASSES = 64, 6  # zero to four, and the background
Scene = tuple[Tensor, dict[str, Tensor]]


def scenes(digits: Tensor, labels: Tensor, count: int, seed: int) -> list[Scene]:
    """Noise with two digits of 16 to 28 pixels, side by side."""
    draw = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        image = 0.3 * torch.rand(SIZE, SIZE, generator=draw)
        boxes, classes = [], []
        for half in range(2):
            which = int(torch.randint(len(digits), (), generator=draw))
            side = int(torch.randint(16, 29, (), generator=draw))
            left = half * SIZE // 2 + int(torch.randint(SIZE // 2 - side, (), generator=draw))
            top = int(torch.randint(SIZE - side, (), generator=draw))
            digit = F.interpolate(digits[which][None, None], size=(side, side), mode="bilinear")[0, 0]
            image[top : top + side, left : left + side] += digit
            boxes.append([left, top, left + side, top + side])
            classes.append(int(labels[which]) + 1)
        target = {"boxes": torch.tensor(boxes, dtype=torch.float32), "labels": torch.tensor(classes)}
        found.append((image.clamp(max=1).expand(3, SIZE, SIZE), target))
    return found


def detector(width: int) -> FasterRCNN:
    """A Faster R-CNN on one map of a quarter of the image's size."""
    layers: list[nn.Module] = []
    for channels, out, stride in [(3, width, 2), (width, 2 * width, 2), (2 * width, 2 * width, 1)]:
        layers += [nn.Conv2d(channels, out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
    backbone = nn.Sequential(*layers)
    backbone.out_channels = 2 * width
    return FasterRCNN(
        backbone,
        min_size=SIZE,
        max_size=SIZE,
        rpn_anchor_generator=AnchorGenerator(((16, 24),), ((1.0,),)),
        rpn_pre_nms_top_n_train=100,
        rpn_post_nms_top_n_train=24,
        rpn_post_nms_top_n_test=24,
        box_roi_pool=MultiScaleRoIAlign(["0"], output_size=5, sampling_ratio=2),
        box_head=TwoMLPHead(2 * width * 25, 8 * width),
        box_predictor=FastRCNNPredictor(8 * width, CLASSES),
        box_batch_size_per_image=24,
    )


class Detection(LightningModule):
    """Somebody's own module, as it is."""

    def __init__(self, model: FasterRCNN) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: tuple[list[Tensor], list[dict[str, Tensor]]], batch_idx: int) -> Tensor:
        """The sum of the detector's losses."""
        images, targets = batch
        return torch.stack(list(self.model(images, targets).values())).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimizer."""
        return torch.optim.AdamW(self.parameters(), lr=0.003)


def collate(samples: list[Scene]) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    return [image for image, _ in samples], [target for _, target in samples]


def train(model: FasterRCNN, samples: list[Scene], epochs: int, *callbacks: CurriculumTemperatureCallback) -> None:
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Detection(model), DataLoader(samples, batch_size=8, shuffle=True, collate_fn=collate))


@torch.no_grad()
def found(model: FasterRCNN, samples: list[Scene]) -> float:
    """Share of the digits that the best detection upon them names, at an IoU of a half."""
    model.eval()
    right = []
    for image, target in samples:
        (detections,) = model([image])
        for box, label in zip(target["boxes"], target["labels"], strict=True):
            upon = box_iou(box[None], detections["boxes"])[0] >= 0.5
            right.append(upon.any() and detections["labels"][upon][0] == label)  # the surest comes first
    return sum(map(float, right)) / len(right)


def main() -> dict[str, float]:
    seed_everything(0, verbose=False)
    x, y = load_digits(n_class=CLASSES - 1, return_X_y=True)
    digits, labels = torch.tensor(x / 16, dtype=torch.float32).view(-1, 8, 8), torch.tensor(y)
    training, test = scenes(digits[:600], labels[:600], 160, seed=1), scenes(digits[600:], labels[600:], 100, seed=2)

    teacher, student = detector(16), detector(4)
    train(teacher, training, 15)
    # ce_weight=1: the step's loss is also that of the boxes and the region proposals; τ starts near 1, not at 15
    distil = CurriculumTemperatureCallback(
        teacher=teacher,
        student="model",
        method={"kd": KD(weight=3.0), "boxes": BoxKD(weight=1.0)},
        temperature=GlobalTemperature(tau_init=1.0, tau_range=4.0, initial_value=-2.0),
        ce_weight=1.0,
    )
    train(student, training, 12, distil)
    return {
        "teacher": found(teacher, test),
        "student distilled": found(student, test),
        "temperature": distil.temperature(None, None).item(),
    }


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:20}{value:8.3f}")
