"""What dynamics predict of a frame: its pooled embedding or its patch tokens; and the scene that a path starts in.

One class a choice: how frames are read, on which scale the predictor sees them, and which views a planner gets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from planners.protocol import Lazy
from world_model.encoder import VideoEncoder
from world_model.nn.pools import normalise_tokens

Space = Literal["pooled", "tokens"]


class Features(nn.Module):
    """Features [B, T, N, F] of frames; N = rows x columns of `grid`, F = `dim`.

    spaces: the kind of values that `read` gives under each name. scene_shape: numbers of a token of the scene, and rows
    and columns of these tokens; None where there is none.
    """

    mean: Tensor
    scale: Tensor
    spaces: Mapping[str, str]
    view_names: tuple[str, ...]
    scene_shape: tuple[int, tuple[int, int]] | None = None

    def __init__(self, dim: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.dim, self.grid = dim, grid
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(()))

    @property
    def num_tokens(self) -> int:
        """Tokens of a frame."""
        return math.prod(self.grid)

    def read(self, encoder: VideoEncoder, frames_BTHWC: Tensor) -> dict[str, Tensor]:
        """Raw `features` of frames in 0..255, and where there is one, the raw `scene` [B, T, M, D] of each frame."""
        raise NotImplementedError

    def normalise(self, features: Tensor) -> Tensor:
        """Raw features -> the predictor's scale: centred, one common scale, so that distances keep their order."""
        return (features - self.mean) / self.scale

    def set_statistics(self, raw: Callable[[str], Tensor]) -> None:
        """Mean and common standard deviation of features. raw(name): values [frames, N, F] of the train split, by the
        names that `read` gives."""
        flat = raw("features").flatten(0, 1)
        self.mean.copy_(flat.mean(0))
        self.scale.copy_((flat - flat.mean(0)).square().mean().sqrt().clamp_min(1e-6))

    def select_scene(self, inputs: Mapping[str, Tensor], frame: int) -> Tensor | None:
        """The scene [B, M, D] at a frame, on the predictor's scale, of what `read` gave; None where there is none."""
        return None

    def pool(self, encoder: VideoEncoder, features: Tensor) -> Tensor:
        """One embedding [..., D] of normalised features [..., N, F]."""
        raise NotImplementedError

    def make_views(self, encoder: VideoEncoder, features: Tensor) -> dict[str, Lazy]:
        """Views of normalised features [..., N, F]."""
        raise NotImplementedError


class PooledFeatures(Features):
    """The pooled embedding, one token a frame."""

    spaces: Mapping[str, str] = {"features": "pooled"}
    view_names = ("pooled",)

    def __init__(self, encoder: VideoEncoder) -> None:
        if encoder.pool is None:
            raise ValueError(
                "dynamics.space=pooled needs an encoder with a pool head; pretrain with objective=future "
                "or set dynamics.space=tokens"
            )
        super().__init__(encoder.pool.out.out_features, (1, 1))

    def read(self, encoder: VideoEncoder, frames_BTHWC: Tensor) -> dict[str, Tensor]:
        return {"features": encoder.embed_frames(frames_BTHWC).unsqueeze(2)}

    def pool(self, encoder: VideoEncoder, features: Tensor) -> Tensor:
        return features.squeeze(-2)

    def make_views(self, encoder: VideoEncoder, features: Tensor) -> dict[str, Lazy]:
        return {"pooled": partial(self.pool, encoder, features)}


class PooledInTokens(PooledFeatures):
    """The pooled embedding, beside the layer-normed patch tokens of the frame that a path starts at."""

    spaces = {"features": "pooled", "scene": "tokens"}

    def __init__(self, encoder: VideoEncoder) -> None:
        super().__init__(encoder)
        self.scene_shape = encoder.config.width, encoder.config.grid

    def read(self, encoder: VideoEncoder, frames_BTHWC: Tensor) -> dict[str, Tensor]:
        tokens = encoder.encode_frames(frames_BTHWC)
        return {
            "features": encoder.embed_frames(frames_BTHWC, tokens).unsqueeze(2),
            "scene": normalise_tokens(tokens),
        }

    def select_scene(self, inputs: Mapping[str, Tensor], frame: int) -> Tensor:
        return inputs["scene"].float()[:, frame]


class PooledInPoints(PooledFeatures):
    """The pooled embedding, beside all inputs of the pool's last linear map (its keypoints), as one token."""

    scene_mean: Tensor
    scene_scale: Tensor
    spaces = {"features": "pooled", "scene": "points"}

    def __init__(self, encoder: VideoEncoder) -> None:
        super().__init__(encoder)
        assert encoder.pool is not None
        count = encoder.pool.out.in_features
        self.scene_shape = count, (1, 1)
        self.register_buffer("scene_mean", torch.zeros(count))
        self.register_buffer("scene_scale", torch.ones(count))

    def read(self, encoder: VideoEncoder, frames_BTHWC: Tensor) -> dict[str, Tensor]:
        assert encoder.pool is not None
        points = encoder.read_pool_inputs(frames_BTHWC)
        return {"features": encoder.pool.out(points).unsqueeze(2), "scene": points.unsqueeze(2)}

    def set_statistics(self, raw: Callable[[str], Tensor]) -> None:
        super().set_statistics(raw)
        flat = raw("scene").flatten(0, 1)
        self.scene_mean.copy_(flat.mean(0))
        self.scene_scale.copy_(flat.std(0).clamp_min(1e-6))

    def select_scene(self, inputs: Mapping[str, Tensor], frame: int) -> Tensor:
        return ((inputs["scene"].float() - self.scene_mean) / self.scene_scale)[:, frame]


class TokenFeatures(Features):
    """All layer-normed patch tokens of a frame (V-JEPA 2-AC)."""

    spaces: Mapping[str, str] = {"features": "tokens"}
    view_names = ("tokens", "pooled")

    def __init__(self, encoder: VideoEncoder) -> None:
        super().__init__(encoder.config.width, encoder.config.grid)

    def read(self, encoder: VideoEncoder, frames_BTHWC: Tensor) -> dict[str, Tensor]:
        return {"features": normalise_tokens(encoder.encode_frames(frames_BTHWC))}

    def pool(self, encoder: VideoEncoder, features: Tensor) -> Tensor:
        tokens = features * self.scale + self.mean
        return encoder.pool_tokens(tokens.flatten(0, -3).unsqueeze(0))[0].unflatten(0, tokens.shape[:-2])

    def make_views(self, encoder: VideoEncoder, features: Tensor) -> dict[str, Lazy]:
        return {"tokens": features, "pooled": partial(self.pool, encoder, features)}


def make_features(space: Space, scene: bool, encoder: VideoEncoder) -> Features:
    """The features of a choice of space, with or without the scene. ValueError where the encoder does not have them."""
    if space == "tokens":
        return TokenFeatures(encoder)
    if not scene:
        return PooledFeatures(encoder)
    reads_tokens = encoder.pool is None or encoder.pool.input_kind == "tokens"
    return PooledInTokens(encoder) if reads_tokens else PooledInPoints(encoder)
