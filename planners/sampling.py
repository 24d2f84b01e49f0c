"""What every sampling planner shares: bounds, noise, warm start, `score()` and the one search loop.

A planner that draws candidates around a mean (CEM, MPPI, iCEM, predictive sampling) is a rule that turns
scored candidates into the next `Proposal`; `search()` does the rest: draw, clip, imagine and judge, keep
the best ever seen, freeze environments that have converged. All of it runs batched over environments and
candidates on the dynamics' device, without host synchronisation inside an iteration.

Random draws are keyed by (episode seed, replan, iteration, stream), one generator an environment on the
CPU: a plan depends on neither the batch it was made in, nor the chunks it was scored in, nor the device.

Coloured noise follows iCEM (Pinneri et al. 2020, arXiv 2008.06389): power spectrum 1/f^beta over time.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2b
from typing import Literal

import torch
from torch import Tensor

from planners.protocol import Context, Cost, Dynamics, Goal, Noise, Plan, Rows, Spec

Tail = Literal["repeat", "zero"]

CANDIDATES = 0  # the planner's own stream of draws; a stochastic model's are 1, 2, ...
CPU_CHUNK_BYTES = 1 << 30
CUDA_CHUNK_SHARE = 0.25  # of the device's memory; of the total, so that the chunks are the same on every run


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """A host tensor on the device, without making the host wait (which takes pinned memory)."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


@dataclass(frozen=True)
class Draws:
    """Standard normal draws per environment (the `Noise` that dynamics may take).

    Pure: the same key (seed, replan, iteration, stream) gives the same numbers whenever and wherever it is
    asked.
    """

    seeds: tuple[int, ...]
    replan: int
    device: torch.device
    iteration: int = 0

    def at(self, iteration: int) -> Draws:
        """The draws of another iteration."""
        return replace(self, iteration=iteration)

    def select(self, rows: Rows) -> Draws:
        """The draws of some environments."""
        chosen = self.seeds[rows] if isinstance(rows, slice) else tuple(self.seeds[i] for i in rows.tolist())
        return replace(self, seeds=chosen)

    def normal(self, shape: Sequence[int], stream: int = 1) -> Tensor:
        """Float32 [B, *shape]."""
        draws = torch.empty((len(self.seeds), *shape), pin_memory=self.device.type == "cuda")
        generator = torch.Generator()
        for row, seed in zip(draws, self.seeds, strict=True):
            key = struct.pack("<4q", seed, self.replan, self.iteration, stream)
            generator.manual_seed(int.from_bytes(blake2b(key, digest_size=8).digest(), "little"))
            row.normal_(generator=generator)
        return upload(draws, self.device)


@lru_cache(maxsize=16)
def colour_matrix(steps: int, beta: float) -> Tensor:
    """[steps, steps] float32 that turns white noise over time into noise of spectrum 1/f^beta, variance 1.

    The covariance is that of a circle twice as long, so that a plan's first and last step are not neighbours.
    beta 0 gives the identity; 1 to 3 ever smoother plans.
    """
    frequency = torch.fft.rfftfreq(2 * steps, dtype=torch.float64).clamp_min(1 / (2 * steps))
    covariance = torch.fft.irfft(frequency**-beta, n=2 * steps)[:steps]
    lag = (torch.arange(steps)[:, None] - torch.arange(steps)[None]).abs()
    correlation = (covariance / covariance[0])[lag] + 1e-9 * torch.eye(steps, dtype=torch.float64)
    return torch.linalg.cholesky(correlation).float()


def candidate_noise(draws: Draws, shape_SKA: tuple[int, int, int], colour: Tensor | None = None) -> Tensor:
    """noise_BSKA, standard normal. colour: `colour_matrix` over the K x frame_skip *environment* steps."""
    white = draws.normal(shape_SKA, stream=CANDIDATES)
    if colour is None:
        return white
    steps_first = white.view(*white.shape[:2], len(colour), -1)  # [B, S, environment steps, one action]
    return (colour @ steps_first).view_as(white)


