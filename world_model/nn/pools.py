"""Pools: one embedding per frame, from its tokens or pixels. Objectives predict it, planners measure distance in it.

All pools end in a linear map `out`, which a metric is folded into (`world_model.objectives.metric`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from world_model.nn.pyramid import FeaturePyramid
from world_model.nn.stem import Halvings

MAP_CHANNELS = (32, 64)  # of the convolutions before the heat maps of keypoints
POSITIONS_AT_ONCE = 4096  # of heat maps, per chunk on a CPU without gradients: they fit a core's cache
SHARPNESS = 5.0  # approximate standard deviation of initial heat maps: a keypoint then rests on few positions
GAIN = 5.0  # of the initial last map, since keypoints start near the middle


class Pool(nn.Module):
    """Tokens [B, N, D] or normalised pictures [B, C, H, W] (`input_kind`) -> embeddings [B, out].

    A pool keeps positions, which controllers need and a mean over tokens would lose.
    """

    input_kind: ClassVar[Literal["tokens", "pictures"]] = "tokens"
    out: nn.Linear

    def read_inputs(self, x: Tensor) -> Tensor:
        """Inputs [B, I] of the last linear map."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.read_inputs(x))

    def init_weights(self) -> None:
        """Normal, std 1 / sqrt(fan in): embeddings of unit size; the transformer's 0.02 would start far smaller."""
        for layer in self.children():
            assert isinstance(layer, nn.Linear), layer
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)


@dataclass(frozen=True)
class LearnedPoolConfig:
    """A head trained with the encoder."""

    dim: Annotated[int, Ge(1)] = 64
    """size of the embedding"""
    channels: Annotated[int, Ge(1)] = 32
    """channels of a token before pooling"""
    hidden: Annotated[int, Ge(1)] = 512
    """width of the hidden layer"""
    kind: Literal["learned"] = "learned"
    """pool: learned, keypoints (positions of things) or principal (components of the tokens)"""

    def make(self, width: int, num_patches: int) -> Pool:
        """The pool of num_patches tokens of this width."""
        return PoolHead(self, width, num_patches)


@dataclass(frozen=True)
class KeypointPoolConfig:
    """Keypoints of the picture itself, by spatial softmax."""

    dim: Annotated[int, Ge(1)] = 64
    """size of the embedding"""
    points: Annotated[int, Ge(1)] = 32
    """keypoints"""
    stride: int = 4
    """pixels between positions of the heat maps: 4, or 2 (finer, four times the work)"""
    pyramid: Annotated[int, Ge(0)] = 0
    """coarser maps, each of half the size, that heat maps also depend on; 0: none, they see 7 pixels"""
    kind: Literal["keypoints"] = "keypoints"
    """pool: learned, keypoints (positions of things) or principal (components of the tokens)"""

    def __post_init__(self) -> None:
        if self.stride not in (2, 4):
            raise ValueError(f"encoder.pool.stride={self.stride}: keypoints are found at every 2nd or 4th pixel")

    def make(self, width: int, num_patches: int) -> Pool:
        """The pool; it reads no tokens."""
        return KeypointPool(self)


@dataclass(frozen=True)
class PrincipalPoolConfig:
    """Principal components of the tokens, fitted after training, for objectives that predict tokens."""

    dim: Annotated[int, Ge(1)] = 64
    """size of the embedding"""
    kind: Literal["principal"] = "principal"
    """pool: learned, keypoints (positions of things) or principal (components of the tokens)"""

    def make(self, width: int, num_patches: int) -> Pool:
        """The pool of num_patches tokens of this width."""
        return PrincipalPool(self, width, num_patches)


PoolConfig = LearnedPoolConfig | KeypointPoolConfig | PrincipalPoolConfig


