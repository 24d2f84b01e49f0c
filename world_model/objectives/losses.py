"""Training objectives as pure functions: tensors in, (loss, terms) or a scalar out.

What an objective says of a whole batch (InfoNCE's other samples, the anti-collapse terms) is taken over the rows of all
processes, with exact gradients: `gathered` and `averaged` of world_model.distributed, which do nothing in one process.

An objective has two axes, what is visible (`context`: masked | future) and what is predicted (`target`: features |
pixels), a space in which it predicts (patch tokens or one pooled embedding a frame), and optional anti-collapse terms.
Presets are files in configs/objective; each names its source.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from world_model.distributed import averaged, gathered, place
from world_model.objectives.masking import MaskConfig
from world_model.objectives.metric import MetricConfig
from world_model.predictor import PredictorConfig

TARGET_NORM_EPS = 1e-5
PATCH_EPS = 1e-6

Loss = Literal["l1", "l2", "smooth_l1", "cosine"]


@dataclass(frozen=True)
class TermsConfig:
    """Weights of the anti-collapse terms; a weight of 0 leaves the term out.

    `on`: the features they look at; `centred`: whether less their mean over the clip, so that what moves within a clip
    fills the embedding, while the means' own spread is bounded. `infonce` compares predictions with their own and the
    other samples' targets, at `temperature`. Of PLDM, on embeddings of consecutive frames: `variance_time`, the hinge
    over time; `smoothness`, how far they are apart; `inverse`, the error of the action that a small network reads from
    two of them (needs actions).
    """

    on: Literal["pooled", "tokens"] = "pooled"
    centred: bool = False
    variance: float = 0.0
    covariance: float = 0.0
    sigreg: float = 0.0
    sigreg_directions: int = 256
    infonce: float = 0.0
    temperature: float = 0.1
    variance_time: float = 0.0
    smoothness: float = 0.0
    inverse: float = 0.0


@dataclass(frozen=True)
class ObjectiveConfig:
    """One pretraining objective.

    teacher: `ema` (targets from an exponential moving average of the encoder), `stop` (from the encoder itself, no
    gradient), `shared` (from the encoder itself, gradient on both sides; needs anti-collapse terms).
    frames: frames of a clip. context_frames: with context=future, how many of them the predictor sees before each
    predicted one. rollout: with context=future and space=pooled, steps predicted in a row. metric: what the pooled
    embedding's distance is made to mean once it is trained.
    context=causal: every token's next one is predicted by the encoder itself, which then sees the past alone (NEPA).
    levels: outputs of the encoder that are predicted together (V-JEPA 2.1: 4). average_blocks: the target is the mean
    of the last so many blocks, each layer-normed (data2vec). context_loss: weight of the same loss at visible tokens,
    less the farther they are from a hidden one; it grows from 0 between the two steps of context_warmup (V-JEPA 2.1).
    normalise_patches: pixels are predicted in units of their own patch's mean and deviation (MAE, VideoMAE).
    actions: whether the predictor is given the recorded actions, so that encoder and dynamics are learned end to end
    (LeWM, PLDM); frames are then one model step apart (frame_gap 0: the task's own), and predicted either each from
    the true ones before it (rollout 1), or in a row from the first context_frames.
    """

    context: Literal["masked", "future", "causal"] = "future"
    target: Literal["features", "pixels"] = "features"
    space: Literal["pooled", "tokens"] = "pooled"
    loss: Loss = "l2"
    teacher: Literal["ema", "stop", "shared"] = "shared"
    ema: float = 0.99925
    ema_end: float = 0.99925
    frames: int = 5
    context_frames: int = 2
    rollout: int = 1
    frame_gap: int = 1
    prediction: float = 1.0
    levels: int = 1
    average_blocks: int = 0
    context_loss: float = 0.0
    context_warmup: tuple[int, int] = (0, 0)
    normalise_patches: bool = False
    actions: bool = False
    terms: TermsConfig = field(default_factory=TermsConfig)
    metric: MetricConfig = field(default_factory=MetricConfig)
    masks: tuple[MaskConfig, ...] = ()
    predictor: PredictorConfig = field(default_factory=PredictorConfig)

    def __post_init__(self) -> None:
        if self.context == "masked" and self.space == "pooled":
            raise ValueError("objective.context=masked predicts hidden tokens: set objective.space=tokens")
        if self.context == "masked" and not self.masks:
            raise ValueError("objective.context=masked needs objective.masks, for example those of objective=vjepa2")
        if self.space == "pooled" and (self.levels > 1 or self.average_blocks or self.context_loss):
            raise ValueError("objective.levels, average_blocks and context_loss are about tokens: set space=tokens")
        if self.target == "pixels" and (self.levels > 1 or self.average_blocks or self.context == "causal"):
            raise ValueError("objective.levels, average_blocks and context=causal are about features: target=features")
        if self.levels > 1 and self.average_blocks:
            raise ValueError("objective.levels and objective.average_blocks are two ways to read many blocks: give one")
        if self.actions and (self.context, self.target, self.space) != ("future", "features", "pooled"):
            raise ValueError("objective.actions needs context=future, target=features and space=pooled")
        if self.actions and self.metric.kind != "none":
            raise ValueError("objective.metric would change the embedding under its own dynamics: set kind=none")
        if self.actions and self.rollout > 1 and self.frames < self.context_frames + self.rollout:
            raise ValueError(
                f"objective.rollout={self.rollout} needs at least {self.context_frames + self.rollout} frames"
            )
        if self.frame_gap < 1 and not self.actions:
            raise ValueError(f"objective.frame_gap={self.frame_gap} must be at least 1 (0 goes with actions alone)")
        if self.terms.inverse and not self.actions:
            raise ValueError("objective.terms.inverse reads actions: it goes with objective.actions=true")
        if self.terms.centred and (self.space, self.context) != ("pooled", "future"):
            raise ValueError("objective.terms.centred looks at embeddings of several frames: it goes with space=pooled")
        if self.terms.infonce and self.terms.temperature <= 0:
            raise ValueError(f"objective.terms.temperature={self.terms.temperature} must be above 0")
        if self.context == "future" and self.frames <= self.context_frames:
            raise ValueError(
                f"objective.frames={self.frames} leaves nothing to predict after "
                f"objective.context_frames={self.context_frames}"
            )


def regression(prediction: Tensor, target: Tensor, loss: Loss, weight: Tensor | None = None) -> Tensor:
    """Mean error. V-JEPA 2 uses l1 on layer-normed targets (eq. 1), I-JEPA l2, data2vec smooth_l1, NEPA cosine.

    cosine: 1 - cos over the last axis. weight: of every vector [...], before the mean.
    """
    assert prediction.shape == target.shape, (prediction.shape, target.shape)
    if loss == "cosine":
        error = 1 - F.cosine_similarity(prediction, target, dim=-1)
    elif weight is None:
        return {"l1": F.l1_loss, "l2": F.mse_loss, "smooth_l1": F.smooth_l1_loss}[loss](prediction, target)
    else:
        kind = {"l1": F.l1_loss, "l2": F.mse_loss, "smooth_l1": F.smooth_l1_loss}[loss]
        error = kind(prediction, target, reduction="none").mean(-1)
    return error.mean() if weight is None else (error * weight).mean()


def normalised_target(features: Tensor) -> Tensor:
    """Teacher features after a LayerNorm without parameters, eps 1e-5 (V-JEPA 2, on top of the encoder's own norm)."""
    return F.layer_norm(features.float(), features.shape[-1:], eps=TARGET_NORM_EPS)


def level_targets(outputs: list[Tensor]) -> Tensor:
    """Outputs of several levels, each layer-normed by itself, side by side (V-JEPA 2.1)."""
    return torch.cat([normalised_target(output) for output in outputs], -1)


def averaged_target(outputs: list[Tensor]) -> Tensor:
    """Mean of layer-normed outputs of several blocks (data2vec, arXiv 2202.03555, section 3.3)."""
    return torch.stack([normalised_target(output) for output in outputs]).mean(0)


def normalised_patches(patches_BNP: Tensor) -> Tensor:
    """Pixels of every patch less their mean, over their standard deviation (MAE, arXiv 2111.06377, section 4.1)."""
    mean = patches_BNP.mean(-1, keepdim=True)
    return (patches_BNP - mean) / (patches_BNP.var(-1, keepdim=True) + PATCH_EPS).sqrt()


def context_weights(context_BM: Tensor, target_BP: Tensor, places_N3: Tensor) -> Tensor:
    """Weights [B, M] of visible tokens: 1 / sqrt(distance to the nearest hidden one), in tokens over time, height and
    width (V-JEPA 2.1)."""
    places = places_N3.float()
    nearest = [torch.cdist(places[m], places[p]).amin(1) for m, p in zip(context_BM, target_BP, strict=True)]
    return torch.stack(nearest).rsqrt()


def ramp(step: int, start: int, end: int) -> float:
    """0 until `start`, 1 from `end` on, linear between."""
    return 1.0 if step >= end else max(0.0, (step - start) / max(1, end - start))


def infonce(predicted_ND: Tensor, target_ND: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of finding each prediction's own target among all targets, by cosine (CPC, arXiv 1807.03748, eq.
    4; temperature as in arXiv 2002.05709)."""
    scores = F.normalize(predicted_ND, dim=-1) @ F.normalize(gathered(target_ND), dim=-1).T / temperature
    own = torch.arange(len(scores), device=scores.device) + place().rank * len(scores)
    return F.cross_entropy(scores, own)


def variance_hinge(features_ND: Tensor, std: float = 1.0) -> Tensor:
    """VICReg's variance term: mean over dimensions of max(0, std - std_d) (arXiv 2105.04906, eq. 1)."""
    return F.relu(std - (features_ND.var(0) + 1e-4).sqrt()).mean()


def covariance(features_ND: Tensor) -> Tensor:
    """VICReg's covariance term: squared off-diagonal covariances, summed, over D (arXiv 2105.04906, eq. 3-4)."""
    centred = features_ND - features_ND.mean(0)
    cov = centred.T @ centred / (len(features_ND) - 1)
    return (cov.square().sum() - cov.diagonal().square().sum()) / features_ND.shape[1]


def sigreg(
    features_ND: Tensor,
    generator: torch.Generator,
    num_directions: int = 256,
    num_knots: int = 17,
    max_knot: float = 3.0,
) -> Tensor:
    """SIGReg: how far random 1-D projections are from a standard normal (LeJEPA 2511.08544, LeWM 2603.19312).

    Epps-Pulley statistic by the trapezoid rule over knots on [0, max_knot], weighted by the normal's characteristic
    function and doubled for the symmetric half; mean over directions, divided by nothing: it grows with N as a test
    statistic does.
    """
    directions = torch.randn(features_ND.shape[1], num_directions, generator=generator).to(features_ND)
    projections = features_ND @ F.normalize(directions, dim=0)
    knots = torch.linspace(0.0, max_knot, num_knots).to(features_ND)
    normal = torch.exp(-knots.square() / 2)
    weights = torch.full_like(knots, 2 * max_knot / (num_knots - 1))
    weights[[0, -1]] /= 2
    phase = projections.unsqueeze(-1) * knots
    real, imaginary = averaged(phase.cos().mean(0)), averaged(phase.sin().mean(0))
    distance = (real - normal).square() + imaginary.square()
    return place().world * len(features_ND) * (distance * (weights * normal)).sum(-1).mean()


def regularised_pooled(embedded_BTD: Tensor, config: TermsConfig) -> Tensor:
    """What the anti-collapse terms look at, of pooled embeddings of clips: [B * T, D]."""
    if config.centred:
        embedded_BTD = embedded_BTD - embedded_BTD.mean(1, keepdim=True)
    return embedded_BTD.flatten(0, 1)


def between_clips(embedded_BTD: Tensor, config: TermsConfig) -> dict[str, Tensor]:
    """Beside `centred` variance: what differs between clips alone may spread as wide as what moves in them, no wider.
    Nothing else would bound it, and dynamics would see little but what never moves."""
    if not (config.centred and config.variance):
        return {}
    means_BD = gathered(embedded_BTD.float().mean(1))
    return {"between": config.variance * F.relu((means_BD.var(0) + 1e-4).sqrt() - 1).mean()}


def over_time(embedded_BTD: Tensor, config: TermsConfig) -> dict[str, Tensor]:
    """PLDM's weighted terms on embeddings of consecutive frames that are switched on (arXiv 2502.14819, appendix)."""
    terms = {}
    if config.variance_time:
        std = (embedded_BTD.float().var(1) + 1e-4).sqrt()
        terms["variance_time"] = config.variance_time * F.relu(1 - std).mean()
    if config.smoothness:
        terms["smoothness"] = config.smoothness * embedded_BTD.float().diff(dim=1).square().mean()
    return terms


def anti_collapse(features_ND: Tensor, config: TermsConfig, generator: torch.Generator) -> dict[str, Tensor]:
    """The weighted anti-collapse terms that are switched on, by name."""
    terms = {}
    features_ND = features_ND.float()
    if config.variance or config.covariance:
        all_ND = gathered(features_ND)
    if config.variance:
        terms["variance"] = config.variance * variance_hinge(all_ND)
    if config.covariance:
        terms["covariance"] = config.covariance * covariance(all_ND)
    if config.sigreg:
        terms["sigreg"] = config.sigreg * sigreg(features_ND, generator, config.sigreg_directions)
    return terms


def constant_predictor_loss(target: Tensor, loss: Loss) -> Tensor:
    """The loss of always predicting the batch's best constant vector: what a collapsed predictor would reach."""
    flat = target.flatten(0, -2)
    if loss == "cosine":
        flat = F.normalize(flat, dim=-1)
    best = flat.median(0).values if loss in ("l1", "smooth_l1") else flat.mean(0)
    return regression(best.expand_as(flat), flat, loss)
