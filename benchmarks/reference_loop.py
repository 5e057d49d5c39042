"""What CTKD's published scripts do in a training epoch, in one loop: the yardstick of ``benchmarks.throughput``.

One image at a time through PIL transforms in worker processes, float32 in the default memory layout, the teacher beside
the student, meters that wait for the device four times a step.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from ctkd_lightning.data._base import ImageDataModule
from ctkd_lightning.data._images import ImageArray
from ctkd_lightning.temperature import gradient_reversal


class PILImages(Dataset[tuple[Tensor, int, int]]):
    """Arrays as torchvision's CIFAR data sets give them, with the scripts' augmentation.

    Args:
        data: whose training images it takes, out of memory.
    """

    def __init__(self, data: ImageDataModule) -> None:
        images = data.split_images("train")
        assert isinstance(images, ImageArray)
        pixels = images.pixels[data.train_indices]
        self.images = np.ascontiguousarray(pixels.permute(0, 2, 3, 1).numpy())
        self.targets = images.targets[data.train_indices].tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(pixels.shape[-1], padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(data.mean, data.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        return self.transform(Image.fromarray(self.images[index])), self.targets[index], index


def loader_of(images: PILImages, batch: int, workers: int, device: str) -> DataLoader[tuple[Tensor, int, int]]:
    """The scripts' loader."""
    return DataLoader(images, batch, shuffle=True, num_workers=workers, drop_last=True, pin_memory=device == "cuda")


class ReferenceLoop:
    """A student, its teacher, a learned temperature, one optimizer.

    Args:
        teacher: frozen.
        student: trained.
        device: ``"cpu"`` or ``"cuda"``.
    """

    def __init__(self, teacher: nn.Module, student: nn.Module, device: str) -> None:
        self.device = device
        self.teacher, self.student = teacher.to(device).eval(), student.to(device).train()
        self.temperature = torch.ones(1, device=device, requires_grad=True)
        self.optimizer = torch.optim.SGD(
            [*student.parameters(), self.temperature], lr=0.05, momentum=0.9, weight_decay=5e-4
        )

    def steps(self, batches: DataLoader[tuple[Tensor, int, int]]) -> Iterator[None]:
        """Train, one batch at a time."""
        meters = dict.fromkeys(("loss", "kl", "top1", "top5"), 0.0)
        for images, target, _ in batches:
            images, target = (x.to(self.device, non_blocking=True) for x in (images, target))
            student = self.student(images)
            with torch.no_grad():
                teacher = self.teacher(images)
            tau = 1 + 20 * torch.sigmoid(gradient_reversal(self.temperature, 1.0))
            kl = F.kl_div(F.log_softmax(student / tau, 1), F.softmax(teacher / tau, 1), reduction="batchmean")
            kl = kl * tau.square()[0]
            loss = 0.1 * F.cross_entropy(student, target) + 0.9 * kl
            hits = student.topk(5, dim=1).indices == target[:, None]
            meters["loss"] += loss.item()
            meters["kl"] += kl.item()
            meters["top1"] += hits[:, 0].sum().item()
            meters["top5"] += hits.sum().item()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            yield
