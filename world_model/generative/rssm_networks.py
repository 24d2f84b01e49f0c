"""Networks of DreamerV3's world model: sequence model, image encoder and decoder, as in the authors' code
(github.com/danijar/dreamerv3), and the goal head, which is ours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge
from einops import rearrange
from torch import Tensor, nn

from world_model.generative.rssm_layers import (
    BlockLinear,
    ImageNorm,
    RMSNorm,
    make_convolution,
    make_layer,
    make_linear,
)

MULTIPLES = (2, 3, 4, 4)  # channels of the four convolutions, in units of `depth`


@dataclass(frozen=True)
class RssmSizes:
    """Sizes of the networks: those of the published preset `size1m`."""

    deter: Annotated[int, Ge(8)] = 512
    """size of the deterministic state (a multiple of blocks)"""
    hidden: Annotated[int, Ge(1)] = 64
    """width of the layers around it"""
    stoch: Annotated[int, Ge(1)] = 32
    """categorical latents"""
    classes: Annotated[int, Ge(2)] = 4
    """classes of each latent"""
    depth: Annotated[int, Ge(1)] = 4
    """channels of the convolutions, which have 2, 3, 4 and 4 times as many"""
    units: Annotated[int, Ge(1)] = 64
    """half the width of the decoder's hidden layer"""
    blocks: Annotated[int, Ge(1)] = 8
    """blocks of the GRU's weight matrices"""
    prior_layers: Annotated[int, Ge(1)] = 2
    """hidden layers of the dynamics' prediction"""
    goal_hidden: Annotated[int, Ge(0)] = 256
    """width of the goal head's two hidden layers, which predict the state of a goal image; 0: no head and no view
    `state`"""

    def __post_init__(self) -> None:
        if self.deter % self.blocks:
            raise ValueError(f"objective.deter={self.deter} is not a multiple of objective.blocks={self.blocks}")


class Core(nn.Module):
    """The sequence model h[t] = f(h[t-1], z[t-1], a[t-1]): a GRU whose matrices are block-diagonal, and whose blocks
    all see a projection of the whole state."""

    def __init__(self, config: RssmSizes, action_dim: int) -> None:
        super().__init__()
        size, hidden, self.blocks = config.deter, config.hidden, config.blocks
        self.inputs = nn.ModuleList(make_layer(n, hidden) for n in (size, config.stoch * config.classes, action_dim))
        self.hidden = BlockLinear(size + 3 * hidden * self.blocks, size, self.blocks)
        self.norm = RMSNorm(size)
        self.gates = BlockLinear(size, 3 * size, self.blocks)

    def forward(self, deter: Tensor, stoch: Tensor, action: Tensor) -> Tensor:
        """[..., deter], [..., stoch * classes], [..., A] -> the next deterministic state."""
        action = action / action.abs().clamp_min(1).detach()
        parts = [layer(x) for layer, x in zip(self.inputs, (deter, stoch, action), strict=True)]
        seen = torch.cat(parts, -1).unsqueeze(-2).expand(*deter.shape[:-1], self.blocks, -1)
        x = torch.cat((deter.unflatten(-1, (self.blocks, -1)), seen), -1).flatten(-2)
        gates = self.gates(F.silu(self.norm(self.hidden(x)))).unflatten(-1, (self.blocks, 3, -1))
        reset, candidate, update = (gate.flatten(-2) for gate in gates.unbind(-2))
        candidate = torch.tanh(reset.sigmoid() * candidate)
        update = (update - 1).sigmoid()
        return update * candidate + (1 - update) * deter


class ImageEncoder(nn.Module):
    """Frames [N, H, W, C] in 0..255 -> [N, features]: four convolutions, each halved by the largest of 2 x 2."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        channels = (3, *(depth * multiple for multiple in MULTIPLES))
        self.convolutions = nn.ModuleList(make_convolution(a, b) for a, b in zip(channels, channels[1:], strict=False))
        self.norms = nn.ModuleList(ImageNorm(b) for b in channels[1:])

    def forward(self, frames_NHWC: Tensor) -> Tensor:
        x = rearrange(frames_NHWC.float() / 255 - 0.5, "n h w c -> n c h w")
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.silu(norm(F.max_pool2d(convolution(x), 2)))
        return x.flatten(1)


class ImageDecoder(nn.Module):
    """States -> frames [N, H, W, C] in 0..1."""

    def __init__(self, config: RssmSizes, side_hw: tuple[int, int]) -> None:
        super().__init__()
        channels = [config.depth * multiple for multiple in MULTIPLES]
        self.side_hw, self.blocks, last = side_hw, config.blocks, channels[-1]
        size = side_hw[0] * side_hw[1] * last
        self.from_deter = BlockLinear(config.deter, size, config.blocks)
        self.hidden = make_layer(config.stoch * config.classes, 2 * config.units)
        self.from_stoch = make_linear(2 * config.units, size)
        self.norm = ImageNorm(last)
        pairs = list(zip(channels[::-1], channels[-2::-1], strict=False))
        self.convolutions = nn.ModuleList(make_convolution(a, b) for a, b in pairs)
        self.norms = nn.ModuleList(ImageNorm(b) for _, b in pairs)
        self.paint = make_convolution(channels[0], 3)

    def forward(self, deter: Tensor, stoch: Tensor) -> Tensor:
        height, width = self.side_hw
        x = rearrange(
            self.from_deter(deter), "n (g h w c) -> n (g c) h w", g=self.blocks, h=height, w=width
        ) + rearrange(self.from_stoch(self.hidden(stoch)), "n (h w c) -> n c h w", h=height, w=width)
        x = F.silu(self.norm(x))
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.silu(norm(convolution(F.interpolate(x, scale_factor=2))))
        return self.paint(F.interpolate(x, scale_factor=2)).sigmoid().movedim(1, -1)


class GoalHead(nn.Module):
    """The state in which a frame may be seen, from its image features alone: [N, F] -> the deterministic part
    [N, deter], within -1 to 1 as the GRU's, and logits [N, stoch * classes]."""

    def __init__(self, config: RssmSizes, features: int) -> None:
        super().__init__()
        width, size = config.goal_hidden, config.stoch * config.classes
        self.hidden = nn.Sequential(make_layer(features, width), make_layer(width, width))
        self.to_deter, self.to_logits = make_linear(width, config.deter), make_linear(width, size)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        x = self.hidden(features)
        return self.to_deter(x).tanh(), self.to_logits(x)
