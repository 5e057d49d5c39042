"""What a network costs: memory, arithmetic and time."""

from __future__ import annotations

import copy
import statistics
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ctkd_lightning.job.summary import parameters_of
from ctkd_lightning.models import serialized_size

_WARM_UP = 3  # calls before the clock starts
_LEAST_CALLS, _SECONDS = 5, 0.5  # that are measured, whichever is more; the median is over them


@dataclass
class Cost:
    """Of a network, in float32.

    Attributes:
        parameters: their number.
        macs: multiply-adds of one image, each counted once as in published tables (those often say FLOPs); convolutions
            and matrix products alone.
        weights_bytes: of its weights as safetensors.
        latency_ms: of one image, the median, until the answer is in the host's memory; ``None`` where it was left out.
        images_per_second: in batches, likewise.
    """

    parameters: int
    macs: int
    weights_bytes: int
    latency_ms: float | None = None
    images_per_second: float | None = None


def cost(network: nn.Module, image: Tensor) -> Cost:
    """What can be counted.

    Args:
        network: images to logits.
        image: (1, 3, H, W), of the size that it is used with.
    """
    return Cost(parameters_of(network), count_macs(network, image), serialized_size(network))


def count_macs(network: nn.Module, image: Tensor) -> int:
    """Multiply-adds of one image (1, 3, H, W)."""
    # on the meta device nothing is computed, and attention is not hidden in a fused kernel that the counter cannot see
    network = copy.deepcopy(network).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(image.to("meta"))
    return int(counter.get_total_flops()) // 2  # torch counts a multiply-add as two


def seconds_per_call(network: nn.Module, images: Tensor) -> float:
    """The median time of a call, until its answer is in the host's memory, after a warm-up.

    Args:
        network: in eval mode, on the device of the images.
        images: (B, 3, H, W).
    """
    times: list[float] = []
    with torch.inference_mode():
        for _ in range(_WARM_UP):
            network(images).cpu()
        while len(times) < _LEAST_CALLS or sum(times) < _SECONDS:
            started = time.perf_counter()
            network(images).cpu()  # which waits for any device
            times.append(time.perf_counter() - started)
    return statistics.median(times)
