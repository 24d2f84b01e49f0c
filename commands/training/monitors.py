"""Evaluation of stage 1 on `val` while it trains: collapse, variance within episodes, probes and rank correlations,
beside raw pixels and a random encoder.

Probes and ranks need the true state; plain video and trajectories of unknown tasks get the other measurements. They may
choose a recipe, never a checkpoint: stage 1 always keeps its last one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.loader import Loader
from envs.task_spec import TaskSpec
from world_model.encoder import VideoEncoder
from world_model.nn.pools import normalise_tokens
from world_model.objectives.future import FutureConfig
from world_model.objectives.metric import MetricSource, fit_metric, fit_principal_pool
from world_model.objectives.pretrain_model import PretrainModel
from world_model.probing import probes

NEAR = 1.2  # distance below which a pair is near, in units of the task's least goal distance
NUM_FRAMES = 768  # frames of val that features are measured on
LEAST_FRAMES = 4  # frames per episode among them
METRIC_EPISODES = 128  # episodes of train that the metric is fitted to during training
ENCODE_CHUNK = 128  # frames encoded at once
# Panels of curves.png: {title: metric keys}.
CURVES = {
    "prediction loss on val": ("prediction", "constant"),
    "spread": ("feature_std",),
    "effective rank": ("effective_rank",),
    "share of variance within episodes": ("within_share", "within_share_pixels", "within_share_random"),
}
TRUTH_CURVES = {
    "probe of the true state, R2": ("probe", "probe_pixels", "probe_random"),
    "near-pair rank correlation": (
        "near_pair_correlation",
        "near_pair_correlation_pixels",
        "near_pair_correlation_random",
    ),
    "rank over all distances": ("rank", "rank_pixels", "rank_random"),
}
SCENE_CURVES = {  # of files whose scenes vary between episodes
    "rank between episodes": (
        "cross_episode_correlation",
        "cross_episode_correlation_pixels",
        "cross_episode_correlation_random",
    ),
}


def read_episodes(reader: Any, episodes: Any) -> Iterator[Tensor]:
    """All frames [T, H, W, C] of one episode after another."""
    for episode in episodes:
        yield torch.from_numpy(np.array(reader.column("pixels", int(episode))))


def select_frames(reader: Any) -> list[tuple[int, np.ndarray]]:
    """Evenly spaced episodes of val, each with evenly spaced rows: NUM_FRAMES in all, at least LEAST_FRAMES an episode,
    since ranks compare frames of one episode."""
    episodes = reader.episodes("val")
    most = NUM_FRAMES // LEAST_FRAMES
    if len(episodes) > most:
        episodes = episodes[np.linspace(0, len(episodes) - 1, most).astype(int)]
    per_episode = max(1, NUM_FRAMES // max(1, len(episodes)))
    return [
        (int(e), np.unique(np.linspace(0, reader.num_frames(int(e)) - 1, per_episode).astype(int))) for e in episodes
    ]


def read_selection(reader: Any, selection: list[tuple[int, np.ndarray]]) -> list[Tensor]:
    """The frames [T, H, W, C] of each selected episode."""
    return [torch.from_numpy(np.array(reader.column("pixels", episode)[rows])) for episode, rows in selection]


class Monitor:
    """Call with a step: its measurements by name. Of any video: losses on val batches; spread, effective rank and
    share of variance within episodes of the features of val frames.

    episodes: frames [T, H, W, C] of each of val. clips: [T, H, W, C] of train, which an embedding that is fitted is
    fitted on.
    """

    curves: Mapping[str, tuple[str, ...]] = CURVES

    def __init__(
        self, model: PretrainModel, episodes: list[Tensor], clips: list[Tensor], batches: Loader, device: torch.device
    ) -> None:
        self.model, self.clips, self.batches, self.device = model, clips, batches, device
        self.frames = torch.cat(episodes)
        self.groups = torch.cat([torch.full((len(frames),), number) for number, frames in enumerate(episodes)])
        self.references = self._measure_references()

    def __call__(self, step: int) -> dict[str, float]:
        """Losses and spread of the retained encoder's features, as trained; `_measure` of it and of references."""
        self.model.eval()
        encoder = self.model.trained_encoder
        fit_principal_pool(encoder, self.clips)
        features = self._encode(encoder)
        return {
            **self._compute_losses(step),
            **probes.measure_spread(features),
            **self._measure(features, encoder, ""),
            **self.references,
        }

    def find_warning(self, evaluations: list[dict[str, float]]) -> str | None:
        """What the numbers so far warn of."""
        config = self.model.config
        centred = getattr(config.terms, "centred", False)  # terms on tokens cannot be
        is_shrinkable = isinstance(config, FutureConfig) and config.views is not None and config.shared_error > 0
        return (
            probes.find_collapse(evaluations)
            or probes.find_constant_episodes(evaluations, config.space, centred)
            or (probes.find_shrunken_views(evaluations) if is_shrinkable else None)
        )

    def summarise(self, last: dict[str, float]) -> str:
        """The last numbers in one line."""
        return (
            f"prediction loss on val {last['prediction']:.3g} (a constant {last['constant']:.3g}), "
            f"effective rank {last['effective_rank']:.1f}"
        )

    def _measure(self, features: Tensor, encoder: VideoEncoder | None, suffix: str) -> dict[str, float]:
        """Share of the variance within episodes. encoder: of the features; None: they are pixels in 0..255."""
        return {f"within_share{suffix}": probes.measure_within_share(features, self.groups)}

    def _measure_references(self) -> dict[str, float]:
        """`_measure` of raw pixels, and of an untrained encoder."""
        reference = probes.make_random_encoder(self.model.encoder, self.model.seed + 1)
        fit_principal_pool(reference, self.clips)
        return {
            **self._measure(self.frames.flatten(1), None, "_pixels"),
            **self._measure(self._encode(reference), reference, "_random"),
        }

    @torch.no_grad()
    def _encode(self, encoder: VideoEncoder) -> Tensor:
        """Features [N, D] in the space the objective predicts in: pooled embeddings, or layer-normed
        tokens."""
        if self.model.config.space == "pooled":
            return self._embed(encoder)
        parts = [encoder.encode_frames(chunk[None])[0] for chunk in self.frames.to(self.device).split(ENCODE_CHUNK)]
        return normalise_tokens(torch.cat(parts)).flatten(1).float().cpu()

    @torch.no_grad()
    def _embed(self, encoder: VideoEncoder, source: MetricSource = "pooled") -> Tensor:
        """Pooled embeddings [N, D], or what their last linear map reads."""
        return encoder.embed_chunks(self.frames[None].to(self.device), source)[0].float().cpu()

    @torch.no_grad()
    def _compute_losses(self, step: int) -> dict[str, float]:
        batch = self.batches.read_batch(0)
        batch = {name: value.to(self.device) for name, value in batch.items()}
        return self.model.objective.measure_errors(self.model.encoder, batch, step)


