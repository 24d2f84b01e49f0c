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


class Pool(nn.Module):
    """What it `input_kind`s of frames, tokens [B, N, D] or normalised pictures [B, C, H, W] -> embeddings [B, out].

    It is aware of place: where things are is what a controller needs, and a mean over tokens would hide it.
    """

    input_kind: ClassVar[Literal["tokens", "pictures"]] = "tokens"
    out: nn.Linear

    def read_inputs(self, seen: Tensor) -> Tensor:
        """What the last linear map reads [B, I]."""
        raise NotImplementedError

    def forward(self, seen: Tensor) -> Tensor:
        return self.out(self.read_inputs(seen))

    def init_weights(self) -> None:
        """Normal, std 1 / sqrt(fan in): embeddings of unit size, where the transformer's 0.02 would start them so
        small that a variance term has to grow them first."""
        for layer in self.children():
            assert isinstance(layer, nn.Linear), layer
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)


@dataclass(frozen=True)
class LearnedPoolConfig:
    """A head trained with the encoder."""

    dim: int = 64
    """numbers of the embedding (>= 1)"""
    channels: int = 32
    """channels that a token is reduced to before it is pooled (>= 1)"""
    hidden: int = 512
    """width of the hidden layer (>= 1)"""
    kind: Literal["learned"] = "learned"
    """the pooled embedding: learned, keypoints (where things are) or principal (components of the tokens)"""

    def make(self, width: int, num_patches: int) -> Pool:
        """The pool of so many patch tokens of this width."""
        return PoolHead(self, width, num_patches)


@dataclass(frozen=True)
class KeypointPoolConfig:
    """Keypoints of the picture itself, by spatial softmax."""

    dim: int = 64
    """numbers of the embedding (>= 1)"""
    points: int = 32
    """keypoints (>= 1)"""
    stride: int = 4
    """pixels between the positions where keypoints are looked for: 4, or 2 (finer, and four times the work)"""
    kind: Literal["keypoints"] = "keypoints"
    """the pooled embedding: learned, keypoints (where things are) or principal (components of the tokens)"""

    def __post_init__(self) -> None:
        if self.stride not in (2, 4):
            raise ValueError(f"encoder.pool.stride={self.stride}: keypoints are found at every 2nd or 4th pixel")

    def make(self, width: int, num_patches: int) -> Pool:
        """The pool; it reads no tokens."""
        return KeypointPool(self)


@dataclass(frozen=True)
class PrincipalPoolConfig:
    """Principal components of the tokens, fitted when training is over: for objectives that predict tokens."""

    dim: int = 64
    """numbers of the embedding (>= 1)"""
    kind: Literal["principal"] = "principal"
    """the pooled embedding: learned, keypoints (where things are) or principal (components of the tokens)"""

    def make(self, width: int, num_patches: int) -> Pool:
        """The pool of so many patch tokens of this width."""
        return PrincipalPool(self, width, num_patches)


PoolConfig = LearnedPoolConfig | KeypointPoolConfig | PrincipalPoolConfig


class PoolHead(Pool):
    """Learned: every token is reduced to a few channels, then a hidden layer reads all of them with a weight for each
    place."""

    def __init__(self, config: LearnedPoolConfig, width: int, num_patches: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(width, config.channels)
        self.hidden = nn.Linear(num_patches * config.channels, config.hidden)
        self.out = nn.Linear(config.hidden, config.dim)

    def read_inputs(self, seen: Tensor) -> Tensor:
        return F.gelu(self.hidden(F.gelu(self.reduce(seen)).flatten(1)))


class KeypointPool(Pool):
    """Spatial softmax (Levine et al., arXiv 1504.00702; Finn et al., arXiv 1509.06113): convolutions make maps of the
    picture, a softmax over its places makes one mean place of every map, and a linear map reads these points.

    What it says linearly is where things are, and how they are turned by where their ends are, even before it is
    trained. The transformer's tokens have no part in it, so objectives in its embedding train none.
    """

    input_kind = "pictures"

    def __init__(self, config: KeypointPoolConfig) -> None:
        super().__init__()
        self.maps = Halvings(MAP_CHANNELS, config.stride // 2)
        self.heat = nn.Conv2d(MAP_CHANNELS[-1], config.points, 1, bias=False)
        self.out = nn.Linear(2 * config.points, config.dim)

    def init_weights(self) -> None:
        """Points on few places, and an embedding of about unit size."""
        self.maps.init_weights()
        nn.init.normal_(self.heat.weight, std=SHARPNESS * self.heat.in_channels**-0.5)
        nn.init.normal_(self.out.weight, std=SPREAD * self.out.in_features**-0.5)

    def read_inputs(self, seen: Tensor) -> Tensor:
        """Mean places of the maps' heat, all numbers side by side [B, 2 K]: down, then right, -1 to 1."""
        if seen.device.type == "cpu" and not torch.is_grad_enabled() and len(seen) > AT_ONCE:
            return torch.cat([self.read_inputs(some) for some in seen.split(AT_ONCE)])
        heat = self.heat(self.maps(seen))
        down, right = (torch.linspace(-1, 1, side, device=heat.device) for side in heat.shape[2:])
        with torch.autocast(heat.device.type, enabled=False):  # places need more digits than bfloat16 has
            share = heat.float().contiguous().flatten(2).softmax(-1)
            return (share @ torch.cartesian_prod(down, right)).flatten(1)


class PrincipalPool(Pool):
    """Fitted: the first principal components of all layer-normed tokens side by side. Distances between embeddings are
    then those between tokens, but for what the components leave out. No gradient trains it."""

    def __init__(self, config: PrincipalPoolConfig, width: int, num_patches: int) -> None:
        super().__init__()
        self.out = nn.Linear(num_patches * width, config.dim)
        self.requires_grad_(False)

    def read_inputs(self, seen: Tensor) -> Tensor:
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


def normalise_tokens(tokens: Tensor) -> Tensor:
    """Patch tokens [..., D], each with mean 0 and deviation 1."""
    return F.layer_norm(tokens, tokens.shape[-1:])


def normed_tokens(tokens_BND: Tensor) -> Tensor:
    """All layer-normed tokens of a frame side by side [B, N * D]."""
    return normalise_tokens(tokens_BND).flatten(1)
