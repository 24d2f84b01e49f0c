"""Loss functions that objectives share: tensors in, a scalar or named terms out.

A term over a batch (InfoNCE's other samples, VICReg, SIGReg) covers the rows of all processes, with exact gradients
(`gather_rows`, `average` of world_model.distributed; in one process they change nothing).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import Tensor

from world_model.distributed import average, gather_rows, world_info

TARGET_NORM_EPS = 1e-5

Loss = Literal["l1", "l2", "smooth_l1", "cosine"]


@dataclass(frozen=True)
class TermsConfig:
    """Terms that keep features from collapsing; a weight of 0 leaves a term out."""

    variance: Annotated[float, Ge(0)] = 0.0
    """weight of VICReg's variance hinge"""
    covariance: Annotated[float, Ge(0)] = 0.0
    """weight of VICReg's covariance term"""
    sigreg: Annotated[float, Ge(0)] = 0.0
    """weight of SIGReg"""
    sigreg_directions: Annotated[int, Ge(1)] = 256
    """random directions of SIGReg"""
    infonce: Annotated[float, Ge(0)] = 0.0
    """weight of InfoNCE: the prediction's own target among all targets of the batch"""
    temperature: Annotated[float, Gt(0)] = 0.1
    """temperature of InfoNCE"""


@dataclass(frozen=True)
class TokenTerms(TermsConfig):
    """Terms of objectives that predict tokens."""

    features: Literal["pooled", "tokens"] = "pooled"
    """input of variance, covariance and SIGReg: pooled (mean over a clip's tokens) or tokens (each of them)"""

    def select(self, tokens_BND: Tensor) -> Tensor:
        """Features [samples, D] that the terms are taken of."""
        return tokens_BND.mean(1) if self.features == "pooled" else tokens_BND.flatten(0, 1)


@dataclass(frozen=True)
class ClipTerms(TermsConfig):
    """Terms on the embeddings of a clip's frames."""

    centred: bool = False
    """terms on embeddings less their mean over the clip, so that what moves within a clip fills the embedding"""

    # Keys of runs before the family `future` alone had them, with the values that had no effect (`fill_defaults`).
    retired: ClassVar[dict[str, float]] = {"contrast": 0.0, "contrast_scale": 0.1}

    def select(self, embedded_BTD: Tensor) -> Tensor:
        """Features [B * T, D] that the terms are taken of."""
        return (centre_clips(embedded_BTD) if self.centred else embedded_BTD).flatten(0, 1)

    def compute_between_clips(self, embedded_BTD: Tensor) -> dict[str, Tensor]:
        """Hinge beside `centred` variance: the standard deviation of clips' means is kept below 1, that of what moves.
        Otherwise the dynamics would hardly see anything that moves."""
        if not (self.centred and self.variance):
            return {}
        means_BD = gather_rows(embedded_BTD.float().mean(1))
        return {"between": self.variance * F.relu((means_BD.var(0) + 1e-4).sqrt() - 1).mean()}


@dataclass(frozen=True)
class FutureTerms(ClipTerms):
    """Terms of the family `future`, with contrast within clips."""

    contrast: Annotated[float, Ge(0)] = 0.0
    """weight of contrast within clips: a prediction's own frame among the frames of its clip"""
    contrast_scale: Annotated[float, Gt(0)] = 0.1
    """mean squared error that lowers a frame's logit by 1"""


def regression(prediction: Tensor, target: Tensor, loss: Loss, weight: Tensor | None = None) -> Tensor:
    """Mean error. V-JEPA 2 uses l1 on layer-normed targets (eq. 1), I-JEPA l2, data2vec smooth_l1, NEPA cosine.

    cosine: 1 - cos over the last axis. weight: of every vector [...], before the mean.
    """
    assert prediction.shape == target.shape, (prediction.shape, target.shape)
    if loss == "cosine":
        error = 1 - F.cosine_similarity(prediction, target, dim=-1)
    else:
        compute = {"l1": F.l1_loss, "l2": F.mse_loss, "smooth_l1": F.smooth_l1_loss}[loss]
        if weight is None:
            return compute(prediction, target)
        error = compute(prediction, target, reduction="none").mean(-1)
    return error.mean() if weight is None else (error * weight).mean()


def normalise_target(features: Tensor) -> Tensor:
    """Teacher features after a LayerNorm without parameters, eps 1e-5 (V-JEPA 2, after the encoder's own norm)."""
    return F.layer_norm(features.float(), features.shape[-1:], eps=TARGET_NORM_EPS)


