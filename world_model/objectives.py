"""Training objectives as pure functions: tensors in, (loss, terms) or a scalar out.

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

from world_model.masking import MaskConfig
from world_model.metric import MetricConfig
from world_model.predictor import PredictorConfig

TARGET_NORM_EPS = 1e-5


@dataclass(frozen=True)
class TermsConfig:
    """Weights of the anti-collapse terms; a weight of 0 leaves the term out. `on`: the features they look at."""

    on: Literal["pooled", "tokens"] = "pooled"
    variance: float = 0.0
    covariance: float = 0.0
    sigreg: float = 0.0
    sigreg_directions: int = 256


@dataclass(frozen=True)
class ObjectiveConfig:
    """One pretraining objective.

    teacher: `ema` (targets from an exponential moving average of the encoder), `stop` (from the encoder itself, no
    gradient), `shared` (from the encoder itself, gradient on both sides; needs anti-collapse terms).
    frames: frames of a clip. context_frames: with context=future, how many of them the predictor sees before each
    predicted one. rollout: with context=future and space=pooled, steps predicted in a row. metric: what the pooled
    embedding's distance is made to mean once it is trained.
    """

    context: Literal["masked", "future"] = "future"
    target: Literal["features", "pixels"] = "features"
    space: Literal["pooled", "tokens"] = "pooled"
    loss: Literal["l1", "l2"] = "l2"
    teacher: Literal["ema", "stop", "shared"] = "shared"
    ema: float = 0.99925
    ema_end: float = 0.99925
    frames: int = 5
    context_frames: int = 2
    rollout: int = 1
    frame_gap: int = 1
    prediction: float = 1.0
    terms: TermsConfig = field(default_factory=TermsConfig)
    metric: MetricConfig = field(default_factory=MetricConfig)
    masks: tuple[MaskConfig, ...] = ()
    predictor: PredictorConfig = field(default_factory=PredictorConfig)

    def __post_init__(self) -> None:
        if self.context == "masked" and self.space == "pooled":
            raise ValueError("objective.context=masked predicts hidden tokens: set objective.space=tokens")
        if self.context == "masked" and not self.masks:
            raise ValueError("objective.context=masked needs objective.masks, for example those of objective=vjepa2")
        if self.space == "tokens" and self.metric.kind != "none":
            raise ValueError("objective.metric weighs the pooled embedding: set objective.space=pooled, or kind=none")
        if self.context == "future" and self.frames <= self.context_frames:
            raise ValueError(
                f"objective.frames={self.frames} leaves nothing to predict after "
                f"objective.context_frames={self.context_frames}"
            )


def regression(prediction: Tensor, target: Tensor, loss: str) -> Tensor:
    """Mean absolute (l1) or mean squared (l2) error. V-JEPA 2 uses l1 on layer-normed targets (eq. 1)."""
    assert prediction.shape == target.shape, (prediction.shape, target.shape)
    return F.l1_loss(prediction, target) if loss == "l1" else F.mse_loss(prediction, target)


def normalised_target(features: Tensor) -> Tensor:
    """Teacher features after a LayerNorm without parameters, eps 1e-5 (V-JEPA 2, on top of the encoder's own norm)."""
    return F.layer_norm(features.float(), features.shape[-1:], eps=TARGET_NORM_EPS)


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
    distance = (phase.cos().mean(0) - normal).square() + phase.sin().mean(0).square()
    return len(features_ND) * (distance * (weights * normal)).sum(-1).mean()


def anti_collapse(features_ND: Tensor, config: TermsConfig, generator: torch.Generator) -> dict[str, Tensor]:
    """The weighted anti-collapse terms that are switched on, by name."""
    terms = {}
    features_ND = features_ND.float()
    if config.variance:
        terms["variance"] = config.variance * variance_hinge(features_ND)
    if config.covariance:
        terms["covariance"] = config.covariance * covariance(features_ND)
    if config.sigreg:
        terms["sigreg"] = config.sigreg * sigreg(features_ND, generator, config.sigreg_directions)
    return terms


def constant_predictor_loss(target: Tensor, loss: str) -> Tensor:
    """The loss of always predicting the batch's best constant vector: what a collapsed predictor would reach."""
    flat = target.flatten(0, -2)
    best = flat.median(0).values if loss == "l1" else flat.mean(0)
    return regression(best.expand_as(flat), flat, loss)
