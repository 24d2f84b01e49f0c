"""How far ahead a cost ranks actions: the rank correlation of cost and true distance, by how far the goal lies ahead.

    environment step    t                     t + K s              t + n s
    frames              now                                        goal image (recorded)
    actions             a candidate: K model steps of s
    cost                                      last frame to goal image, in a view of the model
    true distance                             last state to goal state, by the task

K = n up to the model's horizon; beyond it only the goal lies farther ahead. Candidates are drawn by a search, as when
planning: those of its first iteration are `random`, of the middle one `middle`, of the last one `elite`. A cost may
rank the random ones and fail on the elite, which differ little (DA-LeWM, arXiv 2608.18746). Each set is ranked under
the dynamics of the model, and under the true simulator, whose frames are rendered and encoded (as arXiv 2609.39235
compares the two when planning). `rank_curves` says what follows.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor

import envs
from commands.evaluation.methods import make_true_distance
from commands.evaluation.oracle import OracleDynamics
from commands.offline.moments import Moments, draw_moments
from commands.offline.rank_curves import (
    ELITE,
    MAIN_METRIC,
    METRICS,
    MIDDLE,
    MODEL,
    RANDOM,
    SIMULATOR,
    TRUTH,
    Curve,
    Ranks,
    find_curve,
    summarise_ranks,
)
from commands.offline.transitions import load_transitions
from data.pictures import Preprocessing
from planners.cem import CEMConfig, RecordingCEM
from planners.costs import GoalCost
from planners.noise import Draws
from planners.protocol import Context, Dynamics, Goal
from planners.sampling import draw_first_candidates
from planners.scoring import score, score_each
from world_model.probing.probes import rank_correlations

MOMENTS_AT_ONCE = 8
CANDIDATES_PER_ELITE = 8  # of the search


@dataclass(frozen=True)
class RankReachConfig:
    """Moments and candidates of the rank correlation between cost and true distance."""

    moments: Annotated[int, Ge(0)] = 32
    """recorded moments for every distance to the goal (0 disables the measurement)"""
    candidates: Annotated[int, Ge(3)] = 48
    """action sequences per moment and set"""
    steps: tuple[Annotated[int, Ge(1)], ...] = (1, 5, 10, 20, 30, 50)
    """environment steps from a moment to its goal, rounded up to model steps"""
    iterations: Annotated[int, Ge(1)] = 5
    """iterations of the search whose first, middle and last candidates are ranked (1: random candidates alone)"""
    simulator_moments: Annotated[int, Ge(0)] = 16
    """moments whose candidates are rendered and encoded, to tell dynamics from distance (0 disables this)"""

    def __post_init__(self) -> None:
        if not self.steps:
            raise ValueError("steps=[] must hold at least one number of environment steps, as [10,20]")

    def list_model_steps(self, frame_skip: int) -> list[int]:
        """Model steps from a moment to its goal, in order, each once."""
        return sorted({math.ceil(step / frame_skip) for step in self.steps})


@dataclass(frozen=True)
class CandidateSet:
    """Candidates [B, S, K, A] and the views whose costs rank them."""

    name: str
    views: tuple[str, ...]
    actions: Tensor


def draw_candidates(
    dynamics: Dynamics,
    context: Context,
    goal: Goal,
    views: Sequence[str],
    config: RankReachConfig,
    noise: Draws,
    steps: int,
) -> list[CandidateSet]:
    """Sets of candidates of `steps` model steps: random ones for all views, and those of later iterations for the view
    that the search was for."""
    elites = max(2, config.candidates // CANDIDATES_PER_ELITE)
    planner = RecordingCEM(CEMConfig(config.candidates, config.iterations, steps, elites=elites))
    later = {config.iterations // 2: MIDDLE, config.iterations - 1: ELITE}
    sets = [CandidateSet(RANDOM, tuple(views), draw_first_candidates(dynamics.spec, planner, noise))]
    for view in views if config.iterations > 1 else ():
        cost = GoalCost(view, MAIN_METRIC, "last")
        planner.plan(dynamics, context, goal, cost, seeds=noise.seeds, replan=noise.replan)
        sets += [CandidateSet(name, (view,), planner.actions[at]) for at, name in later.items() if at]
    return sets


@dataclass(frozen=True)
class Ranking:
    """What ranks candidates: a model, and the simulator that knows where they end."""

    dynamics: Dynamics
    oracle: OracleDynamics
    true_cost: GoalCost
    reader: Any
    config: RankReachConfig
    views: tuple[str, ...]
    seed: int

    def rank_moments(self, moments: Moments, simulated: int, ranks: Ranks) -> None:
        """Add the rank correlations at these moments. simulated: how many of them are rendered, the first ones."""
        index, spec = moments.index, self.dynamics.spec
        past = load_transitions(self.dynamics, self.reader, index)
        valid = torch.ones(past.past_BTHWC.shape[:2], dtype=torch.bool, device=spec.device)
        context = self.dynamics.observe(past.past_BTHWC, past.actions_BtA, valid, past.proprio_BTQ)
        goal = self.dynamics.encode_goal(past.after_BHWC)
        rows = self.reader.first_row(index.episode)
        self.oracle.set_states(*(self.reader.gather("state", rows + frame) for frame in (index.last, index.after)))
        true_context = self.oracle.observe(past.past_BTHWC, past.actions_BtA, valid)
        true_goal = self.oracle.encode_goal(past.after_BHWC)
        seeds = tuple((rows + index.last).tolist())
        noise, steps = Draws(seeds, self.seed, spec.device), moments.goal_offset
        horizon, first = min(steps // spec.frame_skip, spec.max_horizon), slice(0, simulated)
        ranks.episodes.setdefault(steps, []).extend(index.episode.tolist())
        for drawn in draw_candidates(self.dynamics, context, goal, self.views, self.config, noise, horizon):
            names = [(view, metric) for view in drawn.views for metric in METRICS]
            costs = [GoalCost(view, metric, "last") for view, metric in names]
            distance_BS = score(self.oracle, true_context, true_goal, self.true_cost, drawn.actions)
            costs_of = {MODEL: score_each(self.dynamics, context, goal, costs, drawn.actions, noise)}
            if simulated:
                some = true_context.select(first), true_goal.select(first)
                costs_of[SIMULATOR] = score_each(self.oracle, *some, costs, drawn.actions[first])
            for dynamics, cost_CBS in costs_of.items():
                for (view, metric), cost_BS in zip(names, cost_CBS, strict=True):
                    correlations = rank_correlations(cost_BS, distance_BS[: len(cost_BS)])
                    ranks.add(Curve(dynamics, view, metric, drawn.name), steps, correlations)
            if drawn.name == RANDOM:
                ceiling = Curve(SIMULATOR, TRUTH, TRUTH, RANDOM)
                ranks.add(ceiling, steps, rank_correlations(distance_BS, distance_BS))


# What a cell of `jepa compare` records of it: seconds, since nothing is rendered.
CELL_CONFIG = RankReachConfig(moments=24, iterations=1, simulator_moments=0)


def explain_missing_simulator(reader: Any) -> str | None:
    """One sentence where candidates cannot be simulated from the states of a file; None where they can."""
    info = reader.info
    if envs.find_task(info.env_id) is None:
        return f"{info.env_id} was recorded elsewhere, and there is no environment of it to simulate candidates in"
    if info.state_size == 0:
        return f"the data hold no states of {info.env_id} to simulate candidates from"
    return None


def list_served_steps(reader: Any, split: str, config: RankReachConfig, dynamics: Dynamics) -> list[int]:
    """Those model steps ahead that the longest episode of a split holds behind a full history."""
    spec, lengths = dynamics.spec, reader.lengths(reader.episodes(split))
    longest = max(lengths, default=0) - (spec.history - 1) * spec.frame_skip
    return [steps for steps in config.list_model_steps(spec.frame_skip) if steps * spec.frame_skip < longest]


@torch.no_grad()
def measure_rank_reach(
    dynamics: Dynamics,
    reader: Any,
    split: str,
    config: RankReachConfig,
    preprocessing: Preprocessing,
    seed: int,
    views: Sequence[str] | None = None,
    advance: Callable[[int], None] = lambda moments: None,
) -> dict[str, Any]:
    """Rank correlations of cost and true distance on a split, as `summarise_ranks` gives them, and how they were
    measured. `explain_missing_simulator` says beforehand where they cannot be.

    views: of the model; None: all. advance: called with the number of moments ranked since the last call.
    """
    info, spec = reader.info, dynamics.spec
    task, skip, threads = envs.get_task(info.env_id), spec.frame_skip, os.cpu_count() or 1
    served, ranks = list_served_steps(reader, split, config, dynamics), Ranks()
    env = envs.make(task.name, **info.env_kwargs)
    with closing(OracleDynamics(env, dynamics, spec.max_horizon, threads, skip, preprocessing)) as oracle:
        true_cost = GoalCost(TRUTH, reduce="last", distance=make_true_distance(task))
        ranking = Ranking(dynamics, oracle, true_cost, reader, config, tuple(views or spec.views), seed)
        for steps in served:
            moments = draw_moments(reader, split, config.moments, seed, spec, steps, steps * skip)
            for rows, part in moments.iterate_chunks(MOMENTS_AT_ONCE):
                ranking.rank_moments(part, min(max(config.simulator_moments - rows.start, 0), len(part)), ranks)
                advance(len(part))
    return {
        "split": split,
        "candidates": config.candidates,
        "horizon": spec.max_horizon * skip,
        "left_out": [steps * skip for steps in config.list_model_steps(skip) if steps not in served],
        **summarise_ranks(ranks, seed),
    }


def measure_planned_reach(
    dynamics: Dynamics, reader: Any, split: str, cost: GoalCost, preprocessing: Preprocessing, seed: int
) -> dict[str, Any] | None:
    """The curve of one cost under the dynamics of the model over random candidates, with its `steps`; None where the
    data cannot be simulated, or no episode is long enough."""
    if explain_missing_simulator(reader) is not None:
        return None
    results = measure_rank_reach(dynamics, reader, split, CELL_CONFIG, preprocessing, seed, [cost.view])
    metric = "l2" if cost.metric == "sq_l2" else cost.metric
    curve = find_curve(results, Curve(MODEL, cost.view, metric, RANDOM))
    return None if curve is None else {"steps": results["steps"], **curve}
