"""The video encoder: a clip or a single frame -> tokens, and one pooled embedding a frame.

A vision transformer over tubelets with 3-D rotary positions (V-JEPA 2, arXiv 2506.09985). Observed frames and goal
frames are encoded alone, duplicated to one tubelet, so that both share one feature space. Objectives of the future
predict the pooled embedding (`Pool`), and planners measure distance in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Interval
from einops import rearrange
from torch import Tensor, nn

from world_model.nn.layers import MODALITY_STD, NORM_EPS, BlockConfig, Checkpointing, Feedforward
from world_model.nn.pools import LearnedPoolConfig, Pool, PoolConfig
from world_model.nn.rotary import Rope, Rotary, make_grid_positions, make_rotary
from world_model.nn.stack import Blocks, init_transformer
from world_model.nn.stem import ConvStem, LinearStemConfig, PatchEmbed, StemConfig

Pixels = Annotated[int, Interval(ge=1, le=8192)]
FRAMES_PER_CHUNK = 64  # activations of more frames at once leave a CPU's caches


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes and variants of a VideoEncoder. Defaults: a transformer that trains on two cores."""

    image_px: tuple[Pixels, Pixels] = (64, 64)
    """height and width of the frames it is trained on, pixels (multiples of patch_px)"""
    patch_px: Pixels = 16
    """side of a patch, pixels"""
    tubelet: Annotated[int, Ge(1)] = 2
    """frames in a tubelet"""
    width: Annotated[int, Ge(2)] = 128
    """width of a token"""
    depth: Annotated[int, Ge(1)] = 4
    """transformer blocks"""
    heads: Annotated[int, Ge(1)] = 4
    """attention heads per block"""
    mlp_ratio: Annotated[float, Gt(0)] = 4.0
    """width of a block's hidden layer, as a multiple of width"""
    stem: StemConfig = field(default_factory=LinearStemConfig)
    """layers from pixels to tokens: linear (a linear map of each patch) or conv"""
    pool: PoolConfig | None = field(default_factory=LearnedPoolConfig)
    """one embedding per frame: learned, keypoints or principal; null: none"""
    rope: Rope = "interleaved"
    """rotary position layout: interleaved (a true rotation) or tiled (released V-JEPA 2 weights)"""
    positions_px: tuple[Pixels, Pixels] | None = None
    """frame size, pixels, that positions of every size are scaled to (V-JEPA 2.1: 256 x 256); null: no scaling"""
    feedforward: Feedforward = "gelu"
    """hidden layer of a block: gelu or swiglu"""
    checkpointing: Checkpointing = "none"
    """activations kept for the backward pass: none (all), selective (products) or full (inputs alone)"""
    levels: tuple[Annotated[int, Ge(0)], ...] = ()
    """blocks (from 0) whose outputs are read, each through its own norm (V-JEPA 2.1); empty: the last alone"""
    causal: bool = False
    """attention to tokens up to itself in raster order alone (NEPA)"""

    @property
    def num_block_weights(self) -> int:
        """Weights of the matrices of all blocks, at least: most of an encoder's."""
        return round(self.depth * self.width**2 * (4 + 2 * self.mlp_ratio))

    def __post_init__(self) -> None:
        if any(side % self.patch_px for side in self.image_px):
            raise ValueError(f"patch_px={self.patch_px} does not divide the frame size {self.image_px}")
        if self.width % self.heads or self.width // self.heads % 2:
            raise ValueError(
                f"heads={self.heads} does not divide width={self.width} into an even number of channels per head"
            )
        if any(not 0 <= level < self.depth for level in self.levels) or list(self.levels) != sorted(set(self.levels)):
            raise ValueError(f"levels={list(self.levels)} are not ascending blocks of 0..{self.depth - 1}")
        self.stem.check(self.patch_px)

    @property
    def grid(self) -> tuple[int, int]:
        """Patches in a column and in a row."""
        return self.image_px[0] // self.patch_px, self.image_px[1] // self.patch_px

    @property
    def familiar_grid(self) -> tuple[int, int] | None:
        """Grid, in patches, to which positions of every size are scaled; None: no scaling."""
        if self.positions_px is None:
            return None
        height, width = self.positions_px
        return height // self.patch_px, width // self.patch_px

    @property
    def num_patches(self) -> int:
        """Patches of a frame."""
        return self.grid[0] * self.grid[1]


