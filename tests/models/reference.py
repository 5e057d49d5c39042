"""The reference zoo's numbers for its 22 CIFAR architectures, and the formulas of weights and input behind them."""

import json
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

GOLDEN = json.loads((Path(__file__).parent / "golden" / "cifar_architectures.json").read_text())
FAMILIES = ("resnet8", "resnet8x4", "wrn_16_2", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2", "ResNet50")


def fill_by_formula(model: nn.Module) -> None:
    """Give each entry of the state dict values that depend on its position, name and shape alone."""
    state = model.state_dict()
    model.load_state_dict({name: _entry(i, name, tensor) for i, (name, tensor) in enumerate(state.items())})


def formula_input() -> Tensor:
    """The input of the golden outputs, (2, 3, 32, 32)."""
    return torch.sin(0.01 * torch.arange(2 * 3 * 32 * 32, dtype=torch.float64)).reshape(2, 3, 32, 32).float()


def layers_behind_activations(model: nn.Module) -> dict[str, str]:
    """What ``feature_layers`` names, but for the maps before the activations, which these overwrite."""
    return {role: layer for role, layer in model.feature_layers.items() if not role.endswith("_preact")}


def hooked_features(model: nn.Module, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """The outputs of these layers, by role, and the logits."""
    features: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(layer).register_forward_hook(
            lambda _module, _inputs, output, role=role: features.update({role: output})
        )
        for role, layer in layers_behind_activations(model).items()
    ]
    logits = model(x)
    for handle in handles:
        handle.remove()
    return features, logits


def _entry(i: int, name: str, like: Tensor) -> Tensor:
    j = np.arange(like.numel())
    if name.endswith("num_batches_tracked"):
        values = np.zeros(1)
    elif name.endswith("running_var"):
        values = 1 + 0.5 * np.sin(0.9 * j + i) ** 2
    elif name.endswith("running_mean"):
        values = 0.05 * np.sin(0.3 * j + i)
    elif like.ndim >= 2:
        values = _pseudo_random(i, like.numel()) * math.sqrt(1.5 / (like.numel() / like.shape[0]))
    elif name.endswith("weight"):
        values = 1 + 0.1 * np.sin(0.5 * j + i)
    else:
        values = 0.1 * np.cos(0.4 * j + i)
    return torch.from_numpy(values).reshape(like.shape).to(like.dtype)


def _pseudo_random(i: int, count: int) -> np.ndarray:
    low = np.uint64(2**32 - 1)
    q = (np.arange(count, dtype=np.uint64) * np.uint64(2654435761) + np.uint64(i * 40503)) & low
    q ^= q >> np.uint64(15)
    q = (q * np.uint64(2246822519)) & low  # wraps at 2⁶⁴, which leaves the low half as it is
    return 2 * q.astype(np.float64) / 2**32 - 1
