"""Targets of predictions, and what a planner sees of them: features, or pixels by a light head (the pixel baseline)."""

from __future__ import annotations

import math
from functools import partial

from torch import Tensor, nn

from planners.protocol import Lazy
from world_model.encoder import VideoEncoder
from world_model.nn.decoder import PixelHead, PixelHeadConfig
from world_model.nn.features import Features


class Output(nn.Module):
    """Output of dynamics: predicted features themselves, or pixels if there is a `head`."""

    def __init__(self, pixels: PixelHeadConfig | None, features: Features, encoder: VideoEncoder) -> None:
        super().__init__()
        self.reads_pixels = pixels is not None  # whether training batches need `pixels`
        self.view_names = features.view_names if pixels is None else ("pixels", "pooled")
        self.head = (
            None if pixels is None else PixelHead(features.dim, encoder.config, features.num_tokens == 1, pixels)
        )

    def step_bytes(self, encoder: VideoEncoder) -> int:
        """Memory of one imagined step of one candidate beside the predictor's own, bytes."""
        return 0 if self.head is None else 16 * 3 * math.prod(encoder.config.image_px)

    def decode(self, path: Tensor) -> Tensor:
        """Normalised features -> values that are compared with the target: themselves, or pixels [..., H, W, C]."""
        return path if self.head is None else self.head(path)

    def make_target(self, encoder: VideoEncoder, features: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Targets at all frames of a batch: its features, or normalised pixels [B, T, H, W, C]."""
        return features if self.head is None else encoder.normalise(batch["pixels"]).movedim(1, -1)

    def make_goal_views(self, encoder: VideoEncoder, features: Features, frames_BHWC: Tensor) -> dict[str, Lazy]:
        """Views of goal frames in 0..255."""
        if self.head is not None:
            return self._make_pixel_views(encoder, frames_BHWC.float())
        raw = features.read(encoder, frames_BHWC[:, None])["features"]
        return features.make_views(encoder, features.normalise(raw)[:, 0])

    def make_views(self, encoder: VideoEncoder, features: Features, path: Tensor) -> dict[str, Lazy]:
        """Views of an imagined path of normalised features; pixels are clamped to 0..255."""
        if self.head is None:
            return features.make_views(encoder, path)
        pixels = self.head(path) * encoder.pixel_std + encoder.pixel_mean
        return self._make_pixel_views(encoder, pixels.clamp(0, 255))

    def _make_pixel_views(self, encoder: VideoEncoder, frames: Tensor) -> dict[str, Lazy]:
        return {"pixels": frames, "pooled": partial(embed_flat, encoder, frames)}


def embed_flat(encoder: VideoEncoder, frames: Tensor) -> Tensor:
    """The encoder's pooled embedding [..., D] of frames [..., H, W, C] in 0..255."""
    flat = frames.flatten(0, -4).unsqueeze(0)
    return encoder.embed_frames(flat)[0].unflatten(0, frames.shape[:-3])
