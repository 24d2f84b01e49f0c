"""What planners that draw candidates share: warm starts, proposals, and the one search loop.

A planner that draws candidates around a mean (CEM, iCEM, MPPI, predictive sampling) is a rule that turns
scored candidates into the next `Proposal`; `search()` does the rest: draw, clip, imagine and judge, keep
the best ever seen, freeze environments that have converged. All of it runs batched over environments and
candidates on the dynamics' device, without host synchronisation inside an iteration. Draws are keyed
(`planners.noise`), candidates are judged in chunks (`planners.scoring`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from planners.compilation import compile_step
from planners.noise import Draws, make_colour_matrix, sample_noise, upload
from planners.protocol import Context, Cost, Dynamics, DynamicsSpec, Goal, Plan, PolicyPrior
from planners.scoring import Problem, average_finite, check_fit, make_bounds, reduce_precision
from planners.settings import NoiseConfig, PlannerConfig, SearchConfig

Tail = Literal["repeat", "zero"]


def shift_plan(actions: Tensor, steps: int, tail: Tail = "repeat") -> Tensor:
    """Plans [..., K, A] after `steps` model steps: shifted, the freed tail repeats the last action or is zero."""
    horizon = actions.shape[-2]
    assert 0 <= steps <= horizon, (steps, horizon)
    last = actions[..., -1:, :] if tail == "repeat" else torch.zeros_like(actions[..., -1:, :])
    return torch.cat((actions[..., steps:, :], *[last] * steps), dim=-2)


@dataclass(frozen=True)
class Proposal:
    """What candidates are drawn from: a Gaussian per environment, step and action, and candidates to keep.

    mean_BKA, std_BKA: environment units. retained_BEKA: candidates that take part again, at most S - 1 of them.
    elite_cost_B: mean cost of the candidates this proposal follows, for the history.
    """

    mean_BKA: Tensor
    std_BKA: Tensor
    retained_BEKA: Tensor | None = None
    elite_cost_B: Tensor | None = None


@dataclass(frozen=True)
class ActionBox:
    """Bounds, middle and half range of a plan's actions. low, high: [K, A], several times faster to clamp with on a CPU
    than [A]."""

    low_KA: Tensor
    high_KA: Tensor
    middle_A: Tensor
    half_A: Tensor

    def normalise(self, actions: Tensor) -> Tensor:
        """Actions [..., K, A] in half ranges from the middle."""
        return (actions - self.middle_A) / self.half_A

    def denormalise(self, x: Tensor) -> Tensor:
        """The actions of numbers in half ranges from the middle, within bounds."""
        return (self.middle_A + self.half_A * x).clamp(self.low_KA, self.high_KA)


def make_action_box(spec: DynamicsSpec, horizon: int) -> ActionBox:
    """The box of a plan's actions on the dynamics' device."""
    low_A, high_A = make_bounds(spec)
    low_KA, high_KA = (bound.expand(horizon, -1).contiguous() for bound in (low_A, high_A))
    return ActionBox(low_KA, high_KA, (high_A + low_A) / 2, (high_A - low_A) / 2)


def choose_std(config: PlannerConfig, warm_start: Tensor | None) -> float:
    """The first standard deviation of a search, in half action ranges."""
    return config.std_init if warm_start is None else config.std_warm or config.std_init


def make_first_proposal(
    spec: DynamicsSpec, config: PlannerConfig, num_envs: int, warm_start: Tensor | None
) -> Proposal:
    """Where a search begins: the middle of the range, or a warm start [B,K,A], or several [B,1+E,K,A] of which the
    first is the mean and the others take part in the first iteration."""
    box, shape = make_action_box(spec, config.horizon), (num_envs, config.horizon, spec.block_dim)
    mean, kept, half_A = box.middle_A.expand(shape), None, box.half_A
    if warm_start is not None:
        rows = warm_start.clamp(box.low_KA, box.high_KA)
        mean, kept = (rows, None) if rows.ndim == 3 else (rows[:, 0], rows[:, 1:])
    std = choose_std(config, warm_start)
    assert mean.shape == shape, (mean.shape, shape)
    # Contiguous, as in later iterations: a compiled iteration is made for one layout in memory.
    return Proposal(mean.contiguous(), (std * half_A).expand(shape).contiguous(), kept)


def sample_candidates(proposal: Proposal, noise_BSKA: Tensor, low: Tensor, high: Tensor, mean: bool) -> Tensor:
    """actions_BSKA within bounds: the mean (if wanted) first, fresh draws, the kept candidates last.

    low, high: bounds, [A] or, several times faster to clamp with on a CPU, [K,A].
    """
    actions = torch.addcmul(proposal.mean_BKA[:, None], proposal.std_BKA[:, None], noise_BSKA)
    if proposal.retained_BEKA is not None:
        assert proposal.retained_BEKA.shape[1] < actions.shape[1], (proposal.retained_BEKA.shape, actions.shape)
        actions[:, actions.shape[1] - proposal.retained_BEKA.shape[1] :] = proposal.retained_BEKA
    if mean:
        actions[:, 0] = proposal.mean_BKA
    return actions.clamp_(low, high)


def draw_prior(problem: Problem, count: int, horizon: int, draws: Draws) -> Tensor:
    """actions_BSKA of the model's policy, `count` an environment. ValueError for a model without one, and for one of
    other actions."""
    dynamics = problem.dynamics
    if not isinstance(dynamics, PolicyPrior):
        raise ValueError(
            f"planner prior_samples is {count}, and this model has no policy, as models of objective=tdmpc2 have; "
            "choose planner.prior_samples=0"
        )
    actions = dynamics.propose(problem.context, problem.goal, count, horizon, draws)
    shape = (len(draws.seeds), count, horizon, dynamics.spec.block_dim)
    if actions.shape != shape:
        raise ValueError(
            f"the model's policy proposes actions {tuple(actions.shape)}, and these dynamics take {shape} "
            "[environments, candidates, steps, numbers of an action block]: it is a policy for other actions"
        )
    return actions


def make_noise_colour(config: NoiseConfig, spec: DynamicsSpec) -> Tensor | None:
    """The colour of a planner's noise over environment steps; None: white."""
    if not config.noise_beta:
        return None
    return upload(make_colour_matrix(config.horizon * spec.frame_skip, config.noise_beta), spec.device)


