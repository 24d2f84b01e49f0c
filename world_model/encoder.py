"""The video encoder: a clip or a single frame -> tokens, and one pooled embedding a frame.

A vision transformer over tubelets with 3-D rotary positions (V-JEPA 2, arXiv 2506.09985). A frame that is observed or
is a goal is encoded alone, duplicated to one tubelet, so that contexts and goals live in one space. The pooled
embedding (`PoolHead`) is where objectives with `space=pooled` predict and where the planner then measures distance.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from world_model.layers import NORM_EPS, Blocks, Rotary, grid_positions, init_transformer, rotary


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of a VideoEncoder. image_px is the frame's height and width; pooled_dim 0 means no pool head."""

    image_px: tuple[int, int] = (64, 64)
    patch_px: int = 8
    tubelet: int = 2
    width: int = 128
    depth: int = 4
    heads: int = 4
    mlp_ratio: float = 4.0
    pooled_dim: int = 32
    pool_channels: int = 16
    pool_hidden: int = 128

    def __post_init__(self) -> None:
        if any(side % self.patch_px for side in self.image_px):
            raise ValueError(f"patch_px={self.patch_px} does not divide the frame size {self.image_px}")

    @property
    def grid(self) -> tuple[int, int]:
        """Patches in a column and in a row."""
        return self.image_px[0] // self.patch_px, self.image_px[1] // self.patch_px

    @property
    def num_patches(self) -> int:
        return self.grid[0] * self.grid[1]


class PatchEmbed(nn.Module):
    """Tubelets of tubelet x patch x patch pixels -> tokens, in raster order (time, height, width)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        size = (config.tubelet, config.patch_px, config.patch_px)
        self.proj = nn.Conv3d(3, config.width, kernel_size=size, stride=size)

    def forward(self, clip_BCTHW: Tensor) -> Tensor:
        # A stride-equal convolution is a linear map of the cut-out tubelet, which CPUs compute several times faster.
        t, p, q = self.proj.kernel_size
        cut = rearrange(clip_BCTHW, "b c (T t) (H p) (W q) -> b (T H W) (c t p q)", t=t, p=p, q=q)
        return F.linear(cut, self.proj.weight.flatten(1), self.proj.bias)

    def frame(self, frame_BCHW: Tensor) -> Tensor:
        """The same for a frame repeated to one tubelet, without repeating it: the kernel is summed over time."""
        _, p, q = self.proj.kernel_size
        cut = rearrange(frame_BCHW, "b c (H p) (W q) -> b (H W) (c p q)", p=p, q=q)
        return F.linear(cut, self.proj.weight.sum(2).flatten(1), self.proj.bias)


class PoolHead(nn.Module):
    """Tokens of one frame [B, N, D] -> one embedding [B, pooled_dim], aware of place.

    Every token is reduced to a few channels, then a hidden layer reads all of them with a weight for each place: where
    things are is what a controller needs, and a mean over tokens would hide it.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.reduce = nn.Linear(config.width, config.pool_channels)
        self.hidden = nn.Linear(config.num_patches * config.pool_channels, config.pool_hidden)
        self.out = nn.Linear(config.pool_hidden, config.pooled_dim)

    def init_weights(self) -> None:
        """Normal, std 1 / sqrt(fan in): embeddings of unit size, where the transformer's 0.02 would start them so
        small that a variance term has to grow them first."""
        for layer in (self.reduce, self.hidden, self.out):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        return self.out(F.gelu(self.hidden(F.gelu(self.reduce(tokens_BND)).flatten(1))))

    @torch.no_grad()
    def fold(self, mean_D: Tensor, matrix_DD: Tensor) -> None:
        """Follow the last linear map by x -> (x - mean) @ matrix, for good."""
        weight, bias = self.out.weight.cpu().double(), self.out.bias.cpu().double()
        matrix = matrix_DD.cpu().double()
        self.out.weight.copy_(matrix.T @ weight)
        self.out.bias.copy_((bias - mean_D.cpu().double()) @ matrix)


class VideoEncoder(nn.Module):
    """clip [B, C, T, H, W] -> tokens [B, N, D]; frames uint8 [B, T, H, W, C] -> tokens and pooled embeddings."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config)
        self.blocks = Blocks(config.depth, config.width, config.heads, config.mlp_ratio)
        self.norm = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.pool = PoolHead(config) if config.pooled_dim else None
        self.register_buffer("pixel_mean", torch.full((3,), 127.5))
        self.register_buffer("pixel_std", torch.full((3,), 127.5))
        init_transformer(self, self.blocks)
        if self.pool is not None:
            self.pool.init_weights()

    def set_pixel_statistics(self, mean_C: Tensor, std_C: Tensor) -> None:
        """Channel means and standard deviations of the train split, in 0..255."""
        self.pixel_mean.copy_(mean_C)
        self.pixel_std.copy_(std_C.clamp_min(1.0))

    def normalise(self, frames_BTHWC: Tensor) -> Tensor:
        """uint8 (or 0..255 float) frames [B, T, H, W, C] -> normalised clip [B, C, T, H, W]."""
        frames = (frames_BTHWC.to(self.pixel_mean.dtype) - self.pixel_mean) / self.pixel_std
        return rearrange(frames, "b t h w c -> b c t h w")

    def positions(self, steps: int, device: torch.device) -> Rotary:
        """Rotary table of a full clip of `steps` tubelets."""
        height, width = self.config.grid
        return rotary(grid_positions(steps, height, width, device), self.config.width // self.config.heads)

    def forward(self, clip_BCTHW: Tensor, indices_BM: Tensor | None = None) -> Tensor:
        """Tokens of a normalised clip, of all tubelets or only of those listed by raster index."""
        tokens = self.patch_embed(clip_BCTHW)
        steps = clip_BCTHW.shape[2] // self.config.tubelet
        if indices_BM is None:
            return self.transform(tokens, self.positions(steps, tokens.device))
        grid = grid_positions(steps, *self.config.grid, tokens.device)
        tokens = tokens.gather(1, indices_BM[..., None].expand(-1, -1, tokens.shape[-1]))
        return self.transform(tokens, rotary(grid[indices_BM], self.config.width // self.config.heads))

    def transform(self, tokens_BND: Tensor, positions: Rotary) -> Tensor:
        """The transformer proper, with the final norm."""
        for block in self.blocks:
            tokens_BND = block(tokens_BND, positions)
        return self.norm(tokens_BND)

    def encode_frames(self, frames_BTHWC: Tensor) -> Tensor:
        """Tokens [B, T, N, D] of frames in 0..255, each encoded alone as one tubelet."""
        clip = rearrange(self.normalise(frames_BTHWC), "b c t h w -> (b t) c h w")
        tokens = self.transform(self.patch_embed.frame(clip), self.positions(1, clip.device))
        return rearrange(tokens, "(b t) n d -> b t n d", t=frames_BTHWC.shape[1])

    def pooled(self, tokens_BTND: Tensor) -> Tensor:
        """Pooled embeddings [B, T, D]: the pool head's, or the mean over tokens where there is none."""
        if self.pool is None:
            return tokens_BTND.mean(2)
        return rearrange(self.pool(tokens_BTND.flatten(0, 1)), "(b t) d -> b t d", t=tokens_BTND.shape[1])
