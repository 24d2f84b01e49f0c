"""Pools: one embedding a frame from its tokens. Objectives with `space=pooled` predict in it; planners measure in it.

All of them end in a linear map `out`, which a metric is folded into (`world_model.metric`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model.stem import Halvings

FINE_CHANNELS = (32, 64)  # of the convolutions, each of stride 2, that make the map which keypoints are found in
FINE_PX = 2 ** len(FINE_CHANNELS)  # pixels between the map's places
SHARPNESS = 5.0  # standard deviation of a new pool's heat over places, about: a point then lies on few of them
SPREAD = 5.0  # how much larger a keypoint pool's last map starts, since points hardly leave the middle at first


@dataclass(frozen=True)
class PoolSizes:
    """Tokens [B, N, width] of a grid of patches (rows, columns) -> embeddings [B, out].

    channels: numbers that a learned pool reduces a token to, or keypoints. hidden: width of the learned pool's layer.
    """

    width: int
    grid: tuple[int, int]
    channels: int
    hidden: int
    out: int

    @property
    def num_patches(self) -> int:
        return self.grid[0] * self.grid[1]


class Pool(nn.Module):
    """Tokens [B, N, D] of frames, and for some their normalised pictures [B, C, H, W] -> embeddings [B, out], aware of
    place: where things are is what a controller needs, and a mean over tokens would hide it.
    """

    reads_frames: ClassVar[bool] = False
    out: nn.Linear

    def init_weights(self) -> None:
        """Normal, std 1 / sqrt(fan in): embeddings of unit size, where the transformer's 0.02 would start them so
        small that a variance term has to grow them first."""
        for layer in self.children():
            assert isinstance(layer, nn.Linear), layer
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)

    @torch.no_grad()
    def fold(self, mean_D: Tensor, matrix_DD: Tensor) -> None:
        """Follow the last linear map by x -> (x - mean) @ matrix, for good."""
        weight, bias = self.out.weight.cpu().double(), self.out.bias.cpu().double()
        matrix = matrix_DD.cpu().double()
        self.out.weight.copy_(matrix.T @ weight)
        self.out.bias.copy_((bias - mean_D.cpu().double()) @ matrix)


class PoolHead(Pool):
    """Learned: every token is reduced to a few channels, then a hidden layer reads all of them with a weight for each
    place."""

    def __init__(self, sizes: PoolSizes) -> None:
        super().__init__()
        self.reduce = nn.Linear(sizes.width, sizes.channels)
        self.hidden = nn.Linear(sizes.num_patches * sizes.channels, sizes.hidden)
        self.out = nn.Linear(sizes.hidden, sizes.out)

    def forward(self, tokens_BND: Tensor, pictures_BCHW: Tensor | None = None) -> Tensor:
        return self.out(F.gelu(self.hidden(F.gelu(self.reduce(tokens_BND)).flatten(1))))


class KeypointPool(Pool):
    """Spatial softmax (Levine et al., arXiv 1504.00702; Finn et al., arXiv 1509.06113): heat over all places makes one
    mean place of every channel, and a linear map reads these points.

    What it says linearly is where things are, and how they are turned by where their ends are, even before it is
    trained. Heat is what two 3 x 3 convolutions of the picture see at a place, one every 4 pixels, plus what the
    patch's token says.
    """

    reads_frames = True

    def __init__(self, sizes: PoolSizes) -> None:
        super().__init__()
        self.grid = sizes.grid
        self.fine = Halvings(FINE_CHANNELS)
        self.heat = nn.Linear(FINE_CHANNELS[-1], sizes.channels, bias=False)
        self.coarse = nn.Linear(sizes.width, sizes.channels, bias=False)
        self.out = nn.Linear(2 * sizes.channels, sizes.out)

    def init_weights(self) -> None:
        """Points on few places, all of them found by the convolutions; tokens have a say once they learn to."""
        self.fine.init_weights()
        nn.init.normal_(self.heat.weight, std=SHARPNESS * self.heat.in_features**-0.5)
        nn.init.zeros_(self.coarse.weight)
        nn.init.normal_(self.out.weight, std=SPREAD * self.out.in_features**-0.5)

    def forward(self, tokens_BND: Tensor, pictures_BCHW: Tensor | None = None) -> Tensor:
        assert pictures_BCHW is not None
        return self.out(self.points(tokens_BND, pictures_BCHW).flatten(1))

    def points(self, tokens_BND: Tensor, pictures_BCHW: Tensor) -> Tensor:
        """Mean places [B, K, 2] of the channels' heat: down and to the right, -1 to 1."""
        fine = self.fine(pictures_BCHW)
        height, width = fine.shape[2:]
        rows, columns = self.grid
        seen = self.heat.weight @ fine.flatten(2)
        said = (self.coarse.weight @ tokens_BND.transpose(1, 2)).unflatten(2, (rows, 1, columns, 1))
        heat = seen.unflatten(2, (rows, height // rows, columns, width // columns)) + said
        down, right = (torch.linspace(-1, 1, side, device=heat.device) for side in (height, width))
        with torch.autocast(heat.device.type, enabled=False):  # places need more digits than bfloat16 has
            return heat.float().flatten(2).softmax(-1) @ torch.cartesian_prod(down, right)


class PrincipalPool(Pool):
    """Fitted: the first principal components of all layer-normed tokens side by side. Distances between embeddings are
    then those between tokens, but for what the components leave out. No gradient trains it."""

    def __init__(self, sizes: PoolSizes) -> None:
        super().__init__()
        self.out = nn.Linear(sizes.num_patches * sizes.width, sizes.out)
        self.requires_grad_(False)

    def forward(self, tokens_BND: Tensor, pictures_BCHW: Tensor | None = None) -> Tensor:
        return self.out(normed_tokens(tokens_BND))

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
