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
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
from einops import rearrange
from torch import Tensor

from world_model.distributed import SINGLE_PROCESS, WorldInfo
from world_model.dynamics import ActionSpec
from world_model.encoder import EncoderConfig, VideoEncoder, space_levels
from world_model.nn.layers import gather_tokens
from world_model.objectives.embedding import make_principal_config
from world_model.objectives.losses import Loss, TokenTerms, normalise_target, regression
from world_model.objectives.masking import BlockMask, Grid, Mask, Masks
from world_model.objectives.metric import MetricConfig
from world_model.objectives.objective import Batch, Objective, Prediction, make_clip
from world_model.objectives.teacher import TeacherConfig, Teaching
from world_model.predictor import MaskedPredictor, MaskedSizes, PredictorConfig

PATCH_EPS = 1e-6


@dataclass(frozen=True)
class ContextLoss:
    """V-JEPA 2.1's loss at visible tokens, less the farther they are from a hidden one."""

    weight: float = 0.5
    """weight of the loss at visible tokens (above 0)"""
    warmup: tuple[int, int] = (15000, 30000)
    """steps between which the weight grows from 0"""

    def weight_at(self, step: int) -> float:
        """0 until the first of both steps, `weight` from the second on, linear between."""
        start, end = self.warmup
        return self.weight * (1.0 if step >= end else max(0.0, (step - start) / max(1, end - start)))


@dataclass(frozen=True)
class FeatureTargets:
    """The teacher's layer-normed outputs (V-JEPA 2), of several levels side by side (V-JEPA 2.1)."""

    kind: Literal["features"] = "features"
    """what is predicted: the encoder's features"""
    levels: int = 1
    """outputs of the encoder that are predicted together (1 to encoder.depth)"""
    context_loss: ContextLoss | None = None
    """loss at visible tokens; null: none"""

    images: ClassVar[bool] = True

    def num_levels(self, encoder: VideoEncoder) -> int:
        """Outputs side by side."""
        return encoder.num_levels if self.levels > 1 else 1

    def read_visible(self, encoder: VideoEncoder, clip_BCTHW: Tensor, indices_BM: Tensor) -> Tensor:
        """What the predictor sees [B, M, levels * D]."""
        return torch.cat(encoder.encode_levels(clip_BCTHW, indices_BM)[-self.num_levels(encoder) :], -1)

    def make(self, encoder: VideoEncoder, clip_BCTHW: Tensor) -> Tensor:
        """Targets at all tokens [B, N, levels * D]."""
        outputs = encoder.encode_levels(clip_BCTHW)[-self.num_levels(encoder) :]
        return torch.cat([normalise_target(output) for output in outputs], -1)

    def out_dim(self, sizes: EncoderConfig) -> int:
        """Numbers of a prediction; 0: as many as the predictor sees of a token."""
        return 0


@dataclass(frozen=True)
class AveragedTargets:
    """The mean of the teacher's last blocks, each layer-normed (data2vec, section 3.3)."""

    kind: Literal["average"] = "average"
    """what is predicted: the mean over blocks of the encoder"""
    blocks: int = 8
    """last blocks whose mean is the target (>= 1); of a shallower encoder, all of them"""

    images: ClassVar[bool] = True
    context_loss: ClassVar[None] = None

    def num_levels(self, encoder: VideoEncoder) -> int:
        """Outputs side by side."""
        return 1

    def read_visible(self, encoder: VideoEncoder, clip_BCTHW: Tensor, indices_BM: Tensor) -> Tensor:
        """What the predictor sees [B, M, D]."""
        return encoder(clip_BCTHW, indices_BM)

    def make(self, encoder: VideoEncoder, clip_BCTHW: Tensor) -> Tensor:
        """Targets at all tokens [B, N, D]."""
        depth = encoder.config.depth
        outputs = encoder.encode_levels(clip_BCTHW, blocks=range(max(0, depth - self.blocks), depth))
        return torch.stack([normalise_target(output) for output in outputs]).mean(0)

    def out_dim(self, sizes: EncoderConfig) -> int:
        """Numbers of a prediction; 0: as many as the predictor sees of a token."""
        return 0