class PoolHead(Pool):
    """Learned: every token is reduced to a few channels, then a hidden layer reads all positions with own weights."""

    def __init__(self, config: LearnedPoolConfig, width: int, num_patches: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(width, config.channels)
        self.hidden = nn.Linear(num_patches * config.channels, config.hidden)
        self.out = nn.Linear(config.hidden, config.dim)

    def read_inputs(self, x: Tensor) -> Tensor:
        return F.gelu(self.hidden(F.gelu(self.reduce(x)).flatten(1)))


class KeypointPool(Pool):
    """Spatial softmax (Levine et al., arXiv 1504.00702; Finn et al., arXiv 1509.06113): convolutions make heat maps, a
    softmax over positions turns each into one mean position, and a linear map reads these keypoints.

    It encodes positions and orientations linearly, even before training. It reads no tokens, so objectives in its
    embedding do not train the transformer.
    """

    input_kind = "pictures"

    def __init__(self, config: KeypointPoolConfig) -> None:
        super().__init__()
        self.stride = config.stride
        self.maps = Halvings(MAP_CHANNELS, config.stride // 2)
        self.pyramid = FeaturePyramid(MAP_CHANNELS[-1], config.pyramid) if config.pyramid else None
        self.heat = nn.Conv2d(MAP_CHANNELS[-1], config.points, 1, bias=False)
        self.out = nn.Linear(2 * config.points, config.dim)

    def init_weights(self) -> None:
        """Keypoints on few positions, and an embedding of about unit size."""
        self.maps.init_weights()
        if self.pyramid is not None:
            self.pyramid.init_weights()
        nn.init.normal_(self.heat.weight, std=SHARPNESS * self.heat.in_channels**-0.5)
        nn.init.normal_(self.out.weight, std=GAIN * self.out.in_features**-0.5)

    def read_inputs(self, x: Tensor) -> Tensor:
        """Mean positions of the heat maps [B, 2 K]: down, then right, -1 to 1."""
        at_once = max(1, POSITIONS_AT_ONCE * self.stride**2 // (x.shape[2] * x.shape[3]))
        if x.device.type == "cpu" and not torch.is_grad_enabled() and len(x) > at_once:
            return torch.cat([self.read_inputs(some) for some in x.split(at_once)])
        maps = self.maps(x)
        heat = self.heat(maps if self.pyramid is None else self.pyramid(maps))
        down, right = (torch.linspace(-1, 1, side, device=heat.device) for side in heat.shape[2:])
        with torch.autocast(heat.device.type, enabled=False):  # positions need more digits than bfloat16 has
            share = heat.float().contiguous().flatten(2).softmax(-1)
            return (share @ torch.cartesian_prod(down, right)).flatten(1)


class PrincipalPool(Pool):
    """The first principal components of all layer-normed tokens side by side, so that distances of embeddings
    approximate those of tokens. Fitted, not trained."""

    def __init__(self, config: PrincipalPoolConfig, width: int, num_patches: int) -> None:
        super().__init__()
        self.out = nn.Linear(num_patches * width, config.dim)
        self.requires_grad_(False)

    def read_inputs(self, x: Tensor) -> Tensor:
        return normalise_tokens(x).flatten(1)

    @torch.no_grad()
    def fit(self, tokens_FND: Tensor) -> None:
        """Set the components to those of these frames' tokens; beyond the number of frames they are zero."""
        x = normalise_tokens(tokens_FND).flatten(1).cpu().double()
        mean = x.mean(0)
        x = x - mean
        power, sides = torch.linalg.eigh(x @ x.T)  # frames x frames: fewer than values per frame
        count = min(self.out.out_features, len(x) - 1)
        power, sides = power.flip(0)[:count], sides.flip(1)[:, :count]
        weight = torch.zeros(self.out.weight.shape, dtype=torch.float64)
        weight[:count] = (sides / power.clamp_min(1e-12).sqrt()).T @ x
        self.out.weight.copy_(weight)
        self.out.bias.copy_(-weight @ mean)


def normalise_tokens(tokens: Tensor) -> Tensor:
    """Patch tokens [..., D], each with mean 0 and standard deviation 1."""
    return F.layer_norm(tokens, tokens.shape[-1:])