def infonce(predicted_ND: Tensor, target_ND: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of each prediction's own target among all targets, by cosine (CPC, arXiv 1807.03748, eq. 4;
    temperature as in arXiv 2002.05709)."""
    scores = F.normalize(predicted_ND, dim=-1) @ F.normalize(gather_rows(target_ND), dim=-1).T / temperature
    own = torch.arange(len(scores), device=scores.device) + world_info().rank * len(scores)
    return F.cross_entropy(scores, own)


def contrast_within_clips(predicted_BWD: Tensor, embedded_BTD: Tensor, first: int, scale: float) -> Tensor:
    """Cross-entropy of finding each prediction's own frame among all frames of the same clip.

    predicted[:, w] predicts embedded[:, first + w]; logits are negative mean squared errors over `scale`. What is
    constant within a clip cannot lower it (time-contrastive learning: Hyvarinen & Morioka, arXiv 1605.06336; CPC, arXiv
    1807.03748, with the negatives of one sequence).
    """
    errors_BWT = (predicted_BWD.unsqueeze(2) - embedded_BTD.unsqueeze(1)).float().square().mean(-1)
    own = first + torch.arange(errors_BWT.shape[1], device=errors_BWT.device)
    return F.cross_entropy(-errors_BWT.flatten(0, 1) / scale, own.repeat(len(errors_BWT)))


def centre_clips(values_BT: Tensor) -> Tensor:
    """Values [B, T, ...] of clips, less their mean over each clip."""
    return weaken_clip_means(values_BT, 0.0)


def weaken_clip_means(values_BT: Tensor, weight: float) -> Tensor:
    """Values [B, T, ...] of clips whose mean over each clip is scaled by sqrt(weight).

    The squared error of such values is that of the centred values, plus `weight` times that of the means.
    """
    return values_BT - (1 - weight**0.5) * values_BT.mean(1, keepdim=True)


def variance_hinge(features: Tensor, std: float = 1.0) -> Tensor:
    """VICReg's variance term: mean over dimensions of max(0, std - std_d) (arXiv 2105.04906, eq. 1).

    features [..., N, D]: the deviation is over the N rows of each sample, and the mean over the samples, too.
    """
    return F.relu(std - (features.var(-2) + 1e-4).sqrt()).mean()


def covariance(features: Tensor) -> Tensor:
    """VICReg's covariance term: squared off-diagonal covariances, summed, over D (arXiv 2105.04906, eq. 3-4).

    features [..., N, D]: covariances are over the N rows of each sample; mean over the samples.
    """
    num_rows, size = features.shape[-2:]
    centred = features - features.mean(-2, keepdim=True)
    cov = centred.mT @ centred / (num_rows - 1)
    off_diagonal = cov.square().sum() - cov.diagonal(dim1=-2, dim2=-1).square().sum()
    return off_diagonal / size / features[..., 0, 0].numel()


def covariance_of_pairs(features: Tensor) -> Tensor:
    """PLDM's covariance term (arXiv 2502.14819, appendix): mean squared covariance of two different dimensions, which
    is VICReg's over D - 1."""
    return covariance(features) / max(1, features.shape[-1] - 1)


def draw_directions(size: int, count: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """Random unit directions [size, count], drawn on the CPU, of the device and type of `like`."""
    on_gpu = like.device.type == "cuda"
    directions = torch.randn(size, count, generator=generator, pin_memory=on_gpu)
    return F.normalize(directions.to(like, non_blocking=True), dim=0)


def sigreg(features: Tensor, directions_DP: Tensor, num_knots: int = 17, max_knot: float = 3.0) -> Tensor:
    """SIGReg: distance of 1-D projections from a standard normal (LeJEPA 2511.08544, LeWM 2603.19312).

    features [..., N, D]: one Epps-Pulley statistic over the N rows of each sample and along each unit direction; mean
    over directions and samples. By the trapezoid rule over knots on [0, max_knot], weighted by the normal's
    characteristic function and doubled for the symmetric half. It grows with N, as a test statistic does.
    """
    projections = features @ directions_DP
    knots = torch.linspace(0.0, max_knot, num_knots, device=features.device, dtype=features.dtype)
    normal = torch.exp(-knots.square() / 2)
    weights = torch.full_like(knots, 2 * max_knot / (num_knots - 1))
    weights[0] /= 2
    weights[-1] /= 2
    phase = projections.unsqueeze(-1) * knots
    real, imaginary = average(phase.cos().mean(-3)), average(phase.sin().mean(-3))
    distance = (real - normal).square() + imaginary.square()
    return world_info().world * features.shape[-2] * (distance * (weights * normal)).sum(-1).mean()


def compute_anti_collapse(
    features: Tensor,
    config: TermsConfig,
    generator: torch.Generator,
    spread_ND: Tensor | None = None,
    measure: Callable[[Tensor], Tensor] = covariance,
) -> dict[str, Tensor]:
    """Weighted anti-collapse terms by name, those with a weight: SIGReg of features [..., N, D], variance and
    covariance of `spread_ND` (None: of the features). measure: the covariance term."""
    terms, features = {}, features.float()
    if config.variance or config.covariance:
        all_ND = gather_rows(features if spread_ND is None else spread_ND.float())
    if config.variance:
        terms["variance"] = config.variance * variance_hinge(all_ND)
    if config.covariance:
        terms["covariance"] = config.covariance * measure(all_ND)
    if config.sigreg:
        directions = draw_directions(features.shape[-1], config.sigreg_directions, generator, features)
        terms["sigreg"] = config.sigreg * sigreg(features, directions)
    return terms


def constant_predictor_loss(target: Tensor, loss: Loss) -> Tensor:
    """Loss of the batch's best constant vector: what a collapsed predictor would reach."""
    flat = target.flatten(0, -2)
    if loss == "cosine":
        flat = F.normalize(flat, dim=-1)
    best = flat.median(0).values if loss in ("l1", "smooth_l1") else flat.mean(0)
    return regression(best.expand_as(flat), flat, loss)