class PretrainMonitor(Monitor):
    """Monitor of trajectories with a known task: also probes and rank correlations against the true state, each with
    the same number of the references (an untrained encoder has a metric of its own)."""

    def __init__(
        self,
        model: PretrainModel,
        reader: Any,
        task: TaskSpec,
        clips: list[Tensor],
        batches: Loader,
        device: torch.device,
    ) -> None:
        selection = select_frames(reader)
        self.task, self.scenes_vary = task, bool(reader.info.factors)
        self.curves = CURVES | TRUTH_CURVES | (SCENE_CURVES if self.scenes_vary else {})
        self.truth = torch.from_numpy(np.concatenate([reader.column("truth", e)[rows] for e, rows in selection]))
        self.targets = torch.from_numpy(task.probe_targets(self.truth.numpy()))
        super().__init__(model, read_selection(reader, selection), clips, batches, device)

    def summarise(self, last: dict[str, float]) -> str:
        """The last numbers in one line."""
        between = ""
        if self.scenes_vary:
            between = (
                f"between episodes {last['cross_episode_correlation']:.3f}, "
                f"{100 * last['within_share']:.2g} % of the variance within episodes, "
            )
        probe = f"probe R2 {last['probe']:.3f} (pixels {last['probe_pixels']:.3f}, random {last['probe_random']:.3f})"
        if math.isnan(last["probe"]):
            probe = f"probe R2 not measured (it needs {probes.PROBE_GROUPS} episodes of val)"
        near = last["near_pair_correlation"]
        near_pairs = "not measured (too few pairs)" if math.isnan(near) else f"{near:.3f}"
        return f"{probe}, near-pair rank correlation {near_pairs}, {between}effective rank {last['effective_rank']:.1f}"

    def _embed_under_metric(self, encoder: VideoEncoder) -> Tensor:
        """Pooled embeddings [N, D] under the objective's metric, in which plans measure distance."""
        if self.model.config.metric is None:
            return self._embed(encoder)
        metric = fit_metric(encoder, self.model.config.metric, (clip.to(self.device) for clip in self.clips))
        return metric(self._embed(encoder, metric.source))

    def _measure(self, features: Tensor, encoder: VideoEncoder | None, suffix: str) -> dict[str, float]:
        """All of `Monitor`, probe of the features, and rank correlations of the embedding with the true state."""
        measured = super()._measure(features, encoder, suffix)
        if encoder is None:
            features = features.float() / 255
        embedding = features if encoder is None else self._embed_under_metric(encoder)
        embedding = probes.reduce_dimensions(embedding)  # once for all ranks
        scenes = self.groups if self.scenes_vary else torch.zeros_like(self.groups)

        def rank(near: float) -> float:
            return probes.near_pair_correlation(embedding, self.truth, self._compute_distance, near, scenes)

        measured |= {
            f"probe{suffix}": probes.probe_r2(features, self.targets, self.groups),
            f"near_pair_correlation{suffix}": rank(NEAR * self.task.min_goal_distance),
            f"rank{suffix}": rank(math.inf),
        }
        if self.scenes_vary:
            measured[f"cross_episode_correlation{suffix}"] = probes.cross_episode_correlation(
                embedding, self.truth, self._compute_distance, self.groups
            )
        return measured

    def _compute_distance(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.from_numpy(np.asarray(self.task.distance(a.numpy(), b.numpy())))
