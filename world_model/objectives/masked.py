"""Masked objectives: predict what is hidden of a clip from what is visible.

V-JEPA 2 (arXiv 2506.09985, eq. 1). Of a clip x the tokens M are hidden. With encoder E, its EMA copy E', predictor P
and a layer norm LN without parameters,

    loss = mean over M of | P(positions of M, E(x without M)) - LN(E'(x)) |        no gradient on the right

    preset     what differs                                                     source
    vjepa      the teacher comes to rest: ema goes to 1                         arXiv 2404.08471, section 3
    vjepa21    four levels of the encoder; a loss at visible tokens, too        arXiv 2603.14482
    ijepa      single images; four blocks, each predicted by itself; squares    arXiv 2301.08243, section 3
    data2vec   the mean of the teacher's last blocks; random tokens; smooth L1  arXiv 2202.03555, section 3.3
    videomae   pixels, in units of their own patch; squares                     arXiv 2203.12602; 2111.06377, 4.1

With `reconstruction` a linear map W reads the pixels p of hidden patches, in videomae's units, from the predictions:
loss + weight * mean || W P(..) - p ||^2. Its gradient reaches the encoder.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import reduce
from operator import or_
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from einops import rearrange
from torch import Tensor, nn

from world_model.actions import ActionSpec
from world_model.distributed import SINGLE_PROCESS, WorldInfo
from world_model.encoder import EncoderConfig, VideoEncoder, space_levels
from world_model.masked_predictor import MaskedPredictor, MaskedSizes
from world_model.nn.layers import gather_tokens
from world_model.nn.pools import PrincipalPoolConfig
from world_model.objectives.losses import Loss, TokenTerms, normalise_target, regression
from world_model.objectives.masking import BlockMask, Grid, Mask, Masks
from world_model.objectives.metric import MetricConfig
from world_model.objectives.objective import (
    Batch,
    FamilyConfig,
    Objective,
    Prediction,
    TeacherConfig,
    Teaching,
    make_clip,
)
from world_model.predictor import PredictorConfig

PATCH_EPS = 1e-6
MOVED = 8  # of 255: more than the noise of a compressed video


@dataclass(frozen=True)
class ContextLoss:
    """V-JEPA 2.1's loss at visible tokens, less the farther they are from a hidden one."""

    weight: Annotated[float, Gt(0)] = 0.5
    """weight of the loss at visible tokens"""
    warmup: tuple[Annotated[int, Ge(0)], Annotated[int, Ge(0)]] = (15000, 30000)
    """optimiser steps between which the weight grows from 0, first and last"""

    def weight_at(self, step: int) -> float:
        """0 until the first of both steps, `weight` from the second on, linear between."""
        start, end = self.warmup
        return self.weight * (1.0 if step >= end else max(0.0, (step - start) / max(1, end - start)))


class Targets:
    """What the predictor sees and has to predict at a token. Defaults: the encoder's last output.

    images: whether a single frame may enter as an image; context_loss: loss at visible tokens.
    """

    images: ClassVar[bool] = True

    def num_levels(self, encoder: VideoEncoder) -> int:
        """Outputs of the encoder side by side."""
        return 1

    def out_dim(self, sizes: EncoderConfig) -> int:
        """Size of a prediction; 0: as large as what the predictor sees of a token."""
        return 0

    def read_visible(self, encoder: VideoEncoder, clip_BCTHW: Tensor, indices_BM: Tensor) -> Tensor:
        """Visible tokens as the predictor sees them [B, M, levels * D]."""
        return torch.cat(encoder.encode_levels(clip_BCTHW, indices_BM)[-self.num_levels(encoder) :], -1)


