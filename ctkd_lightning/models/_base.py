"""What the CIFAR architectures have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import nn


class ZooModel(nn.Module):
    """A classifier that says where its features are.

    Attributes:
        feature_layers: from a feature's role to the dotted name of the submodule whose output it is (or, with
            ``:input`` at the end, what it reads): ``stem``, ``stage1``, ``stage2``, … are maps (B, D, H, W), ``pooled``
            is the vector (B, D) before the classifier, and ``stage1_preact``, … are the stages' maps before the
            activation, where the authors of OFD, AB and ReviewKD read them.
        classifier_layer: the dotted name of the last linear layer.

    Activations work in place on what a normalisation or a sum gave them, which nothing else reads: a tenth of a step's
    time on CPUs. :class:`~ctkd_lightning.features.tap.FeatureTap` copies the outputs that it reads there.
    """

    feature_layers: Mapping[str, str]
    classifier_layer: ClassVar[str]


def conv3x3(in_channels: int, out_channels: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A 3×3 convolution that keeps the size at stride 1; its bias is left to the batch normalisation after it."""
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, groups=groups, bias=False)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A pointwise convolution without bias."""
    return nn.Conv2d(in_channels, out_channels, 1, stride, groups=groups, bias=False)


def init_weights(model: nn.Module, linear_std: float | None = None) -> None:
    r"""Draw the initial weights in place: convolutions from He's normal distribution over the outgoing connections.

    .. math::
        w \sim \mathcal{N}(0, 2 / (k^2 \cdot \text{out channels}))

    He et al., *Delving Deep into Rectifiers*, 2015, https://arxiv.org/abs/1502.01852. Batch normalisation keeps
    PyTorch's scale 1 and shift 0.

    Args:
        model: the network.
        linear_std: standard deviation of the linear layers, whose biases then start at 0; None keeps PyTorch's default.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Linear) and linear_std is not None:
            nn.init.normal_(layer.weight, std=linear_std)
            nn.init.zeros_(layer.bias)
