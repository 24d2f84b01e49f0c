"""What stage 1 is watched by, on `val`: collapse, probes and near rank, beside pixels and a random encoder.

These numbers read the true state. They may choose a recipe, never a checkpoint: stage 1 always keeps its last
one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data.loader import Loader
from envs.tasks import TaskSpec
from world_model import probes
from world_model.encoder import VideoEncoder
from world_model.objectives import constant_predictor_loss, regression
from world_model.pretrain import PretrainModel, embed_frames, fit_metric, fit_summary

NEAR = 1.2  # pairs count as near below this many of the task's least goal distance
NUM_FRAMES = 768
METRIC_EPISODES = 128  # episodes of train that the metric is fitted on while training goes on
ENCODE_CHUNK = 128  # frames encoded at once


def whole_episodes(reader: Any, episodes: Any) -> Iterator[Tensor]:
    """All frames [T, H, W, C] of one episode after another."""
    for episode in episodes:
        yield torch.from_numpy(np.array(reader.column("pixels", int(episode))))


class PretrainMonitor:
    """Call with a step: the numbers of that moment, by name."""

    def __init__(
        self, model: PretrainModel, reader: Any, task: TaskSpec, batches: Loader, device: torch.device
    ) -> None:
        self.model, self.task, self.batches, self.device = model, task, batches, device
        episodes = reader.episodes("val")
        per_episode = max(1, NUM_FRAMES // max(1, len(episodes)))
        frames, truth, groups = [], [], []
        for episode in episodes:
            count = reader.num_frames(int(episode))
            rows = np.unique(np.linspace(0, count - 1, per_episode).astype(int))
            frames.append(reader.column("pixels", int(episode))[rows])
            truth.append(reader.column("truth", int(episode))[rows])
            groups.append(np.full(len(rows), episode))
        chosen = reader.episodes("train")[:METRIC_EPISODES]
        self.clips = list(whole_episodes(reader, chosen))
        self.frames = torch.from_numpy(np.concatenate(frames))
        self.truth = torch.from_numpy(np.concatenate(truth))
        self.groups = torch.from_numpy(np.concatenate(groups))
        self.scenes = self.groups if reader.info.factors else torch.zeros_like(self.groups)
        self.targets = torch.from_numpy(task.probe_targets(self.truth.numpy()))
        self.references = self._references()

    def __call__(self, step: int) -> dict[str, float]:
        """Spread and effective rank of the kept encoder's features as trained; probe of them, near rank of the pooled
        embedding under the objective's metric; losses on val batches."""
        self.model.eval()
        encoder = self.model.trained_encoder
        features, embedded = self._features(encoder), self._measured(encoder)
        return {
            **self._losses(step),
            **probes.spread(features),
            **self._judge(features, embedded, ""),
            **self.references,
        }

    def warning(self, evaluations: list[dict[str, float]]) -> str | None:
        """What the numbers so far warn of."""
        return probes.collapse_warning(evaluations)

    @torch.no_grad()
    def _features(self, encoder: VideoEncoder) -> Tensor:
        """Features [N, D] in the space the objective predicts in: pooled embeddings, or layer-normed
        tokens."""
        if self.model.objective.space == "pooled":
            return self._embedded(encoder)
        parts = [encoder.encode_frames(chunk[None])[0] for chunk in self.frames.to(self.device).split(ENCODE_CHUNK)]
        tokens = torch.cat(parts)
        return F.layer_norm(tokens, tokens.shape[-1:]).flatten(1).float().cpu()

    @torch.no_grad()
    def _embedded(self, encoder: VideoEncoder) -> Tensor:
        """Pooled embeddings [N, D]."""
        return embed_frames(encoder, self.frames[None].to(self.device))[0].float().cpu()

    def _measured(self, encoder: VideoEncoder) -> Tensor:
        """Pooled embeddings [N, D] under the objective's metric: where plans measure distance."""
        fit_summary(encoder, self.clips)
        metric = fit_metric(encoder, self.model.objective.metric, (clip.to(self.device) for clip in self.clips))
        embedded = self._embedded(encoder)
        return embedded if metric is None else (embedded - metric[0].float()) @ metric[1].float()

    def _judge(self, features: Tensor, embedded: Tensor, suffix: str) -> dict[str, float]:
        """Probe of the features; near rank of the embedding, and the same rank correlation over pairs at every
        distance."""
        embedded = probes.compact(embedded)  # once for both ranks

        def rank(near: float) -> float:
            return probes.near_rank(embedded, self.truth, self._distance, near, self.scenes)

        return {
            f"probe{suffix}": probes.probe_r2(features, self.targets, self.groups),
            f"near_rank{suffix}": rank(NEAR * self.task.min_goal_distance),
            f"rank{suffix}": rank(math.inf),
        }

    def _distance(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.from_numpy(np.asarray(self.task.distance(a.numpy(), b.numpy())))

    def _references(self) -> dict[str, float]:
        """The same for raw pixels and for an encoder that was never trained, under a metric of its own."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.model.seed + 1)
            untrained = VideoEncoder(self.model.encoder.config)
        untrained.set_pixel_statistics(self.model.encoder.pixel_mean.cpu(), self.model.encoder.pixel_std.cpu())
        untrained.to(self.device).eval()
        pixels = self.frames.flatten(1).float() / 255
        return {
            **self._judge(pixels, pixels, "_pixels"),
            **self._judge(self._features(untrained), self._measured(untrained), "_random"),
        }

    @torch.no_grad()
    def _losses(self, step: int) -> dict[str, float]:
        batch = self.batches.batch(0)
        made = self.model.predict({name: value.to(self.device) for name, value in batch.items()}, step)
        loss = self.model.objective.loss
        pairs = list(zip(made.predicted, made.targets, strict=True))
        predicted = torch.stack([regression(p.float(), t.float(), loss) for p, t in pairs]).mean()
        constant = torch.stack([constant_predictor_loss(t.float(), loss) for _, t in pairs]).mean()
        return {"prediction": predicted.item(), "constant": constant.item()}
