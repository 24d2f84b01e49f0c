"""Features of a frame that dynamics predict, the scene that a path starts in, and targets and views of predictions.

Features are the pooled embedding or patch tokens. Targets are features, or pixels by a light head (the pixel baseline).
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
from world_model.nn.decoder import DecoderConfig, PatchJoin, PixelHead, PixelHeadConfig, split_patches
from world_model.nn.pools import normalise_tokens

Space = Literal["pooled", "tokens"]


class Features(nn.Module):
    """Features [B, T, N, F] of frames; N = rows x columns of `grid`, F = `dim`.

    space: pooled (one embedding, N = 1) or tokens (layer-normed patch tokens, V-JEPA 2-AC). spaces: kind of the values
    that `read` returns under each name. scene_shape: size of a token of the scene, and grid of these tokens; None: no
    scene. The scene is the layer-normed patch tokens, or for a pool of pictures the inputs of its last linear map (its
    keypoints) as one token. standardised: whether the predictor's scale is that of the data, or that of `read`.
    """

    mean: Tensor
    scale: Tensor
    scene_mean: Tensor
    scene_scale: Tensor

    def __init__(self, space: Space, scene: bool, encoder: VideoEncoder, standardised: bool = True) -> None:
        super().__init__()
        self.standardised = standardised
        pool, sizes = encoder.pool, encoder.config
        self.space = space
        self.spaces: dict[str, str] = {"features": space}
        self.view_names: tuple[str, ...] = ("tokens", "pooled") if space == "tokens" else ("pooled",)
        self.dim, self.grid = (sizes.width, sizes.grid) if space == "tokens" else (encoder.pooled_dim, (1, 1))
        self.register_buffer("mean", torch.zeros(self.dim))
        self.register_buffer("scale", torch.ones(()))
        self.scene_shape: tuple[int, tuple[int, int]] | None = None
        if space == "tokens":
            return
        if pool is None:
            raise ValueError(
                "dynamics.space=pooled needs an encoder with a pool head; pretrain with objective=future "
                "or set dynamics.space=tokens"
            )
        if scene and pool.input_kind == "tokens":
            self.spaces["scene"], self.scene_shape = "tokens", (sizes.width, sizes.grid)
        elif scene:
            self.spaces["scene"], self.scene_shape = "points", (pool.out.in_features, (1, 1))
            self.register_buffer("scene_mean", torch.zeros(pool.out.in_features))
            self.register_buffer("scene_scale", torch.ones(pool.out.in_features))

    @property
    def num_tokens(self) -> int:
        """Tokens of a frame."""
        return math.prod(self.grid)

    def read(self, encoder: VideoEncoder, frames_BTHWC: Tensor) -> dict[str, Tensor]:
        """Raw `features` of frames in 0..255, and the raw `scene` [B, T, M, D] of each frame, if there is one."""
        if self.space == "tokens":
            return {"features": normalise_tokens(encoder.encode_frames(frames_BTHWC))}
        if self.scene_shape is None:
            return {"features": encoder.embed_frames(frames_BTHWC).unsqueeze(2)}
        if self.spaces["scene"] == "tokens":
            tokens = encoder.encode_frames(frames_BTHWC)
            pooled = encoder.embed_frames(frames_BTHWC, tokens)
            return {"features": pooled.unsqueeze(2), "scene": normalise_tokens(tokens)}
        assert encoder.pool is not None
        points = encoder.read_pool_inputs(frames_BTHWC)
        return {"features": encoder.pool.out(points).unsqueeze(2), "scene": points.unsqueeze(2)}

    def normalise(self, features: Tensor) -> Tensor:
        """Raw features -> the predictor's scale: centred, with one common scale, so that distances keep their order.

        The scale is the deviation within episodes: what differs between episodes alone (a floor's colour) never moves,
        and would otherwise leave little of the unit for what does.
        """
        return (features - self.mean) / self.scale

    def set_statistics(self, read_values: Callable[[str], Tensor]) -> None:
        """Statistics of the train split: `read_values(name)` returns frames of episodes [E, T, N, F] by the names of
        `read`."""
        if not self.standardised:
            return
        values = read_values("features")
        self.mean.copy_(values.flatten(0, 2).mean(0))
        self.scale.copy_((values - values.mean(1, keepdim=True)).square().mean().sqrt().clamp_min(1e-6))
        if self.spaces.get("scene") == "points":
            flat = read_values("scene").flatten(0, 2)
            self.scene_mean.copy_(flat.mean(0))
            self.scene_scale.copy_(flat.std(0).clamp_min(1e-6))

    def select_scene(self, inputs: Mapping[str, Tensor], frame: int) -> Tensor | None:
        """The scene [B, M, D] at a frame on the predictor's scale, from the values of `read`; None without a scene."""
        if self.scene_shape is None:
            return None
        scene = inputs["scene"].float()[:, frame]
        return scene if self.spaces["scene"] == "tokens" else (scene - self.scene_mean) / self.scene_scale

    def pool(self, encoder: VideoEncoder, features: Tensor) -> Tensor:
        """One embedding [..., D] of normalised features [..., N, F]."""
        if self.space == "pooled":
            return features.squeeze(-2)
        tokens = features * self.scale + self.mean
        return encoder.pool_tokens(tokens.flatten(0, -3).unsqueeze(0))[0].unflatten(0, tokens.shape[:-2])

    def make_views(self, encoder: VideoEncoder, features: Tensor) -> dict[str, Lazy]:
        """Views of normalised features [..., N, F]."""
        views: dict[str, Lazy] = {"tokens": features} if self.space == "tokens" else {}
        return views | {"pooled": partial(self.pool, encoder, features)}


class Output(nn.Module):
    """Output of dynamics: predicted features themselves, or pixels if there is a `head`. A `decoder` shows features as
    pixels and takes no part in training. drawn: whether a flow draws the values of each token, features or the pixels
    of a patch; `token_dim` is their number."""

    def __init__(
        self,
        pixels: PixelHeadConfig | None,
        decoder: DecoderConfig | None,
        features: Features,
        encoder: VideoEncoder,
        drawn: bool = False,
    ) -> None:
        super().__init__()
        self.reads_pixels = pixels is not None  # whether training batches need `pixels`
        self.token_dim = features.dim if pixels is None else 3 * encoder.config.patch_px**2
        pooled = features.num_tokens == 1
        self.head: PixelHead | PatchJoin | None = None
        if pixels is not None and drawn:
            self.head = PatchJoin(encoder.config)
        elif pixels is not None:
            self.head = PixelHead(features.dim, encoder.config, pooled, pixels)
        self.decoder: PixelHead | None = None
        self.view_names = features.view_names
        if decoder is not None:
            sizes = PixelHeadConfig(decoder.channels, decoder.hidden)
            self.decoder = PixelHead(features.dim, encoder.config, pooled, sizes)
            self.view_names = (*features.view_names, "pixels")
        if pixels is not None:
            reads_tokens = encoder.pool is None or encoder.pool.input_kind == "tokens"
            seen = ("tokens", "pooled") if reads_tokens else ("pooled",)  # by the encoder, in predicted pixels
            self.view_names = ("pixels", *seen)

    def step_bytes(self, encoder: VideoEncoder) -> int:
        """Memory of one imagined step of one candidate beside the predictor's own, bytes."""
        shows_pixels = self.head is not None or self.decoder is not None
        return 16 * 3 * math.prod(encoder.config.image_px) if shows_pixels else 0

    def split_target(self, encoder: VideoEncoder, target: Tensor) -> Tensor:
        """Targets of `make_target` as tokens [..., N, X] that a flow draws."""
        return target if self.head is None else split_patches(target, encoder.config)

    def read_features(self, encoder: VideoEncoder, features: Features, drawn: Tensor) -> Tensor:
        """Normalised features [B, S, N, F] of drawn tokens: themselves, or what the encoder sees in drawn pixels."""
        if self.head is None:
            return drawn
        return features.normalise(features.read(encoder, _paint(self.head, encoder, drawn))["features"])

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
        raw_BNF = features.read(encoder, frames_BHWC[:, None])["features"][:, 0]
        views = self.make_feature_views(encoder, features, raw_BNF)
        return views if self.decoder is None else {**views, "pixels": frames_BHWC.float()}

    def make_feature_views(self, encoder: VideoEncoder, features: Features, raw_BNF: Tensor) -> dict[str, Lazy]:
        """Views of frames whose raw features are known, as `make_goal_views` gives them, but for pixels."""
        if self.head is not None:
            return {"pooled": raw_BNF.squeeze(-2)}
        return features.make_views(encoder, features.normalise(raw_BNF))

    def make_views(self, encoder: VideoEncoder, features: Features, path: Tensor) -> dict[str, Lazy]:
        """Views of an imagined path of normalised features, or of drawn patches; pixels are clamped to 0..255."""
        if self.head is not None:
            return self._make_pixel_views(encoder, _paint(self.head, encoder, path))
        views = features.make_views(encoder, path)
        return views if self.decoder is None else {**views, "pixels": partial(_paint, self.decoder, encoder, path)}

    def _make_pixel_views(self, encoder: VideoEncoder, frames: Tensor) -> dict[str, Lazy]:
        """Views of frames [..., H, W, C] in 0..255: themselves, and their tokens and pooled embedding."""

        def see(read: Callable[[Tensor], Tensor]) -> Tensor:
            return read(frames.flatten(0, -4).unsqueeze(0))[0].unflatten(0, frames.shape[:-3])

        views: dict[str, Lazy] = {"pixels": frames, "pooled": partial(see, encoder.embed_frames)}
        if "tokens" in self.view_names:
            views["tokens"] = partial(see, lambda pictures: normalise_tokens(encoder.encode_frames(pictures)))
        return views


def _paint(head: PixelHead | PatchJoin, encoder: VideoEncoder, features: Tensor) -> Tensor:
    """Pixels [..., H, W, C] in 0..255 of normalised features [..., N, F], or of normalised patches."""
    return (head(features) * encoder.pixel_std + encoder.pixel_mean).clamp(0, 255)
