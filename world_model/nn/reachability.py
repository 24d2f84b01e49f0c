"""Reachability: an embedding of frames whose distance counts the model steps between them.

It is learned on `train` from time differences alone, without actions: frames k steps apart in an episode should be k
apart in the embedding. Recorded routes are detours, so an expectile far below the median estimates the shortest ones,
and the triangle inequality, which holds in any embedding, joins them. The Hilbert norm as distance is HILP's (arXiv
2402.15567, eq. 3), the expectile IQL's (arXiv 2110.06169, eq. 5), here fitted to recorded times.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor, nn

# (generator, pairs) -> features [P, F] of two frames each, and the model steps between them [P]; inf: other episodes
PairSource = Callable[[torch.Generator, int], tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True)
class ReachConfig:
    """The embedding and its training.

    Pairs from different episodes are pushed `far` apart. Frames from different episodes may be close in state, so a
    large `other_episodes` lets what differs between episodes outweigh what moves.
    """

    dim: Annotated[int, Ge(1)] = 32
    """size of the embedding"""
    hidden: Annotated[int, Ge(1)] = 256
    """width of the two hidden layers"""
    far: Annotated[int, Ge(1)] = 25
    """largest distance, in model steps"""
    expectile: Annotated[float, Interval(gt=0, le=0.5)] = 0.03
    """expectile of recorded path lengths (lower favours the shortest routes)"""
    other_episodes: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    """share of training pairs from different episodes"""
    steps: Annotated[int, Ge(1)] = 2000
    """optimiser steps"""
    batch_size: Annotated[int, Ge(2)] = 512
    """pairs per step"""
    lr: Annotated[float, Gt(0)] = 0.001
    """initial learning rate"""


class ReachHead(nn.Module):
    """Embeddings [..., F] -> [..., dim]; the distance of two is the root of the sum of squares, in model steps."""

    mean: Tensor
    scale: Tensor

    def __init__(self, feature_dim: int, dim: int, hidden: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(feature_dim))
        self.register_buffer("scale", torch.ones(()))
        self.layers = nn.Sequential(
            nn.Linear(feature_dim, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, dim),
        )

    def forward(self, pooled: Tensor) -> Tensor:
        return self.layers((pooled - self.mean) / self.scale)

    def set_statistics(self, pooled_FD: Tensor) -> None:
        """Mean, and common deviation, of embeddings of the train split."""
        self.mean.copy_(pooled_FD.mean(0))
        self.scale.copy_((pooled_FD - self.mean).square().mean().sqrt().clamp_min(1e-6))


def reach_loss(distance_P: Tensor, steps_P: Tensor, config: ReachConfig) -> Tensor:
    """Expectile regression of distances on recorded model steps; pairs at `far` or beyond need only be that far."""
    gap = steps_P.clamp_max(config.far) - distance_P
    gap = torch.where((steps_P >= config.far) & (gap < 0), 0.0, gap)
    # Frames of other episodes may be close in state, so their push has the small weight of detours.
    weight = torch.where(gap < 0, 1 - config.expectile, config.expectile)
    return (weight * gap.square()).mean() / config.far


def fit_reach(head: ReachHead, pairs: PairSource, config: ReachConfig, seed: int) -> dict[str, float]:
    """Train the head by AdamW with a linear decay; its loss, averaged over the last tenth of the steps."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(head.parameters(), lr=config.lr)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, config.steps)
    recent: list[Tensor] = []
    for _ in range(config.steps):
        one, other, steps_P = pairs(generator, config.batch_size)
        distance = (head(one) - head(other)).norm(dim=-1)
        loss = reach_loss(distance, steps_P, config)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        recent.append(loss.detach())
    return {"reach_loss": float(torch.stack(recent[-max(1, config.steps // 10) :]).mean())}


def make_pair_source(
    features_FD: Tensor, episodes: list[tuple[int, int]], frame_skip: int, config: ReachConfig
) -> PairSource:
    """Pairs of frames of the same episode, 1 to 2 * far model steps apart, and of different ones.

    episodes: first row in features_FD and number of frames of each. ValueError if none is longer than a model step.
    """
    firsts = torch.tensor([first for first, count in episodes if count > frame_skip])
    counts = torch.tensor([count for _, count in episodes if count > frame_skip])
    if not len(firsts):
        raise ValueError(f"dynamics.reach: no episode of train is longer than one model step of {frame_skip}")

    def sample(generator: torch.Generator, size: int) -> tuple[Tensor, Tensor, Tensor]:
        episode = torch.randint(len(firsts), (size,), generator=generator)
        most = ((counts[episode] - 1) // frame_skip).clamp_max(2 * config.far)
        steps = 1 + (torch.rand(size, generator=generator) * most).long().clamp_max(most - 1)
        room = counts[episode] - steps * frame_skip
        start = firsts[episode] + (torch.rand(size, generator=generator) * room).long()
        end, steps_P = start + steps * frame_skip, steps.float()
        others = round(config.other_episodes * size) if len(firsts) > 1 else 0
        if others:
            end[:others] = end[:others].roll(1)
            same = episode[:others] == episode[:others].roll(1)
            steps_P[:others] = torch.where(same, (end - start)[:others].abs() / frame_skip, torch.inf)
        return features_FD[start], features_FD[end], steps_P.to(features_FD.device)

    return sample