@dataclass(frozen=True)
class PixelTargets:
    """The pixels of every tubelet (MAE, VideoMAE)."""

    kind: Literal["pixels"] = "pixels"
    """what is predicted: pixels"""
    normalise_patches: bool = True
    """whether pixels are in units of their own patch: less its mean, over its standard deviation"""

    images: ClassVar[bool] = False
    context_loss: ClassVar[None] = None

    def num_levels(self, encoder: VideoEncoder) -> int:
        """Outputs side by side."""
        return 1

    def read_visible(self, encoder: VideoEncoder, clip_BCTHW: Tensor, indices_BM: Tensor) -> Tensor:
        """What the predictor sees [B, M, D]."""
        return encoder(clip_BCTHW, indices_BM)

    def make(self, encoder: VideoEncoder, clip_BCTHW: Tensor) -> Tensor:
        """Targets at all tokens [B, N, 3 * tubelet * patch_px^2]."""
        t, p = encoder.config.tubelet, encoder.config.patch_px
        patches = rearrange(clip_BCTHW, "b c (T t) (H p) (W q) -> b (T H W) (c t p q)", t=t, p=p, q=p)
        if not self.normalise_patches:
            return patches
        mean = patches.mean(-1, keepdim=True)
        return (patches - mean) / (patches.var(-1, keepdim=True) + PATCH_EPS).sqrt()

    def out_dim(self, sizes: EncoderConfig) -> int:
        """Numbers of a prediction."""
        return 3 * sizes.tubelet * sizes.patch_px**2


@dataclass(frozen=True)
class MaskedConfig:
    """Defaults: V-JEPA 2 (arXiv 2506.09985), with a small predictor."""

    family: Literal["masked"] = "masked"
    """hidden tokens of a clip are predicted from visible ones"""
    frames: int = 8
    """frames in a clip (>= 1)"""
    frame_gap: int = 1
    """environment steps between the frames of a clip (>= 1)"""
    masks: tuple[Mask, ...] = (BlockMask(8, (0.15, 0.15)), BlockMask(2, (0.7, 0.7)))
    """mask generators: {blocks, area, time, aspect, separate, context}, {random, tube} or {visible_steps}"""
    targets: FeatureTargets | AveragedTargets | PixelTargets = field(default_factory=FeatureTargets)
    """what is predicted: features, average (of blocks) or pixels"""
    loss: Loss = "l1"
    """error of a prediction: l1, l2, smooth_l1 or cosine"""
    teacher: Teaching = field(default_factory=TeacherConfig)
    """who makes the targets: an EMA teacher {ema, ema_end}, stop (no gradient) or shared (gradient on both sides)"""
    terms: TokenTerms = field(default_factory=TokenTerms)
    """anti-collapse terms"""
    metric: MetricConfig | None = None
    """metric of the pooled embedding, fitted after training; null: none"""
    predictor: PredictorConfig = field(default_factory=lambda: PredictorConfig(width=128, depth=2))
    """transformer of the predictor"""

    space: ClassVar[Literal["pooled", "tokens"]] = "tokens"
    reads_actions: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.masks:
            raise ValueError("objective.masks is empty: give at least one, for example those of objective=vjepa2")
        if self.frame_gap < 1:
            raise ValueError(f"objective.frame_gap={self.frame_gap} must be at least 1")

    def adapt_encoder(self, sizes: EncoderConfig) -> EncoderConfig:
        """The encoder's sizes with levels at the ends of equal parts of its depth, where none are given, and a pooled
        embedding that is fitted when training is over."""
        levels = sizes.levels
        if isinstance(self.targets, FeatureTargets) and self.targets.levels > 1 and not levels:
            if sizes.depth < self.targets.levels:
                raise ValueError(
                    f"objective.targets.levels={self.targets.levels} needs an encoder of at least as many blocks"
                )
            levels = space_levels(sizes.depth, self.targets.levels)
        return replace(sizes, levels=levels, pool=make_principal_config(sizes))

    def check_encoder(self, sizes: EncoderConfig) -> None:
        """ValueError where hidden patches would be seen by their neighbours."""
        if sizes.stem.kind == "conv" and any(mask.hides_patches for mask in self.masks):
            raise ValueError(
                "encoder.stem.kind=conv sees into hidden patches: set encoder.stem.kind=linear, or an objective that "
                "hides whole frames (objective=future)"
            )


