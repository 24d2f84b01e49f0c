"""From features of a frame to its normalised pixels: the light head of the pixel baseline, and decoders that are fitted
to a finished model, to look at what it imagines or to compare pixels.

Linear maps around one GELU mirror the encoder's pool head and patch embedding, so that a pixel target adds little
compute and no depth. Of patch tokens one linear map will do, as in VideoMAE's decoder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from einops import rearrange
from torch import Tensor, nn

from world_model.encoder import EncoderConfig


@dataclass(frozen=True)
class PixelHeadConfig:
    """Sizes of a pixel head."""

    channels: Annotated[int, Ge(1)] | None = 32
    """channels of a patch before its pixels; null: pixels by one linear map of each token (tokens alone)"""
    hidden: Annotated[int, Ge(1)] = 512
    """width of the hidden layer between one embedding and all patches"""


@dataclass(frozen=True)
class DecoderConfig:
    """A decoder that is fitted after training: no gradient reaches the model."""

    channels: Annotated[int, Ge(1)] = 64
    """channels of a patch before its pixels"""
    hidden: Annotated[int, Ge(1)] = 512
    """width of the hidden layer between one embedding and all patches"""
    steps: Annotated[int, Ge(1)] = 2000
    """optimiser steps"""
    batch_size: Annotated[int, Ge(1)] = 64
    """frames per step"""
    lr: Annotated[float, Gt(0)] = 0.002
    """initial learning rate"""


def join_patches(patches: Tensor, sizes: EncoderConfig) -> Tensor:
    """Pixels [..., H, W, C] of patches [..., N, 3 p p], one a token."""
    (height, width), patch = sizes.grid, sizes.patch_px
    axes = {"h": height, "w": width, "p": patch, "q": patch}
    return rearrange(patches, "... (h w) (p q c) -> ... (h p) (w q) c", **axes)


def split_patches(pixels: Tensor, sizes: EncoderConfig) -> Tensor:
    """Patches [..., N, 3 p p] of pixels [..., H, W, C]."""
    axes = {"p": sizes.patch_px, "q": sizes.patch_px}
    return rearrange(pixels, "... (h p) (w q) c -> ... (h w) (p q c)", **axes)


class PatchJoin(nn.Module):
    """`join_patches` as a head without weights: of a flow that draws the patches themselves."""

    def __init__(self, sizes: EncoderConfig) -> None:
        super().__init__()
        self.sizes = sizes

    def forward(self, patches: Tensor) -> Tensor:
        """Pixels in the units of the patches."""
        return join_patches(patches, self.sizes)


class PixelHead(nn.Module):
    """Features [..., N, F] of frames -> normalised pixels [..., H, W, C]; N is 1 (pooled) or one token a patch."""

    def __init__(self, feature_dim: int, encoder: EncoderConfig, pooled: bool, config: PixelHeadConfig) -> None:
        super().__init__()
        self.encoder, self.pooled = encoder, pooled
        channels, hidden = config.channels, config.hidden
        assert channels is not None or not pooled, "one embedding has no token for each patch"
        self.expand: nn.Module
        if channels is None:
            self.expand = nn.Identity()
        elif pooled:
            unpool = nn.Linear(hidden, encoder.num_patches * channels)
            self.expand = nn.Sequential(nn.Linear(feature_dim, hidden), nn.GELU(), unpool)
        else:
            self.expand = nn.Linear(feature_dim, channels)
        self.linear = channels is None
        self.paint = nn.Linear(channels or feature_dim, 3 * encoder.patch_px**2)

    def forward(self, features: Tensor) -> Tensor:
        """Pixels in the encoder's normalised units."""
        hidden = self.expand(features)
        if self.pooled:
            hidden = hidden.squeeze(-2).unflatten(-1, (self.encoder.num_patches, -1))
        hidden = hidden if self.linear else F.gelu(hidden)
        return join_patches(self.paint(hidden), self.encoder)


# (generator, frames) -> normalised features [F, N, D] of frames, and their normalised pixels [F, H, W, C]
FrameSource = Callable[[torch.Generator, int], tuple[Tensor, Tensor]]


def fit_decoder(head: PixelHead, frames: FrameSource, config: DecoderConfig, seed: int) -> None:
    """Train a decoder by AdamW with a linear decay, on squared error."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(head.parameters(), lr=config.lr)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, config.steps)
    for _ in range(config.steps):
        features, pixels = frames(generator, config.batch_size)
        loss = F.mse_loss(head(features), pixels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def measure_decoder(head: PixelHead, features_FND: Tensor, pixels_FHWC: Tensor) -> float:
    """Share of the variance of these pixels, over frames, that the decoder explains."""
    error = (head(features_FND) - pixels_FHWC).square().mean()
    return float(1 - error / pixels_FHWC.var(0).mean().clamp_min(1e-12))