@dataclass(frozen=True)
class Progress:
    """What an iteration hands to the next: the proposal, the best candidates so far, their costs, and which
    environments have converged."""

    proposal: Proposal
    best_BKA: Tensor
    best_cost_B: Tensor
    frozen_B: Tensor


def keep_best(
    best_BKA: Tensor, best_cost_B: Tensor, actions_BSKA: Tensor, cost_BS: Tensor, frozen_B: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The best actions so far and their costs, after these candidates. frozen_B: environments whose best stays."""
    low_B, index = cost_BS.min(dim=1)
    better = low_B < best_cost_B
    if frozen_B is not None:
        better = better & ~frozen_B
    chosen = actions_BSKA.take_along_dim(index[:, None, None, None], dim=1)[:, 0]
    return torch.where(better[:, None, None], chosen, best_BKA), torch.where(better, low_B, best_cost_B)


def iterate(
    problem: Problem, planner: SamplingPlanner, now: Progress, noise_BSKA: Tensor, draws: Draws, box: ActionBox
) -> tuple[Progress, dict[str, Tensor]]:
    """One iteration: candidates, their costs, the best so far, the next proposal; and its entry in Plan.history."""
    actions = sample_candidates(now.proposal, noise_BSKA, box.low_KA, box.high_KA, planner.config.include_mean)
    actions, cost_BS = planner.refine(problem, actions, problem.score(actions, draws), draws)
    best, best_cost = keep_best(now.best_BKA, now.best_cost_B, actions, cost_BS, now.frozen_B)
    proposal = _keep_frozen(now.frozen_B, now.proposal, planner.update(now.proposal, actions, cost_BS, box.half_A))
    frozen = now.frozen_B
    if planner.early_stop_std:
        frozen = (proposal.std_BKA / box.half_A).amax((1, 2)) < planner.early_stop_std
    record = _record_iteration(proposal, cost_BS, best_cost, box.half_A)
    return Progress(replace(proposal, elite_cost_B=None), best, best_cost, frozen), record


def draw_first_candidates(spec: DynamicsSpec, planner: SamplingPlanner, draws: Draws) -> Tensor:
    """actions_BSKA of a search's first iteration, which nothing has scored; without warm start and model's policy."""
    config = planner.config
    box, proposal = make_action_box(spec, config.horizon), make_first_proposal(spec, config, len(draws.seeds), None)
    noise = planner.draw_noise(draws.at(0), spec.block_dim, make_noise_colour(config, spec))
    return sample_candidates(proposal, noise, box.low_KA, box.high_KA, config.include_mean)


@torch.no_grad()
def search(problem: Problem, planner: SamplingPlanner, draws: Draws, warm_start: Tensor | None = None) -> Plan:
    """The loop of every sampling planner: draw, score, remember the best, update. One plan a seed."""
    spec, config = problem.dynamics.spec, planner.config
    box = make_action_box(spec, config.horizon)
    proposal = make_first_proposal(spec, config, len(draws.seeds), warm_start)
    if planner.prior_samples:
        prior = draw_prior(problem, planner.prior_samples, config.horizon, draws)
        kept = proposal.retained_BEKA
        proposal = replace(proposal, retained_BEKA=prior if kept is None else torch.cat((kept, prior), 1))
    cost = torch.full(proposal.mean_BKA.shape[:1], math.inf, device=spec.device)
    now = Progress(proposal, proposal.mean_BKA.clone(), cost, torch.zeros_like(cost, dtype=torch.bool))
    colour = make_noise_colour(config, spec)
    step = iterate
    if config.compile_iteration:
        problem.goal.view(problem.cost.view)  # computed once here, and not in the compiled function
        step = compile_step(iterate, spec.device.type)
    history: list[dict[str, Tensor]] = []
    for iteration in range(config.iterations):
        draws_now = draws.at(iteration)
        noise = planner.draw_noise(draws_now, spec.block_dim, colour)
        with reduce_precision(config.precision, spec.device) if config.compile_iteration else nullcontext():
            now, record = step(problem, planner, now, noise, draws_now, box)
        history.append(record)
        # Only a CPU can look without waiting for the device.
        if planner.early_stop_std and spec.device.type == "cpu" and bool(now.frozen_B.all()):
            break
    elites = now.proposal.retained_BEKA if planner.carries_elites else None
    if config.return_best:
        return Plan(now.best_BKA, now.best_cost_B, history, elites)
    mean = now.proposal.mean_BKA.clamp(box.low_KA, box.high_KA)
    return Plan(mean, problem.score(mean[:, None], draws.at(config.iterations))[:, 0], history, elites)


def _keep_frozen(frozen_B: Tensor, old: Proposal, new: Proposal) -> Proposal:
    """The new proposal, except in frozen environments."""
    keep = frozen_B[:, None, None]
    mean = torch.where(keep, old.mean_BKA, new.mean_BKA)
    return replace(new, mean_BKA=mean, std_BKA=torch.where(keep, old.std_BKA, new.std_BKA))


def _record_iteration(proposal: Proposal, cost_BS: Tensor, best_B: Tensor, half_A: Tensor) -> dict[str, Tensor]:
    """One entry of Plan.history."""
    std = (proposal.std_BKA / half_A).mean((1, 2))
    elite = best_B if proposal.elite_cost_B is None else proposal.elite_cost_B
    return {"best": best_B, "mean": average_finite(cost_BS), "elite_mean": elite, "std": std}


class BasePlanner:
    """A planner that is a config and a rule. Stateless: a plan is a function of what is given."""

    needs_gradient: ClassVar[bool] = False
    takes_candidates: ClassVar[bool] = False  # several in a warm start: its first iteration has them among its own
    config: PlannerConfig

    @property
    def horizon(self) -> int:
        """K, model steps."""
        return self.config.horizon

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
        check_fit(dynamics.spec, cost, self.config.horizon)
        problem = Problem(dynamics, context, goal, cost, self.config.chunk_elements, self.config.precision)
        draws = Draws(tuple(seeds), replan, dynamics.spec.device, source=self.config.draws)
        return self.solve(problem, draws, warm_start)

    def solve(self, problem: Problem, draws: Draws, warm_start: Tensor | None) -> Plan:
        """One plan a seed of `draws`."""
        raise NotImplementedError


class SamplingPlanner(BasePlanner):
    """A planner of `search`: what it adds is an update rule, and where it wants them, the hooks below."""

    takes_candidates = True
    config: SearchConfig
    # The best of the last iteration come with the plan, to take part in the next search.
    carries_elites: bool = False

    @property
    def early_stop_std(self) -> float:
        """Spread, in half ranges, below which an environment is frozen; 0: never."""
        return 0.0

    @property
    def prior_samples(self) -> int:
        """Candidates that the model's policy draws; `update` decides how long they are retained."""
        return 0

    def population(self, iteration: int) -> int:
        """Candidates of an iteration."""
        return self.config.samples

    def draw_noise(self, draws: Draws, block_dim: int, colour: Tensor | None) -> Tensor:
        """noise_BSKA of the iteration of `draws`, for all of its candidates."""
        return sample_noise(draws, (self.population(draws.iteration), self.horizon, block_dim), colour)

    def refine(self, problem: Problem, actions_BSKA: Tensor, cost_BS: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """The candidates and their costs, improved before they are looked at."""
        return actions_BSKA, cost_BS

    def update(self, proposal: Proposal, actions_BSKA: Tensor, cost_BS: Tensor, half_A: Tensor) -> Proposal:
        """The next proposal from scored candidates (cost +inf: unusable). half_A: half the action range."""
        raise NotImplementedError

    def solve(self, problem: Problem, draws: Draws, warm_start: Tensor | None) -> Plan:
        """See `search`."""
        return search(problem, self, draws, warm_start)
