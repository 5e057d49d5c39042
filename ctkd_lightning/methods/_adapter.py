"""Trainable layers that bring a feature of one network to the width of the other's."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class Adapter(nn.Sequential):
    """Layers in a row that take their input in the type of their own weights.

    A half-precision teacher's features then meet a float32 adapter without an error.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The adapted feature."""
        return super().forward(x.to(next(self.parameters()).dtype))


class BatchNorm(_BatchNorm):
    """Batch normalisation of vectors (B, D) or maps (B, D, H, W) that survives a last batch of one vector, or of none.

    A single value per channel has no variance: there the running statistics serve, where PyTorch's layer raises. Those
    of an empty batch are NaN, and would stay in the running statistics.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        """The normalised feature."""
        if self.training and input.numel() <= input.shape[1]:
            return torch.batch_norm(
                input,
                self.weight,
                self.bias,
                self.running_mean,
                self.running_var,
                False,
                0.0,
                self.eps,
                torch.backends.cudnn.enabled,
            )
        return super().forward(input)


def conv1x1(in_channels: int, out_channels: int) -> nn.Conv2d:
    """A pointwise convolution without bias."""
    return nn.Conv2d(in_channels, out_channels, 1, bias=False)


def width(feature: Tensor) -> int:
    """Channels of a map (B, D, H, W), or size of a vector (B, D)."""
    return feature.shape[1]
