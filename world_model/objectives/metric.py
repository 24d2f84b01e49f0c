"""The metric of an embedding: linear weights that make Euclidean distance grow with the time between two frames.

A regularised embedding weighs slow and fast quantities alike, so its distance orders near pairs alone. Its slow modes
are the directions of greatest autocorrelation over a time lag (tICA: Molgedey & Schuster 1994; Perez-Hernandez et al.,
J. Chem. Phys. 139, 2013). With whitened values psi_i, correlations rho_i and timescales t_i = -lag / ln rho_i, they
approximate the eigenfunctions of the process, and known distances are sums over them:

    kinetic      sum_i rho_i^2 (psi_i(x) - psi_i(y))^2     Noe & Clementi, J. Chem. Theory Comput. 11, 2015
    commute      sum_i t_i / 2 (...)^2                     Noe, Banisch & Clementi, J. Chem. Theory Comput. 12, 2016
    biharmonic   sum_i t_i^2 (...)^2                       Lipman, Rustamov & Funkhouser, ACM Trans. Graph. 29, 2010

It is fitted on training video alone, without actions, states or gradients, and folded into the last linear map of the
pool. Where scenes vary, each frame is seen in a random appearance of its own: what depends on appearance then has no
autocorrelation, and gets little weight. Principal components of tokens, the pool of objectives that predict tokens, are
fitted here, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from world_model.encoder import FRAMES_PER_CHUNK, VideoEncoder
from world_model.nn.pools import Pool, PrincipalPool
from world_model.training.appearance import AppearanceConfig, change_appearance

LEAST_POWER = 1e-4  # least variance of a direction, as a share of the largest
RHO_RANGE = (1e-3, 0.999)  # autocorrelations; below is noise, above a standstill
SEED = 0  # of the random appearances
SUMMARY_FRAMES = 1024  # frames that principal components of tokens are fitted on

Kind = Literal["kinetic", "commute", "biharmonic"]
MetricSource = Literal["pooled", "inputs"]


@dataclass(frozen=True)
class MetricConfig:
    """Metric of the pooled embedding, fitted after training."""

    kind: Kind = "biharmonic"
    """weight of each slow mode: kinetic, commute or biharmonic distance"""
    lag: Annotated[int, Ge(1)] = 2
    """lag of the autocorrelation, environment steps"""
    episodes: Annotated[int, Ge(1)] = 400
    """training episodes it is fitted on, at most"""
    source: MetricSource = "pooled"
    """features whose slow modes are sought: pooled, or inputs (of the pool's last linear map, which they replace)"""
    modes: Annotated[int, Ge(0)] = 0
    """modes retained, slowest first; 0: as many as the embedding has dimensions"""
    views: AppearanceConfig | None = None
    """random appearances that frames are seen in, one for each frame; null: frames as they are"""


@dataclass(frozen=True)
class Metric:
    """(x - mean_I) @ matrix_ID: an embedding of `source` features whose Euclidean distance is the metric."""

    source: MetricSource
    mean_I: Tensor
    matrix_ID: Tensor

    def __call__(self, values: Tensor) -> Tensor:
        """Embed float32 features [..., I]."""
        return (values - self.mean_I.float()) @ self.matrix_ID.float()

    @torch.no_grad()
    def fold_into(self, pool: Pool) -> None:
        """Fold the metric into the pool's last linear map, or put it in the map's place (source="inputs")."""
        mean, matrix = self.mean_I.cpu().double(), self.matrix_ID.cpu().double()
        weight, bias = pool.out.weight.cpu().double(), pool.out.bias.cpu().double()
        if self.source == "inputs":
            weight, bias = torch.eye(len(mean), dtype=torch.float64), torch.zeros_like(mean)
        pool.out.weight.copy_(matrix.T @ weight)
        pool.out.bias.copy_((bias - mean) @ matrix)


@dataclass(frozen=True)
class SlowModes:
    """Modes of an embedding of D values, slowest first: within episodes, psi = (x - mean_D) @ directions_DK has unit
    variance and no correlation between modes; rho_K is each one's autocorrelation over the lag.
    """

    mean_D: Tensor
    directions_DK: Tensor
    rho_K: Tensor


def find_slow_modes(episodes: Sequence[Tensor], lag: int) -> SlowModes:
    """Slow modes of embeddings [T, D] of full episodes, as of a reversible process (both directions of time count).

    Each episode is centred first, since what differs between episodes alone (a door's position) separates no two frames
    of one. ValueError if no episode is longer than the lag. Float64, on the CPU.
    """
    long = [episode.double().cpu() for episode in episodes if len(episode) > lag]
    if not long:
        raise ValueError(f"objective.metric.lag={lag}: no training episode is longer than that")
    mean = torch.cat(long).mean(0)
    centred = [episode - episode.mean(0) for episode in long]
    early, late = torch.cat([e[:-lag] for e in centred]), torch.cat([e[lag:] for e in centred])
    power, axes = torch.linalg.eigh((early.T @ early + late.T @ late) / (2 * len(early)))
    retained = power > LEAST_POWER * power.max().clamp_min(1e-30)
    whiten = axes[:, retained] / power[retained].sqrt()
    early, late = early @ whiten, late @ whiten
    across = early.T @ late / len(early)
    rho, rotation = torch.linalg.eigh((across + across.T) / 2)
    return SlowModes(mean, (whiten @ rotation).flip(1), rho.flip(0).clamp(*RHO_RANGE))


def make_metric_map(modes: SlowModes, config: MetricConfig, size: int) -> Tensor:
    """Matrix [D, size] from centred embeddings to coordinates whose Euclidean distance is the metric.

    Coordinates are slowest first and of unit mean square within episodes; surplus ones are zero.
    """
    rho = modes.rho_K[: min(size, config.modes or size)]
    time = -config.lag / rho.log()
    weights = {"kinetic": rho, "commute": (time / 2).sqrt(), "biharmonic": time}[config.kind]
    matrix = torch.zeros(len(modes.mean_D), size, dtype=torch.float64)
    matrix[:, : len(rho)] = modes.directions_DK[:, : len(rho)] * weights / weights.square().sum().div(size).sqrt()
    return matrix


@torch.no_grad()
def fit_metric(encoder: VideoEncoder, config: MetricConfig, episodes: Iterable[Tensor]) -> Metric:
    """The metric of an encoder's pooled embedding, from consecutive frames [T, H, W, C] of full episodes."""
    encoder.eval()
    embedded, seen = [], 0
    for frames in episodes:
        if config.views is not None:
            draws = torch.arange(seen, seen + len(frames), device=frames.device)
            frames = change_appearance(frames.unsqueeze(1), draws, SEED, config.views).squeeze(1)
        embedded.append(encoder.embed_chunks(frames[None], config.source)[0])
        seen += len(frames)
    modes = find_slow_modes(embedded, config.lag)
    return Metric(config.source, modes.mean_D, make_metric_map(modes, config, encoder.pooled_dim))


@torch.no_grad()
def fit_principal_pool(encoder: VideoEncoder, episodes: Sequence[Tensor]) -> None:
    """Fit the encoder's principal components on frames [T, H, W, C] of episodes; other pools stay as they are."""
    if not isinstance(encoder.pool, PrincipalPool):
        return
    frames, device = torch.cat(list(episodes)), encoder.pixel_mean.device
    chunks = frames[:: -(-len(frames) // SUMMARY_FRAMES)].split(FRAMES_PER_CHUNK)
    encoder.pool.fit(torch.cat([encoder.encode_frames(chunk[None].to(device))[0] for chunk in chunks]))
