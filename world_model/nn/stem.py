"""Stems, from pixels to tokens: a linear map of each patch, or overlapping 3 x 3 convolutions.

A linear map learns a small object separately for every position within a patch; convolutions share weights. The
convolutional stem ("Early convolutions help transformers see better", Xiao et al., arXiv 2106.14881) has convolutions
of stride 2 that double the channels, each normed, and a last linear map. Neighbouring patches overlap, so it suits
objectives that hide full frames, not patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from world_model.nn.layers import gather_tokens


class PatchEmbed(nn.Module):
    """Tubelets of tubelet x patch x patch pixels -> tokens, in raster order (time, height, width)."""

    def __init__(self, patch_px: int, tubelet: int, width: int) -> None:
        super().__init__()
        size = (tubelet, patch_px, patch_px)
        self.proj = nn.Conv3d(3, width, kernel_size=size, stride=size)

    def init_weights(self) -> None:
        """As the transformer's own linear maps."""

    def forward(self, clip_BCTHW: Tensor, indices_BM: Tensor | None = None) -> Tensor:
        """Tokens [B, N, D], of all tubelets or only of those listed by raster index."""
        # A stride-equal convolution is a linear map of the cut-out tubelet, which CPUs compute several times faster.
        t, p, q = self.proj.kernel_size
        cut = rearrange(clip_BCTHW, "b c (T t) (H p) (W q) -> b (T H W) (c t p q)", t=t, p=p, q=q)
        cut = cut if indices_BM is None else gather_tokens(cut, indices_BM)
        return F.linear(cut, self.proj.weight.flatten(1), self.proj.bias)

    def embed_frame(self, frame_BCHW: Tensor) -> Tensor:
        """Tokens of a frame repeated to one tubelet, without repeating it: the kernel is summed over time."""
        _, p, q = self.proj.kernel_size
        cut = rearrange(frame_BCHW, "b c (H p) (W q) -> b (H W) (c p q)", p=p, q=q)
        return F.linear(cut, self.proj.weight.sum(2).flatten(1), self.proj.bias)


class Halvings(nn.Module):
    """3 x 3 convolutions of stride 2 (the last: last_stride), GroupNorm and GELU: [B, 3, H, W] -> [B, C, h, w].

    channels: of every convolution's output.
    """

    def __init__(self, channels: Sequence[int], last_stride: int = 2) -> None:
        super().__init__()
        strides = (2,) * (len(channels) - 1) + (last_stride,)
        sizes = zip((3, *channels[:-1]), channels, strides, strict=True)
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, stride, padding=1) for a, b, stride in sizes)
        self.norms = nn.ModuleList(nn.GroupNorm(1, b) for b in channels)

    def init_weights(self) -> None:
        """torch's default, by fan in: the transformer's 0.02 would give far smaller outputs than a linear patch."""
        for convolution in self.convolutions:
            assert isinstance(convolution, nn.Conv2d)
            convolution.reset_parameters()

    def forward(self, pictures_BCHW: Tensor) -> Tensor:
        pictures_BCHW = pictures_BCHW.contiguous(memory_format=torch.channels_last)  # faster on CPUs
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            pictures_BCHW = F.gelu(norm(convolution(pictures_BCHW)))
        return pictures_BCHW


class ConvStem(nn.Module):
    """log2(patch) halving convolutions, then all frames of a tubelet side by side -> one token. Interface: PatchEmbed.

    patch_px: a power of two (>= 2).
    """

    def __init__(self, patch_px: int, tubelet: int, width: int) -> None:
        super().__init__()
        depth = patch_px.bit_length() - 1
        channels = [max(1, width >> max(0, depth - 2 - number)) for number in range(depth)]
        self.halvings = Halvings(channels)
        self.proj = nn.Linear(tubelet * channels[-1], width)
        self.tubelet = tubelet

    def init_weights(self) -> None:
        """See Halvings."""
        self.halvings.init_weights()
        self.proj.reset_parameters()

    def forward(self, clip_BCTHW: Tensor, indices_BM: Tensor | None = None) -> Tensor:
        """Tokens [B, N, D] in raster order (time, height, width), of all tubelets or only of those listed."""
        maps = self.halvings(rearrange(clip_BCTHW, "b c t h w -> (b t) c h w"))
        steps = clip_BCTHW.shape[2] // self.tubelet
        cut = rearrange(maps, "(b T t) c h w -> b (T h w) (t c)", T=steps, t=self.tubelet)
        return self.proj(cut if indices_BM is None else gather_tokens(cut, indices_BM))

    def embed_frame(self, frame_BCHW: Tensor) -> Tensor:
        """Tokens of a frame repeated to one tubelet, which passes the convolutions once."""
        weight = rearrange(self.proj.weight, "d (t c) -> d t c", t=self.tubelet).sum(1)
        return F.linear(rearrange(self.halvings(frame_BCHW), "b c h w -> b (h w) c"), weight, self.proj.bias)


@dataclass(frozen=True)
class LinearStemConfig:
    """A linear map of each tubelet."""

    kind: Literal["linear"] = "linear"
    """stem: linear (a linear map of each patch) or conv (convolutions, which learn small objects sooner)"""
    images: bool = False
    """patch embedding of single frames, and learned embeddings of images and videos (V-JEPA 2.1); false: single frames
    are repeated to one tubelet"""

    def check(self, patch_px: int) -> None:
        """A patch may have any size."""

    def make(self, patch_px: int, tubelet: int, width: int) -> PatchEmbed:
        """The stem of these sizes."""
        return PatchEmbed(patch_px, tubelet, width)


@dataclass(frozen=True)
class ConvStemConfig:
    """Convolutions that halve the picture until a patch is one pixel."""

    kind: Literal["conv"] = "conv"
    """stem: linear (a linear map of each patch) or conv (convolutions, which learn small objects sooner)"""

    images: ClassVar[bool] = False

    def check(self, patch_px: int) -> None:
        """Raise ValueError for a patch that cannot be halved to one pixel."""
        if patch_px < 2 or patch_px & (patch_px - 1):
            raise ValueError(f"encoder.stem.kind=conv halves a patch: patch_px={patch_px} is not a power of two")

    def make(self, patch_px: int, tubelet: int, width: int) -> ConvStem:
        """The stem of these sizes."""
        return ConvStem(patch_px, tubelet, width)


StemConfig = LinearStemConfig | ConvStemConfig