@dataclass(frozen=True)
class FeatureTargets(Targets):
    """The teacher's layer-normed outputs (V-JEPA 2), of several levels side by side (V-JEPA 2.1)."""

    kind: Literal["features"] = "features"
    """prediction of the encoder's features"""
    levels: Annotated[int, Ge(1)] = 1
    """outputs of the encoder that are predicted together (at most encoder.depth)"""
    context_loss: ContextLoss | None = None
    """loss at visible tokens; null: none"""

    def num_levels(self, encoder: VideoEncoder) -> int:
        """Outputs of the encoder side by side."""
        return encoder.num_levels if self.levels > 1 else 1

    def make(self, encoder: VideoEncoder, clip_BCTHW: Tensor) -> Tensor:
        """Targets at all tokens [B, N, levels * D]."""
        outputs = encoder.encode_levels(clip_BCTHW)[-self.num_levels(encoder) :]
        return torch.cat([normalise_target(output) for output in outputs], -1)


@dataclass(frozen=True)
class AveragedTargets(Targets):
    """The mean of the teacher's last blocks, each layer-normed (data2vec, section 3.3)."""

    kind: Literal["average"] = "average"
    """prediction of the mean over blocks of the encoder"""
    blocks: Annotated[int, Ge(1)] = 8
    """last blocks whose mean is the target; of a shallower encoder, all of them"""

    context_loss: ClassVar[None] = None

    def make(self, encoder: VideoEncoder, clip_BCTHW: Tensor) -> Tensor:
        """Targets at all tokens [B, N, D]."""
        depth = encoder.config.depth
        outputs = encoder.encode_levels(clip_BCTHW, blocks=range(max(0, depth - self.blocks), depth))
        return torch.stack([normalise_target(output) for output in outputs]).mean(0)


@dataclass(frozen=True)
class PixelTargets(Targets):
    """The pixels of every tubelet (MAE, VideoMAE)."""

    kind: Literal["pixels"] = "pixels"
    """prediction of pixels"""
    normalise_patches: bool = True
    """pixels in units of their own patch: less its mean, over its standard deviation"""

    images: ClassVar[bool] = False
    context_loss: ClassVar[None] = None

    def out_dim(self, sizes: EncoderConfig) -> int:
        """Pixel values of a tubelet."""
        return 3 * sizes.tubelet * sizes.patch_px**2

    def make(self, encoder: VideoEncoder, clip_BCTHW: Tensor) -> Tensor:
        """Targets at all tokens [B, N, 3 * tubelet * patch_px^2]."""
        t, p = encoder.config.tubelet, encoder.config.patch_px
        patches = rearrange(clip_BCTHW, "b c (T t) (H p) (W q) -> b (T H W) (c t p q)", t=t, p=p, q=p)
        if not self.normalise_patches:
            return patches
        mean = patches.mean(-1, keepdim=True)
        return (patches - mean) / (patches.var(-1, keepdim=True) + PATCH_EPS).sqrt()


