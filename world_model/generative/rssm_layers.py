"""Layers of DreamerV3: norms, block-diagonal maps and their initial weights (github.com/danijar/dreamerv3)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

NORM_EPS = 1e-4
KERNEL = 5


class RMSNorm(nn.Module):
    """Root-mean-square norm of the last axis, in fp32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.rsqrt(x.float().square().mean(-1, keepdim=True) + NORM_EPS)
        return (x.float() * scale * self.weight).to(x.dtype)


class ImageNorm(RMSNorm):
    """The same over the channels of each pixel of [B, C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class BlockLinear(nn.Module):
    """A linear map whose matrix has diagonal blocks: [..., g * i] -> [..., g * o]."""

    def __init__(self, inputs: int, outputs: int, blocks: int) -> None:
        super().__init__()
        assert inputs % blocks == outputs % blocks == 0, (inputs, outputs, blocks)
        self.weight = nn.Parameter(torch.empty(blocks, inputs // blocks, outputs // blocks))
        self.bias = nn.Parameter(torch.zeros(outputs))
        init_truncated(self.weight, inputs)  # published: the fan in of the whole matrix, not of a block

    def forward(self, x: Tensor) -> Tensor:
        grouped = x.unflatten(-1, (self.weight.shape[0], -1))
        return torch.einsum("...gi,gio->...go", grouped, self.weight).flatten(-2) + self.bias


def init_truncated(weight: Tensor, fan_in: int) -> None:
    """Normal, cut at two deviations, of variance 1 / fan in."""
    std = 1.1368 / math.sqrt(fan_in)
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def make_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear map without offset at first."""
    layer = nn.Linear(inputs, outputs)
    init_truncated(layer.weight.data, inputs)
    nn.init.zeros_(layer.bias)
    return layer


def make_convolution(inputs: int, outputs: int) -> nn.Conv2d:
    """A convolution that keeps the size of its maps, without offset at first."""
    layer = nn.Conv2d(inputs, outputs, KERNEL, padding=KERNEL // 2)
    init_truncated(layer.weight.data, inputs * KERNEL**2)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def make_layer(inputs: int, outputs: int) -> nn.Sequential:
    """A linear map, norm and SiLU."""
    return nn.Sequential(make_linear(inputs, outputs), RMSNorm(outputs), nn.SiLU())