class Masked(Objective):
    """Predict hidden tokens by mask tokens at their positions (V-JEPA 2, section 2.1)."""

    def __init__(
        self, config: MaskedConfig, encoder: VideoEncoder, steps: int, seed: int, actions: ActionSpec | None = None
    ) -> None:
        super().__init__(config.loss, config.terms, config.teacher, encoder, steps, seed)
        self.config, sizes = config, encoder.config
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

    def predict(self, encoder: VideoEncoder, batch: Batch, step: int, rows: WorldInfo = SINGLE_PROCESS) -> Prediction:
        """Predictions at hidden tokens, mask by mask, and at visible ones where they have a loss."""
        config = self.config
        clip = make_clip(encoder, batch["pixels"], config.targets.images)
        grid, image = encoder.clip_grid(clip), clip.shape[2] == 1
        targets_BND = self.make_targets(encoder, clip)
        masks = self.draw_masks(len(clip), grid, step, rows)
        predicted, targets, at_visible, read = [], [], [], []
        for number, mask in enumerate(masks):
            visible = mask.context_BM.to(clip.device)
            read.append(config.targets.read_visible(encoder, clip, visible))
            for hidden in mask.targets_BP:
                hidden = hidden.to(clip.device)
                at_hidden, at_context = self.predictor.both(read[-1], visible, hidden, grid[0], number, image)
                predicted.append(at_hidden)
                targets.append(gather_tokens(targets_BND, hidden))
                if at_context is not None:
                    near = weigh_context(visible, hidden, encoder.make_positions(grid, clip.device))
                    at_visible.append(
                        regression(at_context.float(), gather_tokens(targets_BND, visible), config.loss, near)
                    )
        terms = {"prediction": self.mean_error(predicted, targets)}
        if config.targets.context_loss is not None:
            terms["context"] = config.targets.context_loss.weight_at(step) * torch.stack(at_visible).mean()
        unused = sum(mask.unused for mask in masks) / len(masks)
        return Prediction(predicted, targets, config.terms.select(read[0]), terms, {"unused": unused})

    def make_targets(self, encoder: VideoEncoder, clip_BCTHW: Tensor) -> Tensor:
        """Targets at all tokens [B, N, D]."""
        with torch.set_grad_enabled(self.config.teacher == "shared" and torch.is_grad_enabled()):
            return self.config.targets.make(self.get_target_encoder(encoder), clip_BCTHW)

    def draw_masks(self, batch: int, grid: Grid, step: int, rows: WorldInfo = SINGLE_PROCESS) -> list[Masks]:
        """One batch of masks for each generator; drawn for the batch of all processes, of which these are our rows."""
        total = batch * rows.world
        drawn = [mask.sample(total, grid, (self.seed, step, k)) for k, mask in enumerate(self.config.masks)]
        return [masks.select(rows.split_rows(total)) for masks in drawn]


def weigh_context(visible_BM: Tensor, hidden_BP: Tensor, places_N3: Tensor) -> Tensor:
    """Weights [B, M] of visible tokens: 1 / sqrt(distance to the nearest hidden one), in tokens over time, height and
    width (V-JEPA 2.1)."""
    places = places_N3.float()
    nearest = [torch.cdist(places[m], places[p]).amin(1) for m, p in zip(visible_BM, hidden_BP, strict=True)]
    return torch.stack(nearest).rsqrt()