@dataclass(frozen=True)
class MaskedConfig(FamilyConfig):
    """Defaults: V-JEPA 2 (arXiv 2506.09985), with a small predictor."""

    family: Literal["masked"] = "masked"
    """prediction of hidden tokens of a clip from visible ones"""
    frames: Annotated[int, Ge(1)] = 8
    """frames of a clip"""
    frame_gap: Annotated[int, Ge(1)] = 1
    """environment steps between the frames of a clip"""
    masks: tuple[Mask, ...] = (BlockMask(8, (0.15, 0.15)), BlockMask(2, (0.7, 0.7)))
    """mask generators: {blocks, area, time, aspect, separate, context}, {random, tube} or {visible_steps}"""
    targets: FeatureTargets | AveragedTargets | PixelTargets = field(default_factory=FeatureTargets)
    """prediction of features, average (of blocks) or pixels"""
    loss: Loss = "l1"
    """error of a prediction: l1, l2, smooth_l1 or cosine"""
    teacher: Teaching = field(default_factory=TeacherConfig)
    """source of targets: an EMA teacher {ema, ema_end}, stop (no gradient) or shared (gradient on both sides)"""
    terms: TokenTerms = field(default_factory=TokenTerms)
    """anti-collapse terms"""
    reconstruction: Annotated[float, Ge(0)] = 0.0
    """weight of a loss on the pixels of hidden patches, read from the predicted features by a linear map (0: none)"""
    metric: MetricConfig | None = None
    """metric of the pooled embedding, fitted after training; null: none"""
    predictor: PredictorConfig = field(default_factory=lambda: PredictorConfig(width=128, depth=2))
    """transformer of the predictor"""

    space: ClassVar[Literal["pooled", "tokens"]] = "tokens"

    def __post_init__(self) -> None:
        if not self.masks:
            raise ValueError("objective.masks is empty: give at least one, for example those of objective=vjepa2")
        if self.reconstruction and isinstance(self.targets, PixelTargets):
            raise ValueError(
                f"objective.reconstruction={self.reconstruction:g} adds pixels to features, and "
                "objective.targets.kind=pixels predicts pixels already: give objective.reconstruction=0"
            )

    def adapt_encoder(self, sizes: EncoderConfig) -> EncoderConfig:
        """Levels at the ends of equal parts of the depth, where several are predicted and none given, and a pooled
        embedding that is fitted after training."""
        levels = sizes.levels
        if isinstance(self.targets, FeatureTargets) and self.targets.levels > 1 and not levels:
            if sizes.depth < self.targets.levels:
                raise ValueError(
                    f"objective.targets.levels={self.targets.levels} needs an encoder of at least as many blocks"
                )
            levels = space_levels(sizes.depth, self.targets.levels)
        return replace(sizes, levels=levels, pool=sizes.pool and PrincipalPoolConfig(sizes.pool.dim))

    def check_encoder(self, sizes: EncoderConfig) -> None:
        """Raise ValueError where neighbours would see hidden patches."""
        if sizes.stem.kind == "conv" and any(mask.hides_patches for mask in self.masks):
            raise ValueError(
                "encoder.stem.kind=conv sees into hidden patches: set encoder.stem.kind=linear, or an objective that "
                "hides whole frames (objective=future)"
            )

    def make(self, encoder: VideoEncoder, steps: int, seed: int, actions: ActionSpec | None) -> Masked:
        """The objective around an encoder, for a run of so many steps."""
        return Masked(self, encoder, steps, seed)


