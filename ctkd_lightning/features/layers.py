"""Which layers of a network play which role."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from ctkd_lightning.features._asking import AskedTeacher
from ctkd_lightning.features._head import find_classifier
from ctkd_lightning.features.frozen import FrozenNetwork
from ctkd_lightning.features.outputs import is_stage
from ctkd_lightning.features.teachers import FrozenTeachers

# torchvision's networks whose children, in the order of their definition, run one after the other
_CHAINS = {"ResNet", "VGG", "MobileNetV2", "MobileNetV3", "ShuffleNetV2", "DenseNet", "EfficientNet", "ConvNeXt"}
_CHAINS |= {"RegNet", "MNASNet"}
# those of the children that hold the stages
_BODIES = ("features", "trunk_output", "layers")
# where blocks are defined whose last activation, in the order of the definition, rectifies their sum
_RESIDUAL = ("torchvision.models.resnet", "timm.models.resnet")
_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Hardswish)
# layers with which timm's lists of features may start, before the first stage
_STEMS = ("stem", "conv_stem", "act1", "bn1", "norm0")


def default_layers(network: nn.Module) -> dict[str, str]:
    """Where a network has its features: from role to the dotted name of a layer.

    The network's own ``feature_layers`` come first. Stages that it does not name are derived for classifiers of timm
    (their ``feature_info``) and for torchvision's families of convolutional networks, where a stage ends before the
    next layer that halves the map. ``pooled`` is otherwise what the last linear layer reads.

    Returns:
        Roles ``stem``, ``stage1``, ``stage2``, …, ``pooled``, ``stage1_preact``, …, as far as they are known.

    Example:
        >>> default_layers(nn.Sequential(nn.Flatten(), nn.Linear(8, 10)))
        {'pooled': '1:input'}
    """
    network = unwrap(network)
    own = dict(getattr(network, "feature_layers", {}))
    derived = {} if any(map(is_stage, own)) else _timm_layers(network) or _torchvision_layers(network)
    classifier = find_classifier(network)
    if isinstance(dict(network.named_modules()).get(classifier), nn.Linear):  # TorchScript has no get_submodule
        derived["pooled"] = f"{classifier}:input"
    return {**derived, **own}


def layer_before_activation(network: nn.Module, layer: str) -> str | None:
    """The place before the activation that ends a layer: what that activation reads, where it is a layer of its own.

    It is found at the end of sequences, and in the residual blocks of torchvision and timm, which rectify the sum.

    Args:
        network: the unwrapped network.
        layer: a dotted name, with or without ``:input``.

    Example:
        >>> layer_before_activation(nn.Sequential(nn.Sequential(nn.Linear(8, 10), nn.ReLU())), "0")
        '0.1:input'
    """
    name, module = layer, dict(network.named_modules()).get(layer, network)
    while isinstance(module, nn.Sequential) and len(module):
        last, module = list(module.named_children())[-1]
        name = f"{name}.{last}"
    if type(module).__module__ in _RESIDUAL:
        children = list(module.named_children())
        last, module = [(name, child) for name, child in children if isinstance(child, _ACTIVATIONS)][-1]
        name = f"{name}.{last}"
    return f"{name}:input" if isinstance(module, _ACTIVATIONS) else None


def unwrap(network: nn.Module) -> nn.Module:
    """The network inside ``torch.compile``, DDP or a :class:`FrozenNetwork`; several of them in one."""
    while True:
        if isinstance(network, FrozenNetwork | FrozenTeachers | AskedTeacher):
            network = network.network
        elif isinstance(network, DistributedDataParallel):
            network = network.module
        elif isinstance(compiled := getattr(network, "_orig_mod", None), nn.Module):
            network = compiled
        else:
            return network


def _timm_layers(network: nn.Module) -> dict[str, str]:
    info = getattr(network, "feature_info", None)
    names = [entry["module"] for entry in info] if isinstance(info, list) else []
    stem = names.pop(0) if names and names[0].rpartition(".")[2] in _STEMS else None
    return _roles(names, stem)


def _torchvision_layers(network: nn.Module) -> dict[str, str]:
    families = {kind.__name__ for kind in type(network).__mro__ if kind.__module__.startswith("torchvision.models.")}
    if families.isdisjoint(_CHAINS):
        return {}
    segments: list[list[tuple[str, nn.Module]]] = [[]]
    for name, layer in _chain(network):
        if any(map(_halves, layer.modules())):
            segments.append([])
        segments[-1].append((name, layer))
    segments = [segment for segment in segments if _convolutions(segment)]
    first = _convolutions(segments[0])
    has_stem = len(first) == 1 and _halves(first[0])
    ends = [_end(segment) for segment in segments]
    return _roles(ends[1:], ends[0]) if has_stem else _roles(ends, None)


def _chain(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, layer in network.named_children():
        if name in _BODIES:
            yield from ((f"{name}.{inner}", child) for inner, child in layer.named_children())
        elif isinstance(layer, nn.AdaptiveAvgPool2d) or any(isinstance(m, nn.Linear) for m in layer.modules()):
            return
        else:
            yield name, layer


def _halves(layer: nn.Module) -> bool:
    if not isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
        return False
    stride = layer.stride if isinstance(layer.stride, tuple) else (layer.stride,)
    return max(stride) > 1


def _convolutions(segment: list[tuple[str, nn.Module]]) -> list[nn.Conv2d]:
    return [m for _, layer in segment for m in layer.modules() if isinstance(m, nn.Conv2d)]


def _end(segment: list[tuple[str, nn.Module]]) -> str:
    # a normalisation that ends a stage (DenseNet's) is overwritten by the activation after it
    return next(name for name, layer in reversed(segment) if not isinstance(layer, _BatchNorm))


def _roles(stages: list[str], stem: str | None) -> dict[str, str]:
    roles = {"stem": stem} if stem else {}
    return {**roles, **{f"stage{number}": name for number, name in enumerate(stages, start=1)}}
