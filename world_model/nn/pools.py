"""Pools: one embedding a frame, of its tokens or of itself, which objectives predict and in which plans measure.

All of them end in a linear map `out`, which a metric is folded into (`world_model.objectives.metric`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model.nn.stem import Halvings

MAP_CHANNELS = (32, 64)  # of the convolutions that make the maps which keypoints are found in
AT_ONCE = 4  # pictures embedded at a time on a CPU where no gradient is wanted: their heat stays in a core's cache
SHARPNESS = 5.0  # standard deviation of a new pool's heat over places, about: a point then lies on few of them
SPREAD = 5.0  # how much larger a keypoint pool's last map starts, since points hardly leave the middle at first


@dataclass(frozen=True)
class PoolSizes:
    """Tokens [B, N, width] of a grid of patches (rows, columns) -> embeddings [B, out].

    channels: numbers that a learned pool reduces a token to, or keypoints. hidden: width of the learned pool's layer.
    stride: pixels between the places where keypoints are looked for, 2 or 4.
    """

    width: int
    grid: tuple[int, int]
    channels: int
    hidden: int
    out: int
    stride: int = 4

    @property
    def num_patches(self) -> int:
        return self.grid[0] * self.grid[1]


class Pool(nn.Module):
    """What it `reads` of frames, tokens [B, N, D] or normalised pictures [B, C, H, W] -> embeddings [B, out].

    It is aware of place: where things are is what a controller needs, and a mean over tokens would hide it.
    """

    reads: ClassVar[Literal["tokens", "pictures"]] = "tokens"
    out: nn.Linear

    def inputs(self, seen: Tensor) -> Tensor:
        """What the last linear map reads [B, I]."""
        raise NotImplementedError

    def forward(self, seen: Tensor) -> Tensor:
        return self.out(self.inputs(seen))

    def init_weights(self) -> None:
        """Normal, std 1 / sqrt(fan in): embeddings of unit size, where the transformer's 0.02 would start them so
        small that a variance term has to grow them first."""
        for layer in self.children():
            assert isinstance(layer, nn.Linear), layer
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)


class PoolHead(Pool):
    """Learned: every token is reduced to a few channels, then a hidden layer reads all of them with a weight for each
    place."""

    def __init__(self, sizes: PoolSizes) -> None:
        super().__init__()
        self.reduce = nn.Linear(sizes.width, sizes.channels)
        self.hidden = nn.Linear(sizes.num_patches * sizes.channels, sizes.hidden)
        self.out = nn.Linear(sizes.hidden, sizes.out)

    def inputs(self, seen: Tensor) -> Tensor:
        return F.gelu(self.hidden(F.gelu(self.reduce(seen)).flatten(1)))


class KeypointPool(Pool):
    """Spatial softmax (Levine et al., arXiv 1504.00702; Finn et al., arXiv 1509.06113): convolutions make maps of the
    picture, a softmax over its places makes one mean place of every map, and a linear map reads these points.

    What it says linearly is where things are, and how they are turned by where their ends are, even before it is
    trained. The transformer's tokens have no part in it, so objectives in its embedding train none.
    """

    reads = "pictures"

    def __init__(self, sizes: PoolSizes) -> None:
        super().__init__()
        self.maps = Halvings(MAP_CHANNELS, sizes.stride // 2)
        self.heat = nn.Conv2d(MAP_CHANNELS[-1], sizes.channels, 1, bias=False)
        self.out = nn.Linear(2 * sizes.channels, sizes.out)

    def init_weights(self) -> None:
        """Points on few places, and an embedding of about unit size."""
        self.maps.init_weights()
        nn.init.normal_(self.heat.weight, std=SHARPNESS * self.heat.in_channels**-0.5)
        nn.init.normal_(self.out.weight, std=SPREAD * self.out.in_features**-0.5)

    def inputs(self, seen: Tensor) -> Tensor:
        """Mean places of the maps' heat, all numbers side by side [B, 2 K]: down, then right, -1 to 1."""
        if seen.device.type == "cpu" and not torch.is_grad_enabled() and len(seen) > AT_ONCE:
            return torch.cat([self.inputs(some) for some in seen.split(AT_ONCE)])
        heat = self.heat(self.maps(seen))
        down, right = (torch.linspace(-1, 1, side, device=heat.device) for side in heat.shape[2:])
        with torch.autocast(heat.device.type, enabled=False):  # places need more digits than bfloat16 has
            share = heat.float().contiguous().flatten(2).softmax(-1)
            return (share @ torch.cartesian_prod(down, right)).flatten(1)


class PrincipalPool(Pool):
    """Fitted: the first principal components of all layer-normed tokens side by side. Distances between embeddings are
    then those between tokens, but for what the components leave out. No gradient trains it."""

    def __init__(self, sizes: PoolSizes) -> None:
        super().__init__()
        self.out = nn.Linear(sizes.num_patches * sizes.width, sizes.out)
        self.requires_grad_(False)

    def inputs(self, seen: Tensor) -> Tensor:
        return normed_tokens(seen)

    @torch.no_grad()
    def fit(self, tokens_FND: Tensor) -> None:
        """Take the components of these frames' tokens; with fewer frames than components the rest are zero."""
        x = normed_tokens(tokens_FND).cpu().double()
        mean = x.mean(0)
        x = x - mean
        power, sides = torch.linalg.eigh(x @ x.T)  # of frames by frames: they are fewer than numbers a frame
        count = min(self.out.out_features, len(x) - 1)
        power, sides = power.flip(0)[:count], sides.flip(1)[:, :count]
        weight = torch.zeros(self.out.weight.shape, dtype=torch.float64)
        weight[:count] = (sides / power.clamp_min(1e-12).sqrt()).T @ x
        self.out.weight.copy_(weight)
        self.out.bias.copy_(-weight @ mean)


def layer_normed(tokens: Tensor) -> Tensor:
    """Patch tokens [..., D], each with mean 0 and deviation 1."""
    return F.layer_norm(tokens, tokens.shape[-1:])


def normed_tokens(tokens_BND: Tensor) -> Tensor:
    """All layer-normed tokens of a frame side by side [B, N * D]."""
    return layer_normed(tokens_BND).flatten(1)


POOLS: dict[str, type[PoolHead] | type[KeypointPool] | type[PrincipalPool]] = {
    "learned": PoolHead,
    "keypoints": KeypointPool,
    "principal": PrincipalPool,
}
