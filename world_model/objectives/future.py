"""Objectives of the future: predict later frames from the few before them, without actions.

Ours (docs/concepts/objectives.md). With the pooled embedding z of a frame, predictor P, and VICReg's variance and
covariance terms V and C (arXiv 2105.04906, eq. 1 to 4), which keep z spread out,

    loss = 3.5 mean || P(z[t-2], z[t-1]) - z[t] ||^2 + 5 V(z) + 5 C(z)             gradient on both sides

The pixel baseline has the same encoder, clips and predictor, and a light head H; pixels x cannot collapse:

    loss = mean || H(P(z[t-2], z[t-1])) - x[t] ||^2
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Interval
from einops import rearrange
from torch import Tensor

from world_model.actions import ActionSpec
from world_model.distributed import SINGLE_PROCESS, WorldInfo
from world_model.encoder import EncoderConfig, VideoEncoder
from world_model.nn.decoder import PixelHead, PixelHeadConfig
from world_model.nn.pools import LearnedPoolConfig
from world_model.objectives.losses import FutureTerms, Loss, contrast_within_clips, weaken_clip_means
from world_model.objectives.masking import Mask
from world_model.objectives.metric import MetricConfig
from world_model.objectives.objective import Batch, FamilyConfig, Objective, Prediction, Teaching
from world_model.predictor import ActionPredictor, PredictorConfig
from world_model.training.appearance import AppearanceConfig, change_appearance


@dataclass(frozen=True)
class FutureConfig(FamilyConfig):
    """Defaults: this project's objective, chosen on `val` of reacher."""

    family: Literal["future"] = "future"
    """prediction of later frames from those before them"""
    frames: int = 5
    """frames of a clip (>= context_frames + rollout)"""
    frame_gap: Annotated[int, Ge(1)] = 2
    """environment steps between the frames of a clip"""
    context_frames: Annotated[int, Ge(1)] = 2
    """frames before each predicted one"""
    rollout: Annotated[int, Ge(1)] = 1
    """predictions in a row, each from those before it"""
    pixels: PixelHeadConfig | None = None
    """head that predicts the later frame's pixels; null: its pooled embedding is predicted"""
    loss: Loss = "l2"
    """error of a prediction: l1, l2, smooth_l1 or cosine"""
    shared_error: Annotated[float, Interval(ge=0, le=1)] = 1.0
    """weight of what the errors of a clip have in common (1: as of the rest); contrast within clips stays as it is"""
    prediction: Annotated[float, Gt(0)] = 3.5
    """weight of that error"""
    teacher: Teaching = "shared"
    """source of targets: an EMA teacher {ema, ema_end}, stop (no gradient) or shared (gradient on both sides)"""
    terms: FutureTerms = field(default_factory=lambda: FutureTerms(variance=5.0, covariance=5.0))
    """anti-collapse terms"""
    views: AppearanceConfig | None = None
    """random appearances of context and target, drawn apart for each clip; null: frames as they are"""
    metric: MetricConfig | None = field(default_factory=MetricConfig)
    """metric of the pooled embedding, fitted after training; null: none"""
    predictor: PredictorConfig = field(default_factory=lambda: PredictorConfig(width=128, depth=2))
    """transformer of the predictor"""

    retired: ClassVar[dict[str, bool]] = {"centred": False}  # a key before `shared_error`, with the value of no effect
    space: ClassVar[Literal["pooled", "tokens"]] = "pooled"
    masks: ClassVar[tuple[Mask, ...]] = ()

    def __post_init__(self) -> None:
        least = self.context_frames + self.rollout
        if self.frames < least:
            raise ValueError(
                f"objective.frames={self.frames} leaves too little to predict after objective.context_frames="
                f"{self.context_frames} with objective.rollout={self.rollout}: give at least {least}"
            )
        if self.shared_error < 1 and self.frames == least:
            raise ValueError(
                f"objective.shared_error={self.shared_error:g} compares the predictions of a clip, and "
                f"objective.frames={self.frames} holds one: give at least {least + 1}, or objective.shared_error=1"
            )
        if self.pixels is not None and self.pixels.channels is None:
            raise ValueError("objective.pixels.channels=null paints tokens, and this objective predicts one embedding")
        if self.pixels is not None and self.terms.contrast:
            raise ValueError(
                f"objective.terms.contrast={self.terms.contrast:g} compares embeddings, and objective.pixels predicts "
                "pixels: give objective.terms.contrast=0, or objective.pixels=null"
            )

    def adapt_encoder(self, sizes: EncoderConfig) -> EncoderConfig:
        """The published sizes have no pooled embedding: a learned one, where a metric weighs it."""
        return replace(sizes, pool=LearnedPoolConfig()) if self.metric is not None and sizes.pool is None else sizes

    def make(self, encoder: VideoEncoder, steps: int, seed: int, actions: ActionSpec | None) -> Future:
        """The objective around an encoder, for a run of so many steps."""
        return Future(self, encoder, steps, seed)


