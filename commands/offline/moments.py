"""Recorded moments for an evaluation without a simulator, and plans and costs of actions at them.

    environment step    ...  t - s       t                      t + goal_offset     t + K s
    frames              ...  past        now                    goal image
    actions                  past block  a(t) a(t+1) ... that the robot took ...    a(t + K s - 1)

s is the frame skip of the model and K the horizon of the planner. A moment has a full history, and K recorded model
steps after it. Moments of `train` are what baselines take actions from.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from commands.evaluation.cases import take_in_turn
from commands.offline.transitions import TransitionIndex, load_frames, load_transitions
from commands.shared.errors import RunError
from data.schema import SPLITS
from planners.costs import GoalCost, focus_goal
from planners.noise import Draws
from planners.protocol import Cost, Dynamics, DynamicsSpec, Planner
from planners.scoring import make_bounds, score

Actions = NDArray[np.float32]
MOMENTS_AT_ONCE = 64  # moments planned, or encoded, together


@dataclass(frozen=True)
class Moments:
    """Recorded moments [n] of one split: their episodes, frames now, and the K model steps after them.

    goal_offset: environment steps from now to the goal image.
    """

    index: TransitionIndex
    goal_offset: int

    def __len__(self) -> int:
        return len(self.index.last)

    def take(self, count: int) -> Moments:
        """The first `count` moments."""
        return Moments(self.index.select(np.arange(min(count, len(self)))), self.goal_offset)

    def iterate_chunks(self, at_once: int | None = None) -> Iterator[tuple[slice, Moments]]:
        """Parts of at most `at_once` moments (None: MOMENTS_AT_ONCE), with their rows."""
        at_once = at_once or MOMENTS_AT_ONCE
        for begin in range(0, len(self), at_once):
            rows = np.arange(begin, min(begin + at_once, len(self)))
            yield slice(begin, begin + len(rows)), Moments(self.index.select(rows), self.goal_offset)

    def read_actions(self, reader: Any) -> Actions:
        """Recorded actions [n, K x frame skip, A] from now on."""
        rows = reader.first_row(self.index.episode) + self.index.last
        steps = int(self.index.after[0] - self.index.last[0])
        return reader.gather("action", rows[:, None] + np.arange(steps)).astype(np.float32)

    def read_frames(self, reader: Any) -> tuple[Tensor, Tensor]:
        """Frames now and goal images, uint8 [n, H, W, C] each."""
        now, goal = self.index.last, self.index.last + self.goal_offset
        return load_frames(reader, self.index.episode, now), load_frames(reader, self.index.episode, goal)


def draw_moments(
    reader: Any, split: str, count: int, seed: int, spec: DynamicsSpec, steps: int, goal_offset: int
) -> Moments:
    """Moments of a split, spread evenly over its episodes, fewer than `count` where it serves fewer.

    steps: recorded model steps after a moment. RunError where no episode is long enough.
    """
    skip, rng = spec.frame_skip, np.random.default_rng([seed, 71])
    first, after = (spec.history - 1) * skip, steps * skip
    episodes = reader.episodes(split)
    if not len(episodes):
        counts = ", ".join(f"{name} {len(reader.episodes(name))}" for name in SPLITS)
        raise RunError(
            f"split {split} has no episode, and an evaluation without a simulator needs those of train and of "
            f"protocol.split (episodes: {counts}): import or collect more"
        )
    if int(reader.lengths(episodes).max()) <= first + after:
        raise RunError(
            f"a moment takes {first + after + 1} frames ({spec.history} of history, {steps} model steps of {skip} "
            f"after them) and the longest episode of split {split} has {reader.lengths(episodes).max()}: "
            "choose a smaller planner.horizon, or longer episodes"
        )
    candidates = []
    for episode in map(int, rng.permutation(episodes)):
        frames = np.arange(first, reader.num_frames(episode) - after)
        candidates.append([(episode, int(frame)) for frame in rng.permutation(frames)])
    episode_n, last_n = np.array(take_in_turn(candidates, count)).T
    return Moments(TransitionIndex(episode_n, last_n, last_n + after), goal_offset)


@dataclass(frozen=True)
class PlannedMoments:
    """Plans at n moments. actions [n, K x frame skip, A]; costs as the planner imagines them, of the plan [n], of the
    recorded actions [n], and of candidates by their source [n, N]. plan_ms: of every batch of plans."""

    actions: Actions
    cost: NDArray[np.float32]
    recorded_cost: NDArray[np.float32]
    candidate_costs: dict[str, NDArray[np.float32]]
    plan_ms: list[float]


def plan_at_moments(
    dynamics: Dynamics,
    planner: Planner,
    cost: Cost,
    reader: Any,
    moments: Moments,
    candidates: dict[str, Actions],
    seed: int,
    progress: Callable[[int], None] = lambda done: None,
) -> PlannedMoments:
    """Plan at every moment, and imagine the cost of the recorded actions and of candidates [n, N, K x frame skip, A].

    All actions are clipped to the bounds of the model, within which a planner chooses.
    """
    spec, parts, plan_ms = dynamics.spec, [], []
    cost = cost.bind_spec(spec) if isinstance(cost, GoalCost) else cost
    seeds = tuple(int(s) for s in np.random.default_rng([seed, 72]).integers(2**31, size=len(moments)))
    low_A, high_A = make_bounds(spec)
    for rows, part in moments.iterate_chunks():
        began = time.perf_counter()
        recorded = load_transitions(dynamics, reader, part.index)
        goal_frames = part.read_frames(reader)[1].to(spec.device)
        with torch.no_grad():
            valid = torch.ones(recorded.past_BTHWC.shape[:2], dtype=torch.bool, device=spec.device)
            context = dynamics.observe(recorded.past_BTHWC, recorded.actions_BtA, valid, recorded.proprio_BTQ)
            goal = focus_goal(dynamics, cost, dynamics.encode_goal(goal_frames), recorded.past_BTHWC[:, -1])
        plan = planner.plan(dynamics, context, goal, cost, seeds=seeds[rows])
        planned = plan.actions_BKA.detach().cpu()
        plan_ms.append(1e3 * (time.perf_counter() - began))
        others = [
            torch.from_numpy(given[rows]).reshape(len(part), -1, *planned.shape[1:]) for given in candidates.values()
        ]
        blocks = torch.cat([planned[:, None], recorded.taken_BKA.cpu()[:, None], *others], 1).to(spec.device)
        with torch.no_grad():
            noise = Draws(seeds[rows], 0, spec.device)
            costs = score(dynamics, context, goal, cost, blocks.clamp(low_A, high_A), noise)
        parts.append((planned.reshape(len(part), -1, spec.action_dim).numpy(), costs.float().cpu().numpy()))
        progress(rows.stop)
    actions, costs_nS = (np.concatenate(column) for column in zip(*parts, strict=True))
    ends = 2 + np.cumsum([given.shape[1] for given in candidates.values()])
    by_source = dict(zip(candidates, np.split(costs_nS[:, 2:], ends[:-1] - 2, 1), strict=True))
    return PlannedMoments(actions, costs_nS[:, 0], costs_nS[:, 1], by_source, plan_ms)


@torch.no_grad()
def find_nearest(dynamics: Dynamics, view: str, reader: Any, moments: Moments, others: Moments) -> NDArray[np.int64]:
    """For every moment, which of the others [n] is nearest: least Euclidean distance of (frame now, goal image)
    together, in a view of the model."""

    def embed(part: Moments) -> Tensor:
        pairs = [
            dynamics.encode_goal(frames.to(dynamics.spec.device)).view(view) for frames in part.read_frames(reader)
        ]
        return torch.cat([pair.float().flatten(1) for pair in pairs], 1)

    asked = torch.cat([embed(part) for _, part in moments.iterate_chunks()])
    least = torch.full((len(moments),), torch.inf, device=asked.device)
    nearest = torch.zeros(len(moments), dtype=torch.long, device=asked.device)
    for rows, part in others.iterate_chunks():
        distance, index = torch.cdist(asked, embed(part)).min(1)
        nearest = torch.where(distance < least, index + rows.start, nearest)
        least = torch.minimum(distance, least)
    return nearest.cpu().numpy()
