"""A goal-conditioned value: features of the last frames and of a goal -> V(s, g), an estimate of the way left.

Two networks estimate it, each of three hidden layers with a layer norm after every activation, as OGBench's `GCValue`
(arXiv 2410.20092). Trained by `world_model.training.gcivl`: with a reward of -1 a step, V is minus the discounted
number of model steps to the goal.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Interval
from torch import Tensor, nn

from world_model.encoder import VideoEncoder
from world_model.nn.layers import init_xavier

MEMBERS = 2  # networks
NORM_EPS = 1e-6


@dataclass(frozen=True)
class ValueConfig:
    """Sizes of a GoalValue, and the discount that it was trained with."""

    width: Annotated[int, Ge(1)] = 512
    """width of the hidden layers of a value"""
    depth: Annotated[int, Ge(1)] = 3
    """hidden layers of a value"""
    discount: Annotated[float, Interval(gt=0, lt=1)] = 0.99
    """discount of a model step"""


class GoalValue(nn.Module):
    """Features [B, T, D] of frames and [B, D] of goals -> values [2, B] of two networks.

    history: T. encoder: trained with it, from pixels; None: features are given.
    """

    def __init__(
        self, config: ValueConfig, history: int, feature_dim: int, encoder: VideoEncoder | None = None
    ) -> None:
        super().__init__()
        self.config, self.history, self.encoder = config, history, encoder
        inputs = count_relations(history, feature_dim)
        self.members = nn.ModuleList(_make_network(inputs, config) for _ in range(MEMBERS))

    def forward(self, seen_BTD: Tensor, valid_BT: Tensor, goal_BD: Tensor) -> Tensor:
        """Values [2, B]."""
        relations = relate_frames(seen_BTD, valid_BT, goal_BD)
        return torch.stack([member(relations)[:, 0].float() for member in self.members])

    def embed(self, frames: Tensor) -> Tensor:
        """Features [B, T, D]: those given, or of pixels [B, T, H, W, C] for a value with an encoder."""
        return embed_frames(self.encoder, frames)

    def estimate_steps(self, seen_BTD: Tensor, valid_BT: Tensor, goal_BD: Tensor) -> Tensor:
        """Model steps to the goal [B], at least 0: d of the mean value V = -(1 - discount^d) / (1 - discount). Values
        below every sum of rewards give the longest way that single precision tells from an endless one."""
        discount = self.config.discount
        left_B = 1 + (1 - discount) * self(seen_BTD, valid_BT, goal_BD).mean(0)  # discount^d
        return left_B.clamp(torch.finfo(torch.float32).eps, 1).log() / math.log(discount)


def _make_network(inputs: int, config: ValueConfig) -> nn.Sequential:
    network = make_layers(inputs, config.width, config.depth, 1, lambda: nn.LayerNorm(config.width, eps=NORM_EPS))
    init_xavier(network)
    return network


def make_layers(inputs: int, width: int, depth: int, outputs: int, follow: Callable[[], nn.Module]) -> nn.Sequential:
    """`depth` hidden layers, each with GELU and then what `follow` makes, and a linear map."""
    widths = [inputs, *[width] * depth]
    layers: list[nn.Module] = []
    for before, after in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(before, after), nn.GELU(), follow()]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def count_relations(history: int, feature_dim: int) -> int:
    """Numbers that `relate_frames` gives."""
    return (history + 1) * feature_dim + history


def relate_frames(seen_BTD: Tensor, valid_BT: Tensor, goal_BD: Tensor) -> Tensor:
    """What a policy and a value see [B, I]: the newest frame, the goal and older frames relative to it, so that a zero
    means no change, and which frames were recorded."""
    now_BD = seen_BTD[:, -1]
    older = (seen_BTD[:, :-1] - now_BD[:, None]).flatten(1)
    return torch.cat((now_BD, goal_BD - now_BD, older, valid_BT.to(now_BD.dtype)), 1)


def embed_frames(encoder: VideoEncoder | None, frames: Tensor) -> Tensor:
    """Features [B, T, D] as they are, or those that an encoder makes of pixels [B, T, H, W, C]."""
    return frames.float() if encoder is None else encoder.embed_frames(frames)
