"""The U-Net of DIAMOND (Alonso et al., arXiv 2405.12399, appendix): residual blocks whose norms follow a condition.

Every level has a width, some residual blocks on the way down and one more on the way up, and halves the maps of the
level before it. Each block on the way up also sees the maps of the mirrored place on the way down. Two blocks with
attention lie in the middle. Sizes, norms and initial weights are those of the authors' code at
github.com/eloialonso/diamond (MIT licence).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUP_CHANNELS = 32  # of a group norm
HEAD_CHANNELS = 8  # of an attention head
NORM_EPS = 1e-5


def count_groups(channels: int) -> int:
    """Groups of a group norm: of 32 channels each where they divide."""
    return math.gcd(channels, max(1, channels // GROUP_CHANNELS))


def make_convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """A 3 x 3 convolution, padded by zeros."""
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1)


class AdaptiveNorm(nn.Module):
    """Group norm with a scale and a shift of each channel that are linear in a condition (AdaGN)."""

    def __init__(self, channels: int, condition_dim: int) -> None:
        super().__init__()
        self.groups = count_groups(channels)
        self.modulation = nn.Linear(condition_dim, 2 * channels)

    def forward(self, x_NCHW: Tensor, condition_ND: Tensor) -> Tensor:
        scale, shift = self.modulation(condition_ND)[..., None, None].chunk(2, 1)
        return F.group_norm(x_NCHW, self.groups, eps=NORM_EPS) * (1 + scale) + shift


class Attention2d(nn.Module):
    """Self-attention among the positions of a normed map, added to the normed map, as in the released code; at first it
    adds nothing."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = channels // HEAD_CHANNELS
        self.norm = nn.GroupNorm(count_groups(channels), channels, eps=NORM_EPS)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.proj.weight)
        assert self.proj.bias is not None
        nn.init.zeros_(self.proj.bias)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        x = self.norm(x_NCHW)
        q, k, v = self.qkv(x).flatten(2).unflatten(1, (3, self.heads, -1)).transpose(-1, -2).unbind(1)
        attended = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj(attended.transpose(-1, -2).reshape(x.shape))


class ResidualBlock(nn.Module):
    """Two convolutions, each after an adaptive norm and SiLU; at first the second adds its bias alone."""

    def __init__(self, inputs: int, outputs: int, condition_dim: int, attention: bool = False) -> None:
        super().__init__()
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
        self.norms = nn.ModuleList(AdaptiveNorm(n, condition_dim) for n in (inputs, outputs))
        first, second = make_convolution(inputs, outputs), make_convolution(outputs, outputs)
        nn.init.zeros_(second.weight)
        self.convolutions = nn.ModuleList((first, second))
        self.attention = Attention2d(outputs) if attention else nn.Identity()

    def forward(self, x_NCHW: Tensor, condition_ND: Tensor) -> Tensor:
        y = x_NCHW
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            y = convolution(F.silu(norm(y, condition_ND)))
        return self.attention(y + self.skip(x_NCHW))


class Level(nn.Module):
    """Residual blocks one after another, of the given inputs and outputs."""

    def __init__(self, channels: list[tuple[int, int]], condition_dim: int, attention: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResidualBlock(a, b, condition_dim, attention) for a, b in channels)

    def forward(self, x_NCHW: Tensor, condition_ND: Tensor, seen: list[Tensor] | None = None) -> list[Tensor]:
        """The maps after each block. seen: maps that the blocks also see; each takes the last from the list."""
        maps = [x_NCHW]
        for block in self.blocks:
            x = maps[-1] if seen is None else torch.cat((maps[-1], seen.pop()), 1)
            maps.append(block(x, condition_ND))
        return maps[1:]


class UNet(nn.Module):
    """Maps [N, widths[0], H, W] -> the same, under a condition [N or 1, D].

    widths: channels of the levels, multiples of 8. depth: residual blocks of a level on the way down. Maps whose sides
    do not halve evenly are padded by zeros and cut again.
    """

    def __init__(self, widths: tuple[int, ...], depth: int, condition_dim: int) -> None:
        super().__init__()
        self.halvings = len(widths) - 1
        pairs = list(zip((widths[0], *widths), widths, strict=False))  # of each level: width before it, its own

        self.down = nn.ModuleList(
            Level([(above, own), *[(own, own)] * (depth - 1)], condition_dim) for above, own in pairs
        )
        self.middle = Level([(widths[-1], widths[-1])] * 2, condition_dim, attention=True)
        self.up = nn.ModuleList(
            Level([*[(2 * own, own)] * depth, (above + own, above)], condition_dim) for above, own in pairs
        )
        self.shrink = nn.ModuleList(make_convolution(width, width, stride=2) for width in widths[:-1])
        self.grow = nn.ModuleList(make_convolution(width, width) for width in widths[:-1])
        for convolution in self.shrink:
            assert isinstance(convolution, nn.Conv2d)
            nn.init.orthogonal_(convolution.weight)

    def forward(self, x_NCHW: Tensor, condition_ND: Tensor) -> Tensor:
        height, width = x_NCHW.shape[-2:]
        multiple = 2**self.halvings
        x = F.pad(x_NCHW, (0, -width % multiple, 0, -height % multiple))
        seen: list[Tensor] = []
        for number, level in enumerate(self.down):
            if number:
                x = self.shrink[number - 1](x)
            seen += [x, *level(x, condition_ND)]
            x = seen[-1]
        x = self.middle(x, condition_ND)[-1]
        for number in reversed(range(self.halvings + 1)):
            x = self.up[number](x, condition_ND, seen)[-1]
            if number:
                x = self.grow[number - 1](F.interpolate(x, scale_factor=2))
        return x[..., :height, :width]


class NoiseFeatures(nn.Module):
    """Numbers [N] -> [N, D]: cosines and sines of random frequencies, which are drawn once and kept."""

    frequencies: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(dim // 2))

    def forward(self, values_N: Tensor) -> Tensor:
        angles = 2 * math.pi * values_N[:, None] * self.frequencies
        return torch.cat((angles.cos(), angles.sin()), -1)
