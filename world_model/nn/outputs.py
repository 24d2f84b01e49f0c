"""What predictions of dynamics are trained to match, and what a planner sees of them: features, or pixels."""

from __future__ import annotations

import math
from functools import partial

from torch import Tensor, nn

from planners.protocol import Lazy
from world_model.encoder import VideoEncoder
from world_model.nn.decoder import PixelHead, PixelHeadConfig
from world_model.nn.features import Features


class FeatureOutput(nn.Module):
    """Predictions are features."""

    reads_pixels = False  # whether training batches need `pixels`

    def __init__(self, features: Features) -> None:
        super().__init__()
        self.view_names = features.view_names

    def step_bytes(self, encoder: VideoEncoder) -> int:
        """Memory of one imagined step of one candidate beside the predictor's own."""
        return 0

    def decode(self, path: Tensor) -> Tensor:
        """Normalised features -> what is compared with `target`."""
        return path

    def make_target(self, encoder: VideoEncoder, features: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """What predictions of a batch should be, at all of its frames."""
        return features

    def make_goal_views(self, encoder: VideoEncoder, features: Features, frames_BHWC: Tensor) -> dict[str, Lazy]:
        """Views of goal images in 0..255."""
        read = features.read(encoder, frames_BHWC[:, None])["features"]
        return features.make_views(encoder, features.normalise(read)[:, 0])

    def make_views(self, encoder: VideoEncoder, features: Features, path: Tensor) -> dict[str, Lazy]:
        """Views of an imagined path of normalised features."""
        return features.make_views(encoder, path)


class PixelOutput(nn.Module):
    """Predictions are pixels, by a light head on the predicted features (the pixel baseline)."""

    reads_pixels = True
    view_names = ("pixels", "pooled")

    def __init__(self, features: Features, encoder: VideoEncoder, config: PixelHeadConfig) -> None:
        super().__init__()
        self.head = PixelHead(features.dim, encoder.config, features.num_tokens == 1, config)

    def step_bytes(self, encoder: VideoEncoder) -> int:
        """Memory of one imagined step of one candidate beside the predictor's own."""
        return 16 * 3 * math.prod(encoder.config.image_px)

    def decode(self, path: Tensor) -> Tensor:
        """Normalised features -> normalised pixels [..., H, W, C]."""
        return self.head(path)

    def make_target(self, encoder: VideoEncoder, features: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Normalised pixels [B, T, H, W, C] of a batch's frames."""
        return encoder.normalise(batch["pixels"]).movedim(1, -1)

    def make_goal_views(self, encoder: VideoEncoder, features: Features, frames_BHWC: Tensor) -> dict[str, Lazy]:
        """Views of goal images in 0..255: themselves, and the frozen encoder's embedding of them."""
        return self._make_views(encoder, frames_BHWC.float())

    def make_views(self, encoder: VideoEncoder, features: Features, path: Tensor) -> dict[str, Lazy]:
        """The same of predicted frames, clamped to 0..255."""
        return self._make_views(encoder, (self.head(path) * encoder.pixel_std + encoder.pixel_mean).clamp(0, 255))

    def _make_views(self, encoder: VideoEncoder, frames: Tensor) -> dict[str, Lazy]:
        return {"pixels": frames, "pooled": partial(embed_flat, encoder, frames)}


def embed_flat(encoder: VideoEncoder, frames: Tensor) -> Tensor:
    """The encoder's pooled embedding [..., D] of frames [..., H, W, C] in 0..255."""
    flat = frames.flatten(0, -4).unsqueeze(0)
    return encoder.embed_frames(flat)[0].unflatten(0, frames.shape[:-3])


Output = FeatureOutput | PixelOutput


def make_output(pixels: PixelHeadConfig | None, features: Features, encoder: VideoEncoder) -> Output:
    """Pixels by a head of these sizes; None: features."""
    return FeatureOutput(features) if pixels is None else PixelOutput(features, encoder, pixels)