def space_levels(depth: int, count: int) -> tuple[int, ...]:
    """Last blocks of `count` equal parts of the depth (V-JEPA 2.1)."""
    return tuple((k + 1) * depth // count - 1 for k in range(count))


class VideoEncoder(nn.Module):
    """clip [B, C, T, H, W] -> tokens [B, N, D]; frames uint8 [B, T, H, W, C] -> tokens and pooled embeddings."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed: PatchEmbed | ConvStem = config.stem.make(config.patch_px, config.tubelet, config.width)
        if config.stem.images:
            self.patch_embed_img = PatchEmbed(config.patch_px, 1, config.width)
            self.img_mod_embed = nn.Parameter(torch.empty(1, 1, config.width))
            self.video_mod_embed = nn.Parameter(torch.empty(1, 1, config.width))
        block = BlockConfig(
            config.width, config.heads, config.mlp_ratio, config.feedforward, checkpointing=config.checkpointing
        )
        self.blocks = Blocks(config.depth, block)
        if config.levels:
            self.norms_block = nn.ModuleList(nn.LayerNorm(config.width, eps=NORM_EPS) for _ in config.levels)
        else:
            self.norm = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.pool: Pool | None = None if config.pool is None else config.pool.make(config.width, config.num_patches)
        self.register_buffer("pixel_mean", torch.full((3,), 127.5))
        self.register_buffer("pixel_std", torch.full((3,), 127.5))
        init_transformer(self, self.blocks)
        self.patch_embed.init_weights()
        if config.stem.images:
            nn.init.normal_(self.img_mod_embed, std=MODALITY_STD)
            nn.init.normal_(self.video_mod_embed, std=MODALITY_STD)
        if self.pool is not None:
            self.pool.init_weights()

    def set_pixel_statistics(self, mean_C: Tensor, std_C: Tensor) -> None:
        """Channel means and standard deviations of the train split, in 0..255."""
        self.pixel_mean.copy_(mean_C)
        self.pixel_std.copy_(std_C.clamp_min(1.0))

    def normalise(self, frames_BTHWC: Tensor) -> Tensor:
        """Frames [B, T, H, W, C] in 0..255 -> normalised clip [B, C, T, H, W]."""
        frames = (frames_BTHWC.to(self.pixel_mean.dtype) - self.pixel_mean) / self.pixel_std
        return rearrange(frames, "b t h w c -> b c t h w")

    @property
    def pooled_dim(self) -> int:
        """Size of a frame's pooled embedding: the pool's, or the width of a token without a pool."""
        return self.config.width if self.pool is None else self.pool.out.out_features

    @property
    def num_levels(self) -> int:
        """Outputs of the encoder: one, or those of config.levels."""
        return max(1, len(self.config.levels))

    def make_positions(self, grid: tuple[int, int, int], device: torch.device) -> Tensor:
        """Positions [N, 3] of a token grid (steps, height, width), scaled as the encoder was trained."""
        return make_grid_positions(*grid, device, self.config.familiar_grid)

    def make_rotary(self, positions_N3: Tensor) -> Rotary:
        """Rotary table of tokens at these positions."""
        return make_rotary(positions_N3, self.config.width // self.config.heads, self.config.rope)

    def clip_grid(self, clip_BCTHW: Tensor) -> tuple[int, int, int]:
        """Steps, height and width of a clip's token grid. ValueError for a size that tubelets do not divide."""
        steps, height, width = clip_BCTHW.shape[2:]
        is_image = self.config.stem.images and steps == 1
        tubelet, patch = 1 if is_image else self.config.tubelet, self.config.patch_px
        if steps % tubelet or height % patch or width % patch:
            raise ValueError(
                f"a clip of {steps} frames of {height}x{width} pixels does not divide into tubelets of "
                f"{tubelet} x {patch} x {patch}"
            )
        return steps // tubelet, height // patch, width // patch

    def forward(self, clip_BCTHW: Tensor, indices_BM: Tensor | None = None) -> Tensor:
        """Tokens [B, N, D] of a normalised clip of any size that tubelets divide, at all positions or at raster
        indices. With `stem.images`, a clip of one frame is embedded as an image."""
        return self.encode_levels(clip_BCTHW, indices_BM)[-1]

    def encode_levels(
        self, clip_BCTHW: Tensor, indices_BM: Tensor | None = None, blocks: Sequence[int] = ()
    ) -> list[Tensor]:
        """Normed tokens [B, N, D] of every level; with `blocks` (from 0), of those blocks through the final norm."""
        positions = self.make_positions(self.clip_grid(clip_BCTHW), clip_BCTHW.device)
        positions = positions if indices_BM is None else positions[indices_BM]
        return self.transform(self.embed(clip_BCTHW, indices_BM), self.make_rotary(positions), blocks)

    def embed(self, clip_BCTHW: Tensor, indices_BM: Tensor | None = None) -> Tensor:
        """Tokens before the transformer."""
        if not self.config.stem.images:
            return self.patch_embed(clip_BCTHW, indices_BM)
        if clip_BCTHW.shape[2] == 1:
            return self.patch_embed_img(clip_BCTHW, indices_BM) + self.img_mod_embed
        return self.patch_embed(clip_BCTHW, indices_BM) + self.video_mod_embed

    def transform(self, tokens_BND: Tensor, rotary: Rotary, blocks: Sequence[int] = ()) -> list[Tensor]:
        """Normed outputs of the levels, or of the given blocks, of the transformer alone."""
        wanted = tuple(blocks) or self.config.levels or (self.config.depth - 1,)
        norms: Sequence[nn.Module]
        if self.config.levels and not blocks:
            norms = list(self.norms_block)
        else:
            norms = [self.norms_block[-1] if self.config.levels else self.norm] * len(wanted)
        mask, outputs = None, {}
        if self.config.causal:
            count = tokens_BND.shape[1]
            mask = torch.ones(count, count, dtype=torch.bool, device=tokens_BND.device).tril()
        for number, block in enumerate(self.blocks):
            tokens_BND = self.blocks.step(block, tokens_BND, rotary, mask)
            if number in wanted:
                outputs[number] = tokens_BND
        return [norm(outputs[number]) for norm, number in zip(norms, wanted, strict=True)]

    def encode_frames(self, frames_BTHWC: Tensor) -> Tensor:
        """Tokens [B, T, N, D] of frames in 0..255, each encoded alone: as an image, or as one tubelet."""
        clip = self._normalise_pictures(frames_BTHWC)
        if self.config.stem.images:
            tokens = self(clip.unsqueeze(2))
        else:
            grid = self.clip_grid(clip.unsqueeze(2).expand(-1, -1, self.config.tubelet, -1, -1))
            rotary = self.make_rotary(self.make_positions(grid, clip.device))
            tokens = self.transform(self.patch_embed.embed_frame(clip), rotary)[-1]
        return rearrange(tokens, "(b t) n d -> b t n d", t=frames_BTHWC.shape[1])

    def embed_frames(self, frames_BTHWC: Tensor, tokens_BTND: Tensor | None = None) -> Tensor:
        """Pooled embeddings [B, T, D] of frames in 0..255, each encoded alone. tokens: the frames', if known."""
        if self.pool is None or self.pool.input_kind == "tokens":
            return self.pool_tokens(self.encode_frames(frames_BTHWC) if tokens_BTND is None else tokens_BTND)
        return self.pool(self._normalise_pictures(frames_BTHWC)).unflatten(0, frames_BTHWC.shape[:2])

    def read_pool_inputs(self, frames_BTHWC: Tensor) -> Tensor:
        """Inputs [B, T, I] of the pool's last linear map, for frames in 0..255."""
        assert self.pool is not None
        reads_tokens = self.pool.input_kind == "tokens"
        x = self.encode_frames(frames_BTHWC).flatten(0, 1) if reads_tokens else self._normalise_pictures(frames_BTHWC)
        return self.pool.read_inputs(x).unflatten(0, frames_BTHWC.shape[:2])

    def embed_chunks(self, frames_BTHWC: Tensor, source: Literal["pooled", "inputs"] = "pooled") -> Tensor:
        """Pooled embeddings of frames in 0..255, or inputs of the pool's last linear map, [B, T, D or I]; on a CPU in
        chunks that fit its caches."""
        embed = self.embed_frames if source == "pooled" else self.read_pool_inputs
        flat = frames_BTHWC.flatten(0, 1)
        size = FRAMES_PER_CHUNK if flat.device.type == "cpu" else len(flat)
        chunks = [embed(chunk[None])[0] for chunk in flat.split(size)]
        return torch.cat(chunks).unflatten(0, frames_BTHWC.shape[:2])

    def pool_tokens(self, tokens_BTND: Tensor) -> Tensor:
        """Pooled embeddings [B, T, D] from tokens [B, T, N, D]: the pool's, or their mean without a pool. ValueError
        for a pool of pictures, which imagined tokens do not have."""
        if self.pool is None:
            return tokens_BTND.mean(2)
        if self.pool.input_kind == "pictures":
            raise ValueError(
                "encoder.pool.kind=keypoints reads pictures, and imagined tokens have none: give the planner "
                "cost.view=tokens, or take dynamics=pooled"
            )
        return self.pool(tokens_BTND.flatten(0, 1)).unflatten(0, tokens_BTND.shape[:2])

    def _normalise_pictures(self, frames_BTHWC: Tensor) -> Tensor:
        """Frames in 0..255 -> normalised pictures [B * T, C, H, W]."""
        return rearrange(self.normalise(frames_BTHWC), "b c t h w -> (b t) c h w")