class Masked(Objective):
    """Predict hidden tokens by mask tokens at their positions (V-JEPA 2, section 2.1)."""

    config: MaskedConfig

    def __init__(self, config: MaskedConfig, encoder: VideoEncoder, steps: int, seed: int) -> None:
        super().__init__(config, encoder, steps, seed)
        self.sizes = sizes = encoder.config
        levels = config.targets.num_levels(encoder)
        shape = MaskedSizes(
            feature_dim=sizes.width,
            grid=sizes.grid,
            num_mask_tokens=len(config.masks),
            out_dim=config.targets.out_dim(sizes),
            levels=levels,
            context_dim=levels * sizes.width if config.targets.context_loss else 0,
            modalities=sizes.stem.images,
            familiar_grid=sizes.familiar_grid,
        )
        # One rotary code for both, as the reference.
        self.predictor = MaskedPredictor(shape, replace(config.predictor, rope=sizes.rope))
        self.painter: nn.Linear | None = None
        if config.reconstruction:
            self.painter = nn.Linear(levels * sizes.width, PixelTargets().out_dim(sizes))

    def predict(self, encoder: VideoEncoder, batch: Batch, step: int, shard: WorldInfo = SINGLE_PROCESS) -> Prediction:
        """Predictions at hidden tokens, mask by mask, and at visible ones where they have a loss."""
        config = self.config
        batch = batch if "mask0.visible" in batch else self.prepare(batch, step, shard)
        clip = make_clip(encoder, batch["pixels"], config.targets.images)
        grid, image = encoder.clip_grid(clip), clip.shape[2] == 1
        targets_BND = self.make_targets(encoder, clip)
        masks = [Masks.from_batch(batch, number) for number in range(len(config.masks))]
        predicted, targets, places, at_visible, read = [], [], [], [], []
        for number, mask in enumerate(masks):
            visible = mask.context_BM.to(clip.device)
            read.append(config.targets.read_visible(encoder, clip, visible))
            for hidden in mask.targets_BP:
                hidden = hidden.to(clip.device)
                at_hidden, at_context = self.predictor(read[-1], visible, hidden, grid[0], number, image)
                predicted.append(at_hidden)
                targets.append(gather_tokens(targets_BND, hidden))
                places.append(hidden)
                if at_context is not None:
                    near = weigh_context(visible, hidden, encoder.make_positions(grid, clip.device))
                    at_visible.append(
                        regression(at_context.float(), gather_tokens(targets_BND, visible), config.loss, near)
                    )
        terms = {"prediction": self.mean_error(predicted, targets)}
        if self.painter is not None:
            patches_BND = PixelTargets().make(encoder, clip)
            errors = [
                F.mse_loss(self.painter(tokens).float(), gather_tokens(patches_BND, hidden))
                for tokens, hidden in zip(predicted, places, strict=True)
            ]
            terms["reconstruction"] = config.reconstruction * torch.stack(errors).mean()
        if config.targets.context_loss is not None:
            terms["context"] = config.targets.context_loss.weight_at(step) * torch.stack(at_visible).mean()
        logged = {"unused": torch.stack([torch.as_tensor(mask.unused) for mask in masks]).mean()}
        if batch["pixels"].shape[1] > 1:
            moving_BN = find_moving_tokens(batch["pixels"], self.sizes.tubelet, self.sizes.patch_px)
            logged["hidden_moving"] = torch.cat([moving_BN.gather(1, hidden) for hidden in places], 1).float().mean()
            logged["moving"] = moving_BN.float().mean()
        return Prediction(predicted, targets, config.terms.select(read[0]), terms, logged)

    def make_targets(self, encoder: VideoEncoder, clip_BCTHW: Tensor) -> Tensor:
        """Targets at all tokens [B, N, D]."""
        with torch.set_grad_enabled(self.config.teacher == "shared" and torch.is_grad_enabled()):
            return self.config.targets.make(self.get_target_encoder(encoder), clip_BCTHW)

    def prepare(self, batch: Batch, step: int, shard: WorldInfo = SINGLE_PROCESS) -> Batch:
        """The batch with its masks."""
        count, frames = batch["pixels"].shape[:2]
        grid = (max(1, frames // self.sizes.tubelet), *self.sizes.grid)
        entries = [masks.to_batch(k) for k, masks in enumerate(self.sample_masks(count, grid, step, shard))]
        return reduce(or_, entries, batch)

    def sample_masks(self, batch: int, grid: Grid, step: int, shard: WorldInfo = SINGLE_PROCESS) -> list[Masks]:
        """Masks of every generator for this process's rows, sampled for the batch of all processes."""
        total = batch * shard.world
        samples = [mask.sample(total, grid, (self.seed, step, k)) for k, mask in enumerate(self.config.masks)]
        return [masks.select(shard.split_rows(total)) for masks in samples]


@torch.no_grad()
def find_moving_tokens(frames_BTHWC: Tensor, tubelet: int, patch_px: int) -> Tensor:
    """Whether anything moves in a token's tubelet, boolean [B, N]: a value of one of its pixels differs by more than
    MOVED from the frame before or after it. Frames in 0..255."""
    change_BtHW = frames_BTHWC.to(torch.int16).diff(dim=1).abs().amax(-1) > MOVED
    moved_BTHW = F.pad(change_BtHW, (0, 0, 0, 0, 1, 0)) | F.pad(change_BtHW, (0, 0, 0, 0, 0, 1))
    cut = rearrange(moved_BTHW, "b (T t) (h p) (w q) -> b (T h w) (t p q)", t=tubelet, p=patch_px, q=patch_px)
    return cut.any(-1)


def weigh_context(visible_BM: Tensor, hidden_BP: Tensor, positions_N3: Tensor) -> Tensor:
    """Weights [B, M] of visible tokens: 1 / sqrt(distance to the nearest hidden one), in tokens over time, height and
    width (V-JEPA 2.1)."""
    positions = positions_N3.float()
    nearest = [torch.cdist(positions[m], positions[p]).amin(1) for m, p in zip(visible_BM, hidden_BP, strict=True)]
    return torch.stack(nearest).rsqrt()