def bounds(spec: Spec) -> tuple[Tensor, Tensor]:
    """low_A, high_A on the dynamics' device."""
    low, high = upload(torch.tensor([spec.action_low, spec.action_high]), spec.device)
    return low, high


def shift_plan(actions_BKA: Tensor, steps: int, tail: Tail = "repeat") -> Tensor:
    """The plan after `steps` model steps: shifted, the freed tail repeats the last action or is zero."""
    horizon = actions_BKA.shape[1]
    assert 0 <= steps <= horizon, (steps, horizon)
    last = actions_BKA[:, -1:] if tail == "repeat" else torch.zeros_like(actions_BKA[:, -1:])
    return torch.cat((actions_BKA[:, steps:], last.expand(-1, steps, -1)), dim=1)


def chunk_size(spec: Spec) -> int:
    """How many imagined candidate steps (B x S x K) fit into memory at once; 0: no limit known."""
    if spec.step_bytes == 0:
        return 0
    budget: float = CPU_CHUNK_BYTES
    if spec.device.type == "cuda":
        budget = CUDA_CHUNK_SHARE * torch.cuda.get_device_properties(spec.device).total_memory
    return max(1, int(budget / spec.step_bytes))


def score(
    dynamics: Dynamics,
    context: Context,
    goal: Goal,
    cost: Cost,
    actions_BSKA: Tensor,
    noise: Noise | None = None,
    chunk_elements: int = 0,
) -> Tensor:
    """cost_BS of imagining the candidates; NaN and infinities become +inf.

    Imagines at most `chunk_elements` candidate steps (B x S x K) at a time, 0: as many as memory allows:
    whole environments where they fit, so that a context is shared by its candidates, else parts of one
    environment. Leaves gradients to the caller: planners that need none switch them off.
    """
    num_envs, samples, horizon, _ = actions_BSKA.shape
    limit = chunk_elements or chunk_size(dynamics.spec) or actions_BSKA.numel()
    envs_at_once, samples_at_once = _blocks(num_envs, samples, max(1, limit // horizon))
    rows = []
    for start in range(0, num_envs, envs_at_once):
        envs = slice(start, min(start + envs_at_once, num_envs))
        whole = envs_at_once == num_envs
        part_context, part_goal = (context, goal) if whole else (context.select(envs), goal.select(envs))
        part_noise = noise if noise is None or whole else noise.select(envs)
        parts = []
        for actions in actions_BSKA[envs].split(samples_at_once, dim=1):
            imagined = dynamics.imagine(part_context, actions, generator=part_noise, keep=cost.keep)
            parts.append(cost(imagined, part_goal, actions))
            assert parts[-1].shape == actions.shape[:2], (parts[-1].shape, actions.shape)
        rows.append(torch.cat(parts, dim=1))
    cost_BS = torch.cat(rows)
    return cost_BS.masked_fill(~cost_BS.isfinite(), math.inf)


def finite_mean(cost: Tensor) -> Tensor:
    """Mean over the last axis of what is finite; inf where nothing is."""
    finite = cost.isfinite()
    mean = cost.masked_fill(~finite, 0.0).sum(-1) / finite.sum(-1)  # 0 / 0 where nothing is
    return mean.nan_to_num(nan=math.inf)


def _blocks(num_envs: int, samples: int, limit: int) -> tuple[int, int]:
    """(environments, candidates) a chunk of at most `limit` candidates, in chunks of about equal size."""
    if samples > limit:
        return 1, math.ceil(samples / math.ceil(samples / limit))
    at_once = min(num_envs, limit // samples)
    return math.ceil(num_envs / math.ceil(num_envs / at_once)), samples


@dataclass(frozen=True)
class SearchConfig:
    """What every sampling planner is told.

    samples, iterations: candidates an iteration, iterations a plan. horizon: K, model steps.
    std_init: first standard deviation, as a fraction of half the action range; std_warm: the same after a
    warm start, 0: as std_init. A few iterations leave an error in proportion to it: small holds a goal
    precisely, large escapes a bad plan. noise_beta: colour, 0 is white. include_mean: the mean is one of
    the candidates. return_best: return the best candidate ever seen, else the final mean (scored once
    more), which is steadier at the goal under costs that a lucky candidate can win (closest approach).
    early_stop_std: an environment whose largest standard deviation falls below this fraction of half the
    range is frozen, 0: never. chunk_elements: candidate steps imagined at once, 0: as many as memory allows.
    """

    samples: int = 200
    iterations: int = 5
    horizon: int = 6
    std_init: float = 0.5
    std_warm: float = 0.0
    noise_beta: float = 0.0
    include_mean: bool = True
    return_best: bool = True
    early_stop_std: float = 0.0
    chunk_elements: int = 0

    def __post_init__(self) -> None:
        for key, least in (("samples", 2), ("iterations", 1), ("horizon", 1), ("chunk_elements", 0)):
            if getattr(self, key) < least:
                raise ValueError(f"planner {key} is {getattr(self, key)}; it must be at least {least}")
        if self.std_init <= 0:
            raise ValueError(f"planner std_init is {self.std_init}; it must be above 0")
        for key in ("std_warm", "noise_beta", "early_stop_std"):
            if getattr(self, key) < 0:
                raise ValueError(f"planner {key} is {getattr(self, key)}; it must not be negative")


@dataclass(frozen=True)
class Proposal:
    """What candidates are drawn from: a Gaussian per environment, step and action, and candidates to keep.

    mean_BKA, std_BKA: environment units. kept_BEKA: candidates that take part again, at most S - 1 of them.
    elite_cost_B: mean cost of the candidates this proposal follows, for the history.
    """

    mean_BKA: Tensor
    std_BKA: Tensor
    kept_BEKA: Tensor | None = None
    elite_cost_B: Tensor | None = None


# (proposal, actions_BSKA, cost_BS, half_A: half the action range) -> next proposal
Update = Callable[[Proposal, Tensor, Tensor, Tensor], Proposal]


@torch.no_grad()
def search(
    dynamics: Dynamics,
    context: Context,
    goal: Goal,
    cost: Cost,
    config: SearchConfig,
    update: Update,
    draws: Draws,
    warm_start: Tensor | None = None,
) -> Plan:
    """The loop of every sampling planner: draw, score, remember the best, update. One plan a seed."""
    spec = dynamics.spec
    check_fit(spec, cost, config.horizon)
    low_A, high_A = bounds(spec)
    half_A = (high_A - low_A) / 2
    shape = (len(draws.seeds), config.horizon, spec.block_dim)
    low_KA, high_KA = (bound.expand(shape[1:]).contiguous() for bound in (low_A, high_A))
    mean, std = ((low_A + high_A) / 2).expand(shape), config.std_init
    if warm_start is not None:
        mean, std = warm_start.clamp(low_A, high_A), config.std_warm or std
    assert mean.shape == shape, (mean.shape, shape)
    proposal = Proposal(mean, (std * half_A).expand(shape))
    best_actions, best_cost = mean, torch.full(shape[:1], math.inf, device=spec.device)
    frozen = torch.zeros(shape[:1], dtype=torch.bool, device=spec.device)
    colour = None
    if config.noise_beta:
        colour = upload(colour_matrix(config.horizon * spec.frame_skip, config.noise_beta), spec.device)
    history: list[dict[str, Tensor]] = []
    for iteration in range(config.iterations):
        now = draws.at(iteration)
        noise = candidate_noise(now, (config.samples, *shape[1:]), colour)
        actions = candidates(proposal, noise, low_KA, high_KA, config.include_mean)
        cost_BS = score(dynamics, context, goal, cost, actions, now, config.chunk_elements)
        low_cost, index = cost_BS.min(dim=1)
        better = (low_cost < best_cost) & ~frozen
        chosen = actions.take_along_dim(index[:, None, None, None], dim=1)[:, 0]
        best_actions = torch.where(better[:, None, None], chosen, best_actions)
        best_cost = torch.where(better, low_cost, best_cost)
        proposal = _unless(frozen, proposal, update(proposal, actions, cost_BS, half_A))
        history.append(_record(proposal, cost_BS, best_cost, half_A))
        if config.early_stop_std:
            frozen = (proposal.std_BKA / half_A).amax((1, 2)) < config.early_stop_std
            # Only a CPU can look without waiting for the device.
            if spec.device.type == "cpu" and bool(frozen.all()):
                break
    if config.return_best:
        return Plan(best_actions, best_cost, history)
    mean = proposal.mean_BKA.clamp(low_A, high_A)
    last = draws.at(config.iterations)
    mean_cost = score(dynamics, context, goal, cost, mean[:, None], last, config.chunk_elements)
    return Plan(mean, mean_cost[:, 0], history)


def check_fit(spec: Spec, cost: Cost, horizon: int) -> None:
    """Raise ValueError where the model cannot serve this cost or horizon."""
    if cost.view not in spec.views:
        raise ValueError(f"cost view is {cost.view!r}, but this model offers {', '.join(spec.views)}")
    if horizon > spec.max_horizon:
        raise ValueError(f"planner horizon is {horizon}, but this model plans {spec.max_horizon} at most")


def candidates(proposal: Proposal, noise_BSKA: Tensor, low: Tensor, high: Tensor, mean: bool) -> Tensor:
    """actions_BSKA within bounds: the mean (if wanted) first, fresh draws, the kept candidates last.

    low, high: bounds, [A] or, several times faster to clamp with on a CPU, [K,A].
    """
    actions = torch.addcmul(proposal.mean_BKA[:, None], proposal.std_BKA[:, None], noise_BSKA)
    if proposal.kept_BEKA is not None:
        assert proposal.kept_BEKA.shape[1] < actions.shape[1], (proposal.kept_BEKA.shape, actions.shape)
        actions[:, actions.shape[1] - proposal.kept_BEKA.shape[1] :] = proposal.kept_BEKA
    if mean:
        actions[:, 0] = proposal.mean_BKA
    return actions.clamp_(low, high)


def _unless(frozen_B: Tensor, old: Proposal, new: Proposal) -> Proposal:
    """The new proposal, except in frozen environments."""
    keep = frozen_B[:, None, None]
    mean = torch.where(keep, old.mean_BKA, new.mean_BKA)
    return replace(new, mean_BKA=mean, std_BKA=torch.where(keep, old.std_BKA, new.std_BKA))


def _record(proposal: Proposal, cost_BS: Tensor, best_B: Tensor, half_A: Tensor) -> dict[str, Tensor]:
    """One entry of Plan.history."""
    std = (proposal.std_BKA / half_A).mean((1, 2))
    elite = best_B if proposal.elite_cost_B is None else proposal.elite_cost_B
    return {"best": best_B, "mean": finite_mean(cost_BS), "elite_mean": elite, "std": std}


class SamplingPlanner:
    """A planner that is a config and an update rule. Stateless: a plan is a function of what is given."""

    config: SearchConfig

    @property
    def horizon(self) -> int:
        """K, model steps."""
        return self.config.horizon

    def update(self, proposal: Proposal, actions_BSKA: Tensor, cost_BS: Tensor, half_A: Tensor) -> Proposal:
        """The next proposal from scored candidates (cost +inf: unusable). half_A: half the action range."""
        raise NotImplementedError

    def plan(
        self,
        dynamics: Dynamics,
        context: Context,
        goal: Goal,
        cost: Cost,
        *,
        seeds: Sequence[int],
        warm_start: Tensor | None = None,
        replan: int = 0,
    ) -> Plan:
        """See `protocol.Planner`. Raises ValueError if the model lacks the cost's view or the horizon."""
        draws = Draws(tuple(seeds), replan, dynamics.spec.device)
        return search(dynamics, context, goal, cost, self.config, self.update, draws, warm_start)
