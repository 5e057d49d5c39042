"""Trainable layers that bring a feature of one network to the width of the other's."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ctkd_lightning._across_processes import processes, total
from ctkd_lightning.features.outputs import at_least_float32


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

    Args:
        channels: D.
        gather: whether the statistics are those of all processes' batches together; else of each process's own.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def __init__(self, channels: int, *, gather: bool = True) -> None:
        super().__init__(channels)
        self.gather = gather

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        """The normalised feature."""
        if self.training and self.gather and processes() > 1:
            return self._of_all_processes(input)
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

    def _of_all_processes(self, input: Tensor) -> Tensor:
        # PyTorch's SyncBatchNorm has no CPU, and takes no single value
        x = at_least_float32(input)
        over = [0, *range(2, x.ndim)]
        values = x.new_full((1,), x.numel() // x.shape[1])
        sums = total(torch.cat([x.sum(over), values]))
        count, least = sums[-1], sums[-1].clamp(min=1)
        mean = sums[:-1] / least
        variance = total((x - self._a_channel(mean, x)).square().sum(over)) / least
        several = count > 1
        self._follow(mean.detach(), variance.detach() * least / (count - 1).clamp(min=1), several)
        mean = torch.where(several, mean, self.running_mean.to(mean.dtype))
        variance = torch.where(several, variance, self.running_var.to(mean.dtype))
        scale = (variance + self.eps).rsqrt() * self.weight
        found = (x - self._a_channel(mean, x)) * self._a_channel(scale, x) + self._a_channel(self.bias, x)
        return found.to(input.dtype)

    @staticmethod
    def _a_channel(values: Tensor, like: Tensor) -> Tensor:
        return values.view(1, -1, *(1,) * (like.ndim - 2))

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, several: Tensor) -> None:
        """Move the running statistics, unless the batch has no variance."""
        for running, value in ((self.running_mean, mean), (self.running_var, variance)):
            running += self.momentum * several.to(running.dtype) * (value.to(running.dtype) - running)
        self.num_batches_tracked += several


def conv1x1(in_channels: int, out_channels: int) -> nn.Conv2d:
    """A pointwise convolution without bias."""
    return nn.Conv2d(in_channels, out_channels, 1, bias=False)


def width(feature: Tensor) -> int:
    """Channels of a map (B, D, H, W), or size of a vector (B, D)."""
    return feature.shape[1]
