"""Pooled embeddings of clips: how they are made, what keeps them spread out, and how a pool is fitted on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from world_model.distributed import gather_rows
from world_model.encoder import EncoderConfig, VideoEncoder
from world_model.nn.pools import PrincipalPool, PrincipalPoolConfig
from world_model.objectives.losses import TermsConfig
from world_model.objectives.metric import Metric, MetricConfig, MetricSource, find_slow_modes, make_metric_map

FRAMES_PER_CHUNK = 64  # activations of more frames at once leave a CPU's caches
SUMMARY_FRAMES = 1024  # frames that principal components of tokens are fitted on


@dataclass(frozen=True)
class ClipTerms(TermsConfig):
    """Anti-collapse terms on the embeddings of a clip's frames."""

    centred: bool = False
    """whether each clip's mean embedding is subtracted first, so that what moves within a clip fills the embedding"""

    def select(self, embedded_BTD: Tensor) -> Tensor:
        """Features [B * T, D] that the terms are taken of."""
        if self.centred:
            embedded_BTD = embedded_BTD - embedded_BTD.mean(1, keepdim=True)
        return embedded_BTD.flatten(0, 1)

    def compute_between_clips(self, embedded_BTD: Tensor) -> dict[str, Tensor]:
        """Hinge beside `centred` variance: the means of clips may spread as wide as what moves in them, no wider.
        Nothing else would bound it, and dynamics would see little but what never moves."""
        if not (self.centred and self.variance):
            return {}
        means_BD = gather_rows(embedded_BTD.float().mean(1))
        return {"between": self.variance * F.relu((means_BD.var(0) + 1e-4).sqrt() - 1).mean()}


def make_principal_config(sizes: EncoderConfig) -> PrincipalPoolConfig | None:
    """Principal components in the place of the encoder's pool, of as many numbers; None where it has none."""
    return None if sizes.pool is None else PrincipalPoolConfig(sizes.pool.dim)


def pooled_size(encoder: VideoEncoder) -> int:
    """Numbers of the encoder's pooled embedding; ValueError where it has none."""
    if encoder.pool is None:
        raise ValueError("this objective predicts pooled embeddings: set encoder.pool.kind=learned")
    return encoder.pool.out.out_features


def embed_frames(encoder: VideoEncoder, frames_BTHWC: Tensor, source: MetricSource = "pooled") -> Tensor:
    """Pooled embeddings [B, T, D] of frames, each encoded alone, in chunks that fit a CPU's caches; or what the
    pool's last linear map reads."""
    embed = encoder.embed_frames if source == "pooled" else encoder.read_pool_inputs
    flat = frames_BTHWC.flatten(0, 1)
    size = FRAMES_PER_CHUNK if flat.device.type == "cpu" else len(flat)
    parts = [embed(chunk[None])[0] for chunk in flat.split(size)]
    return torch.cat(parts).unflatten(0, frames_BTHWC.shape[:2])


@torch.no_grad()
def fit_principal_pool(encoder: VideoEncoder, episodes: Sequence[Tensor]) -> None:
    """Fit the encoder's principal components on frames [T, H, W, C] of episodes; nothing for a pool that is trained."""
    if not isinstance(encoder.pool, PrincipalPool):
        return
    frames, device = torch.cat(list(episodes)), encoder.pixel_mean.device
    chunks = frames[:: -(-len(frames) // SUMMARY_FRAMES)].split(FRAMES_PER_CHUNK)
    encoder.pool.fit(torch.cat([encoder.encode_frames(chunk[None].to(device))[0] for chunk in chunks]))


@torch.no_grad()
def fit_metric(encoder: VideoEncoder, config: MetricConfig, episodes: Iterable[Tensor]) -> Metric:
    """The metric of an encoder's pooled embedding, fitted on consecutive frames [T, H, W, C] of whole episodes."""
    encoder.eval()
    modes = find_slow_modes([embed_frames(encoder, frames[None], config.source)[0] for frames in episodes], config.lag)
    return Metric(config.source, modes.mean_D, make_metric_map(modes, config, encoder.pooled_dim))