class Future(Objective):
    """Predict a later frame's pooled embedding, or its pixels, from the embeddings of those before it."""

    config: FutureConfig

    def __init__(self, config: FutureConfig, encoder: VideoEncoder, steps: int, seed: int) -> None:
        super().__init__(config, encoder, steps, seed)
        size = encoder.pooled_dim
        self.predictor = ActionPredictor(size, (1, 1), 0, config.predictor)
        self.pixel_head = None if config.pixels is None else PixelHead(size, encoder.config, True, config.pixels)

    def predict(self, encoder: VideoEncoder, batch: Batch, step: int, shard: WorldInfo = SINGLE_PROCESS) -> Prediction:
        """From every window of context_frames frames, the `rollout` frames after it."""
        config, frames_BTHWC, target_frames_BTHWC = self.config, batch["pixels"], batch["pixels"]
        if config.views is not None:
            frames_BTHWC, target_frames_BTHWC = self.draw_views(frames_BTHWC, step, shard)
        embedded_BTD = encoder.embed_chunks(frames_BTHWC)
        predicted = self.imagine(embedded_BTD)
        if self.pixel_head is None:
            same = config.views is None and self.teacher is None
            target = embedded_BTD if same else self.embed_targets(encoder, target_frames_BTHWC)
            target = target.detach() if config.teacher == "stop" else target
        else:
            predicted = [self.pixel_head(path.unsqueeze(-2)) for path in predicted]
            target = encoder.normalise(frames_BTHWC).movedim(1, -1)
        targets = [target[:, config.context_frames + k :] for k in range(config.rollout)]
        terms = config.terms.compute_between_clips(embedded_BTD)
        if config.terms.contrast:
            contrast = contrast_within_clips(predicted[0], target, config.context_frames, config.terms.contrast_scale)
            terms["contrast"] = config.terms.contrast * contrast
        if config.shared_error < 1:
            weaken = partial(weaken_clip_means, weight=config.shared_error)
            predicted, targets = list(map(weaken, predicted)), list(map(weaken, targets))
        terms = {"prediction": config.prediction * self.mean_error(predicted, targets)} | terms
        return Prediction(predicted, targets, config.terms.select(embedded_BTD), terms)

    def draw_views(self, frames_BTHWC: Tensor, step: int, shard: WorldInfo) -> tuple[Tensor, Tensor]:
        """The clips in two appearances, for the context and for the target."""
        assert self.config.views is not None
        total = len(frames_BTHWC) * shard.world
        rows = torch.arange(2 * step * total, 2 * (step + 1) * total, device=frames_BTHWC.device)
        first, second = (side[shard.split_rows(total)] for side in rows.chunk(2))
        views = [change_appearance(frames_BTHWC, draw, self.seed, self.config.views) for draw in (first, second)]
        return views[0], views[1]

    def embed_targets(self, encoder: VideoEncoder, frames_BTHWC: Tensor) -> Tensor:
        """Embeddings of the target's frames [B, T, D], by the teacher or else the encoder itself."""
        if self.teacher is None:
            return encoder.embed_chunks(frames_BTHWC)
        with torch.no_grad():
            return self.teacher.embed_chunks(frames_BTHWC)

    def imagine(self, embedded_BTD: Tensor) -> list[Tensor]:
        """Predictions 1..rollout steps ahead of every window of context_frames frames: k-th [B, T - context - k, D]."""
        window = embedded_BTD.unfold(1, self.config.context_frames, 1).transpose(2, 3)[:, :-1]  # [B, windows, ctx, D]
        paths = []
        for _ in range(self.config.rollout):
            batch = window.shape[0]
            flat = rearrange(window, "b w t d -> (b w) t 1 d")
            following = self.predictor(flat)[:, -1, 0].unflatten(0, (batch, -1))
            paths.append(following)
            window = torch.cat((window[:, :, 1:], following.unsqueeze(2)), 2)[:, :-1]
        return paths
