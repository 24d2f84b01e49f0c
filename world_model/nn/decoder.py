"""The light pixel head of the pixel baseline: features of a frame -> its normalised pixels.

Linear maps around one GELU mirror the encoder's pool head and patch embedding, so that a pixel target adds little
compute and no depth. Of patch tokens one linear map will do, as in VideoMAE's decoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch.nn.functional as F
from annotated_types import Ge
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
        (height, width), patch = self.encoder.grid, self.encoder.patch_px
        axes = {"h": height, "w": width, "p": patch, "q": patch}
        hidden = hidden if self.linear else F.gelu(hidden)
        return rearrange(self.paint(hidden), "... (h w) (p q c) -> ... (h p) (w q) c", **axes)
