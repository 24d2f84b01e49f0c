"""Gradient descent on actions through the model, from several starts at once (Adam, Kingma and Ba 2015).

Cheap where the cost is smooth and one basin leads to the goal, and stuck where it is not: hence many starts,
noise between the steps if wanted, and the best point of the best start as the plan. Actions stay in bounds by
clamping, or by descending in u where action = middle + half range x tanh(u).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from planners.noise import NUDGES, Draws, sample_noise
from planners.protocol import Plan
from planners.sampling import BasePlanner, make_action_box, make_first_proposal, make_noise_colour, sample_candidates
from planners.scoring import Problem, average_finite
from planners.settings import NoiseConfig, check_learning_rate, check_not_negative, check_share

Bounds = Literal["clamp", "tanh"]
Memory = tuple[Tensor, ...]
# (x, gradient, memory, number) -> (x, memory): one step; x are actions over half ranges from the middle, in [-1, 1]
Step = Callable[[Tensor, Tensor, Memory, int], tuple[Tensor, Memory]]

TINY = 1e-12
EDGE = 1 - 1e-6  # where tanh is inverted instead of at 1


@dataclass(frozen=True)
class GradientConfig(NoiseConfig):
    """`NoiseConfig` for descents by Adam: samples are the starts, iterations the steps.

    The plan is the best point of any start (`return_best`), else the best of the points where the descents end.
    The step's size changes linearly. With bounds=tanh it is in units of u, where action = middle + half range x
    tanh(u).
    """

    return_best: bool = True
    noise_beta: float = 2.0
    least_samples: ClassVar[int] = 1

    samples: int = 6
    """starts that descend at once (>= 1)"""
    iterations: int = 32
    """gradient steps per start (>= 1)"""
    learning_rate: float = 0.4
    """size of the first step, in half action ranges (> 0)"""
    lr_end: float = 0.01
    """size of the last step, as a share of learning_rate (0 to 1)"""
    momentum: float = 0.7
    """Adam's averaging of the gradient (0 to below 1)"""
    square_momentum: float = 0.99
    """Adam's averaging of the squared gradient (0 to below 1)"""
    noise: float = 0.0
    """standard deviation of noise after the first step, falling to 0, in half action ranges (>= 0)"""
    bounds: Bounds = "clamp"
    """method that keeps actions in bounds: clamp or tanh"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_learning_rate(self.learning_rate, self.lr_end)
        check_share(self, "momentum", "square_momentum")
        check_not_negative(self, "noise")
        if self.bounds not in get_args(Bounds):
            raise ValueError(f"planner bounds is {self.bounds!r}; choose one of {', '.join(get_args(Bounds))}")


@dataclass(frozen=True)
class Descent:
    """What descents found: the best point of each start and its cost, the point each ended at, and the history."""

    best_BSKA: Tensor
    best_cost_BS: Tensor
    last_BSKA: Tensor
    last_cost_BS: Tensor
    history: list[dict[str, Tensor]]


def descend(
    problem: Problem, start_BSKA: Tensor, iterations: int, step: Step, draws_at: Callable[[int], Draws]
) -> Descent:
    """Take `iterations` steps from all starts, each on its own; every point on the way is judged, the last one too.

    draws_at: the draws of a step, by which stochastic dynamics imagine.
    """
    box = make_action_box(problem.dynamics.spec, start_BSKA.shape[-2])
    x = box.normalise(start_BSKA)
    memory: Memory = ()
    actions = best = start_BSKA
    best_cost = torch.full(start_BSKA.shape[:2], math.inf, device=start_BSKA.device)
    history: list[dict[str, Tensor]] = []
    for number in range(iterations + 1):
        if number < iterations:
            cost, gradient = problem.differentiate(actions, draws_at(number))
        else:
            cost = problem.score(actions, draws_at(number))
        better = cost < best_cost
        best = torch.where(better[..., None, None], actions, best)
        best_cost = torch.where(better, cost, best_cost)
        if number == iterations:
            return Descent(best, best_cost, actions, cost, history)
        history.append(_record_step(cost, best_cost, x))
        x, memory = step(x, gradient * box.half_A, memory, number)
        actions = box.denormalise(x)
    raise AssertionError("unreachable")


def _record_step(cost_BS: Tensor, best_BS: Tensor, x: Tensor) -> dict[str, Tensor]:
    """One entry of Plan.history: the elite is the best start of the moment, the spread that of the starts."""
    spread = x.std(1, correction=0).mean((1, 2))
    return {"best": best_BS.amin(1), "mean": average_finite(cost_BS), "elite_mean": cost_BS.amin(1), "std": spread}


def anneal(first: float, share_left: float, number: int, count: int) -> float:
    """A straight line over steps 0 .. count - 1, from `first` to that share of it."""
    return first * (1 - (1 - share_left) * number / max(1, count - 1))


def adam_step(
    x: Tensor, gradient: Tensor, memory: Memory, number: int, config: GradientConfig
) -> tuple[Tensor, Memory]:
    """One step of Adam on x, kept in [-1, 1]."""
    squashed = config.bounds == "tanh"
    free = torch.atanh(x.clamp(-EDGE, EDGE)) if squashed else x
    if squashed:
        gradient = gradient * (1 - x.square()).clamp_min(1 - EDGE**2)
    mean, square = memory or (torch.zeros_like(x), torch.zeros_like(x))
    mean = gradient.lerp(mean, config.momentum)
    square = gradient.square().lerp(square, config.square_momentum)
    direction = mean / (1 - config.momentum ** (number + 1))
    size = (square / (1 - config.square_momentum ** (number + 1))).sqrt()
    rate = anneal(config.learning_rate, config.lr_end, number, config.iterations)
    free = free - rate * direction / (size + TINY)
    return torch.tanh(free) if squashed else free.clamp(-1, 1), (mean, square)


class DescendingPlanner(BasePlanner):
    """A planner of `descend`: what it adds is a step, and where the first points may lie."""

    needs_gradient = True
    takes_candidates = True
    config: NoiseConfig

    def step(self, x: Tensor, gradient: Tensor, memory: Memory, number: int, action_dim: int) -> tuple[Tensor, Memory]:
        """The next points. x, gradient: actions and the cost's gradient in half ranges; action_dim: numbers in one
        environment action."""
        raise NotImplementedError

    def project(self, x: Tensor, action_dim: int) -> Tensor:
        """The first points, where the planner wants them."""
        return x

    @torch.no_grad()
    def solve(self, problem: Problem, draws: Draws, warm_start: Tensor | None) -> Plan:
        """Draw the starts as `search` draws its first candidates, descend, return the best."""
        spec, config = problem.dynamics.spec, self.config
        proposal = make_first_proposal(spec, config, len(draws.seeds), warm_start)
        box = make_action_box(spec, config.horizon)
        shape = (config.samples, *proposal.mean_BKA.shape[1:])
        noise = sample_noise(draws.at(0), shape, make_noise_colour(config, spec))
        start = sample_candidates(proposal, noise, box.low_KA, box.high_KA, config.include_mean)
        start = box.denormalise(self.project(box.normalise(start), spec.action_dim))

        def step(x: Tensor, gradient: Tensor, memory: Memory, number: int) -> tuple[Tensor, Memory]:
            return self.nudge(*self.step(x, gradient, memory, number, spec.action_dim), draws.at(number), number)

        descent = descend(problem, start, config.iterations, step, draws.at)
        points, costs = descent.best_BSKA, descent.best_cost_BS
        if not config.return_best:
            points, costs = descent.last_BSKA, descent.last_cost_BS
        cost_B, index = costs.min(dim=1)
        best = points.take_along_dim(index[:, None, None, None], dim=1)[:, 0]
        return Plan(best, cost_B, descent.history)

    def nudge(self, x: Tensor, memory: Memory, draws: Draws, number: int) -> tuple[Tensor, Memory]:
        """The points after a step, with noise where the planner adds some."""
        return x, memory


class Gradient(DescendingPlanner):
    """Adam from several starts."""

    def __init__(self, config: GradientConfig | None = None) -> None:
        self.config: GradientConfig = config or GradientConfig()

    def step(self, x: Tensor, gradient: Tensor, memory: Memory, number: int, action_dim: int) -> tuple[Tensor, Memory]:
        """See `adam_step`."""
        return adam_step(x, gradient, memory, number, self.config)

    def nudge(self, x: Tensor, memory: Memory, draws: Draws, number: int) -> tuple[Tensor, Memory]:
        """Noise that falls to 0 by the last step."""
        if not self.config.noise:
            return x, memory
        size = anneal(self.config.noise, 0.0, number, self.config.iterations)
        return (x + size * draws.normal(x.shape[1:], stream=NUDGES)).clamp(-1, 1), memory
