"""Projected gradient descent: steps against the gradient, each followed by the nearest point that is allowed.

Allowed are the action bounds, and if wanted a bound on the change between consecutive actions and on the norm
of an action. The nearest point of their intersection is found by Dykstra's alternating projections (Boyle and
Dykstra 1986); a last pass makes it allowed exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from planners.gradient import TINY, DescendingPlanner, Memory, anneal
from planners.settings import NoiseConfig, check_learning_rate, check_not_negative, check_share

Projection = Callable[[Tensor], Tensor]

ROUNDS = 12  # of alternating projections a step


@dataclass(frozen=True)
class ProjectedGradientConfig(NoiseConfig):
    """`NoiseConfig` for projected descents: samples are the starts, iterations the steps.

    The plan is the best point of any start (`return_best`), else the best of the points where the descents end.
    The step's size changes linearly.
    """

    std_init: float = 0.4
    return_best: bool = True
    noise_beta: float = 3.0
    least_samples: ClassVar[int] = 1

    samples: int = 6
    """starts that descend at once (>= 1)"""
    iterations: int = 32
    """gradient steps per start (>= 1)"""
    learning_rate: float = 0.1
    """root mean square of the first step, in half action ranges (> 0)"""
    lr_end: float = 0.01
    """size of the last step, as a share of learning_rate (0 to 1)"""
    momentum: float = 0.8
    """share of the previous step that is added (0 to below 1)"""
    max_change: float = 0.0
    """largest change of a number between consecutive actions, in half action ranges (>= 0; 0: no limit)"""
    max_norm: float = 0.0
    """largest L2 norm of an action from the middle, in half action ranges (>= 0; 0: no limit)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_learning_rate(self.learning_rate, self.lr_end)
        check_share(self, "momentum")
        check_not_negative(self, "max_change", "max_norm")


def project_actions(x: Tensor, action_dim: int, max_change: float, max_norm: float) -> Tensor:
    """The allowed point nearest to x [..., K, A]; action_dim: numbers in one environment action."""
    steps = x.unflatten(-1, (-1, action_dim)).flatten(-3, -2)  # [..., environment steps, one action]
    if max_norm and not max_change:
        sets: list[Projection] = [_clip_box, lambda y: _project_ball(y, max_norm)]
    elif max_change:
        sets = [_clip_box, lambda y: _project_pairs(y, max_change, 0), lambda y: _project_pairs(y, max_change, 1)]
        sets += [lambda y: _project_ball(y, max_norm)] if max_norm else []
    else:
        return x.clamp(-1, 1)
    near = _clip_box(_alternate_projections(steps, sets))
    near = _project_ball(near, max_norm) if max_norm else near
    return (_limit_change(near, max_change) if max_change else near).reshape(x.shape)


def _alternate_projections(x: Tensor, sets: list[Projection]) -> Tensor:
    """The point of the sets' intersection nearest to x, nearly."""
    left = [torch.zeros_like(x) for _ in sets]
    for _ in range(ROUNDS):
        for number, nearest in enumerate(sets):
            moved = x + left[number]
            x = nearest(moved)
            left[number] = moved - x
    return x


def _clip_box(steps: Tensor) -> Tensor:
    return steps.clamp(-1, 1)


def _project_ball(steps: Tensor, radius: float) -> Tensor:
    norm = torch.linalg.vector_norm(steps, dim=-1, keepdim=True)
    return steps * (radius / norm.clamp_min(radius))


def _project_pairs(steps: Tensor, most: float, first: int) -> Tensor:
    """Steps (first, first + 1), (first + 2, first + 3), ...: each pair no more than `most` apart, moved evenly."""
    count = (steps.shape[-2] - first) // 2
    pairs = steps[..., first : first + 2 * count, :].unflatten(-2, (count, 2))
    change = pairs[..., 1, :] - pairs[..., 0, :]
    excess = (change - change.clamp(-most, most)) / 2
    moved = pairs + torch.stack((excess, -excess), -2)
    return torch.cat((steps[..., :first, :], moved.flatten(-3, -2), steps[..., first + 2 * count :, :]), -2)


def _limit_change(steps: Tensor, most: float) -> Tensor:
    """Every step drawn towards the one before it until it is near enough. Points between two allowed ones are
    allowed (the other sets are convex), so that nothing else is broken."""
    rows = [steps[..., 0, :]]
    for step in steps.unbind(-2)[1:]:
        change = step - rows[-1]
        largest = change.abs().amax(-1, keepdim=True)
        rows.append(rows[-1] + change * (most / largest.clamp_min(most)))
    return torch.stack(rows, -2)


class ProjectedGradient(DescendingPlanner):
    """Projected gradient descent from several starts."""

    def __init__(self, config: ProjectedGradientConfig | None = None) -> None:
        self.config: ProjectedGradientConfig = config or ProjectedGradientConfig()

    def project(self, x: Tensor, action_dim: int) -> Tensor:
        """The nearest allowed point."""
        return project_actions(x, action_dim, self.config.max_change, self.config.max_norm)

    def step(self, x: Tensor, gradient: Tensor, memory: Memory, number: int, action_dim: int) -> tuple[Tensor, Memory]:
        """A step of given length against the gradient of each start, and back to what is allowed."""
        config = self.config
        direction = gradient / (gradient.square().mean((-1, -2), keepdim=True).sqrt() + TINY)
        if memory:
            direction = direction + config.momentum * memory[0]
        rate = anneal(config.learning_rate, config.lr_end, number, config.iterations)
        return self.project(x - rate * direction, action_dim), (direction,)
