"""The evaluation protocol (DESIGN 4.5): held-out starts and goals, floors, oracle, success at any time and
held.

Start and goal are two moments of one held-out episode, `goal_offset` environment steps apart and at least
`min_goal_distance` apart; starts that satisfy the goal already are left out and counted. Every method meets
the same starts, goals and seeds. Success is judged on the true state by the task's own distance; the methods
see images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from envs.task_spec import TaskSpec

Look = tuple[NDArray[np.float64], int]
Judge = Literal["any", "held", "final", "replan"]


@dataclass(frozen=True)
class OracleCostConfig:
    """The row that plans with the true simulator and the model's own cost: it renders and encodes every candidate's
    future, minutes an episode on a CPU at the model's own search, so it plays few episodes with a smaller search."""

    episodes: int = 4
    """episodes it plays; 0: none"""
    samples: int = 48
    """candidates an iteration"""
    elites: int = 8
    """best candidates that shape the next iteration"""
    iterations: int = 3
    """iterations a plan"""
    receding_steps: int = 2
    """model steps executed before planning again"""


@dataclass(frozen=True)
class ProtocolConfig:
    """What is evaluated. episodes: starts and goals wanted. split: `val` to choose, `eval` to report.

    budget, goal_offset (environment steps) and min_goal_distance (the task's unit): null means the task's own.
    judge: what the headline counts: within the threshold at `any` time, `held`, at the `final` step, or where the
    planner plans again (`replan`). thresholds: the headline's by task, where it is not the task's own. keep_solved:
    whether starts that satisfy the goal count, too. says: what is to be known of the protocol, for its report.
    """

    episodes: int = 50
    """starts and goals"""
    split: str = "eval"
    """episodes they come from: val to choose a planner, eval to report"""
    seed: int = 0
    """seed of the choice of starts and goals, and of the planner's draws"""
    budget: int | None = None
    """environment steps an episode may take; null: the task's own"""
    goal_offset: int | None = None
    """environment steps between start and goal; null: the task's own"""
    min_goal_distance: float | None = None
    """least distance between start and goal, the task's unit; null: the task's own"""
    judge: Judge = "any"
    """what the headline counts: any, held, final, or replan (where the planner plans again)"""
    thresholds: dict[str, float] = field(default_factory=dict)
    """the headline's threshold by task, as {reacher: 0.05}; else the task's own"""
    keep_solved: bool = False
    """whether starts that satisfy the goal already count"""
    says: str = ""
    """what is to be known of the protocol, for its report"""
    oracle: bool = True
    """whether the true simulator plans with the true distance, too"""
    oracle_cost: OracleCostConfig = field(default_factory=OracleCostConfig)
    """the true simulator with the model's own cost: renders and encodes every candidate's future"""

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise ValueError(f"protocol.episodes={self.episodes}: at least 1 episode must be evaluated")
        if self.judge not in get_args(Judge):
            raise ValueError(f"protocol.judge={self.judge}: choose one of {', '.join(get_args(Judge))}")


@dataclass(frozen=True)
class Cases:
    """Starts and goals [n]: full simulator states, where they came from, and their distances."""

    start_states: NDArray[np.float64]
    goal_states: NDArray[np.float64]
    episodes: NDArray[np.int64]
    starts: NDArray[np.int64]
    distances: NDArray[np.float64]
    kinds: NDArray[np.str_] | None  # the task's kinds of goals, where it has some
    seeds: tuple[int, ...]
    solved_starts: int  # candidates left out since they satisfied the goal at the start
    too_near: int  # candidates left out since start and goal were nearer than the least distance

    def first(self, count: int) -> Cases:
        """The first `count` of them."""
        return Cases(
            self.start_states[:count],
            self.goal_states[:count],
            self.episodes[:count],
            self.starts[:count],
            self.distances[:count],
            None if self.kinds is None else self.kinds[:count],
            self.seeds[:count],
            self.solved_starts,
            self.too_near,
        )


@dataclass(frozen=True)
class Setting:
    """What a model is evaluated in: itself, the held-out data, and the starts and goals drawn from that."""

    model: Any  # world_model.dynamics.LatentDynamics, or None: floors and oracle alone
    about: dict[str, Any]  # what its folder or the data says: env, env_kwargs, objective, ...
    reader: Any  # data.store.Reader
    task: TaskSpec
    protocol: ProtocolConfig  # resolved: no null is left
    cases: Cases
    frame_skip: int  # environment steps in a model step


def resolve(protocol: ProtocolConfig, task: TaskSpec) -> ProtocolConfig:
    """The protocol with the task's own numbers where none were given."""
    nearest = task.min_goal_distance if protocol.min_goal_distance is None else protocol.min_goal_distance
    return replace(
        protocol,
        budget=protocol.budget or task.budget,
        goal_offset=protocol.goal_offset or task.goal_offset,
        min_goal_distance=nearest,
    )


def judged(task: TaskSpec, protocol: ProtocolConfig) -> TaskSpec:
    """The task with the protocol's threshold first, where it has one for it."""
    if task.name not in protocol.thresholds:
        return task
    first = float(protocol.thresholds[task.name])
    return replace(task, thresholds=(first, *(t for t in task.thresholds if t != first)))


def draw_cases(reader: Any, task: TaskSpec, protocol: ProtocolConfig) -> Cases:
    """Starts and goals of a split, spread evenly over its episodes; ValueError if the file cannot serve
    them."""
    assert protocol.goal_offset is not None and protocol.min_goal_distance is not None, protocol
    rng = np.random.default_rng([protocol.seed, 71])
    rounds: list[list[tuple[float, int, int]]] = []
    solved = near = 0
    for episode in rng.permutation(reader.episodes(protocol.split)):
        truth = reader.column("truth", int(episode))
        starts = np.arange(max(0, len(truth) - protocol.goal_offset))
        distance = task.distance(truth[starts], truth[starts + protocol.goal_offset])
        is_solved = (distance <= task.thresholds[0]) & (not protocol.keep_solved)
        solved += int(is_solved.sum())
        near += int((~is_solved & (distance < protocol.min_goal_distance)).sum())
        chosen = rng.permutation(starts[~is_solved & (distance >= protocol.min_goal_distance)])
        for number, start in enumerate(chosen):
            if number == len(rounds):
                rounds.append([])
            rounds[number].append((float(distance[start]), int(episode), int(start)))
    found = [case for row in rounds for case in row][: protocol.episodes]
    if len(found) < protocol.episodes:
        raise ValueError(
            f"split {protocol.split} serves {len(found)} starts with goals {protocol.goal_offset} steps ahead and at "
            f"least {protocol.min_goal_distance} {task.distance_unit} away, not {protocol.episodes}: ask for fewer "
            "episodes, a smaller protocol.goal_offset, or collect more or longer episodes"
        )
    distances, episodes, starts_ = (np.array(column) for column in zip(*found, strict=True))
    states = [reader.column("state", int(e))[[s, s + protocol.goal_offset]] for _, e, s in found]
    truths = [reader.column("truth", int(e))[[s, s + protocol.goal_offset]] for _, e, s in found]
    kinds = None
    if task.goal_kind is not None:
        kinds = task.goal_kind(np.stack([t[0] for t in truths]), np.stack([t[1] for t in truths]))
    seeds = tuple(int(seed) for seed in np.random.default_rng([protocol.seed, 72]).integers(2**31, size=len(found)))
    return Cases(
        np.stack([s[0] for s in states]),
        np.stack([s[1] for s in states]),
        episodes,
        starts_,
        distances,
        kinds,
        seeds,
        solved,
        near,
    )


class Policy(Protocol):
    """A method under evaluation, batched over episodes."""

    def reset(self, goal_frames: NDArray[np.uint8], seeds: Sequence[int]) -> None:
        """Begin one episode in every environment."""
        ...

    def act(self, frames: NDArray[np.uint8], proprio: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Actions [B, A] for the current frames [B, H, W, C], and what the body feels [B, Q] where that is shown."""
        ...


@dataclass
class Rollouts:
    """What a method did: distances [n, budget + 1] with the start first, the frames that were asked for, and times and
    energies of a planner (`planners.mpc.MPC`)."""

    distances: NDArray[np.float64]
    actions: NDArray[np.float32]
    plan_ms: list[float] = field(default_factory=list)
    frames: NDArray[np.uint8] | None = None
    goal_frames: NDArray[np.uint8] | None = None
    energies: list[NDArray[np.float32]] = field(default_factory=list)


def run_episodes(
    policy: Policy,
    make_vector: Callable[[int], Any],
    cases: Cases,
    budget: int,
    num_videos: int = 0,
    progress: Callable[[int], None] = lambda step: None,
) -> Rollouts:
    """Play all cases side by side for `budget` environment steps.

    A policy with an attribute `sees_states` (an oracle) is handed the simulator's states before every act.
    """
    count = len(cases.seeds)
    batch = make_vector(count)
    try:
        options = [{"state": s, "goal_state": g} for s, g in zip(cases.start_states, cases.goal_states, strict=True)]
        observation, info = batch.reset(seed=list(cases.seeds), options=options)
        policy.reset(observation["goal_pixels"], cases.seeds)
        oracle = getattr(policy, "sees_states", None)
        distances, actions, frames = (
            [info["distance"].copy()],
            [],
            [observation["pixels"][:num_videos].copy()],
        )
        for step in range(budget):
            if oracle is not None:
                oracle(batch.get_states(), cases.goal_states)
            action = policy.act(observation["pixels"], observation.get("proprio"))
            observation, _, _, _, info = batch.step(action)
            distances.append(info["distance"].copy())
            actions.append(np.array(action))
            frames.append(observation["pixels"][:num_videos].copy())
            progress(step + 1)
        return Rollouts(
            np.stack(distances, 1),
            np.stack(actions, 1),
            list(getattr(policy, "plan_ms", [])),
            np.stack(frames, 1) if num_videos else None,
            observation["goal_pixels"][:num_videos].copy() if num_videos else None,
            [energy.cpu().numpy() for energy in getattr(policy, "energies", [])],
        )
    finally:
        batch.close()


def reached(distances: NDArray[np.float64], threshold: float, steps: int = 1) -> NDArray[np.bool_]:
    """Per episode: within the threshold for `steps` consecutive steps, at any time after the start."""
    within = distances[:, 1:] <= threshold
    if within.shape[1] < steps:
        return np.zeros(len(within), bool)
    runs = np.lib.stride_tricks.sliding_window_view(within, steps, axis=1)  # [n, windows, steps]
    return np.any(np.all(runs, axis=2), axis=1)


def wilson(successes: int, count: int) -> tuple[float, float]:
    """95 % Wilson score interval of a rate (Wilson 1927)."""
    if count == 0:
        return 0.0, 1.0
    from scipy.stats import binomtest  # slow to import

    low, high = binomtest(successes, count).proportion_ci(method="wilson")
    return float(low), float(high)


def judgements(distances: NDArray[np.float64], task: TaskSpec, replan_steps: int) -> dict[str, Look]:
    """What every judge looks at, each with the number of consecutive steps that must be within the threshold."""
    return {
        "any": (distances, 1),
        "held": (distances, task.held_steps),
        "final": (distances[:, [0, -1]], 1),
        "replan": (distances[:, np.unique([*range(0, distances.shape[1], replan_steps), distances.shape[1] - 1])], 1),
    }


def summarise(
    distances: NDArray[np.float64], cases: Cases, task: TaskSpec, replan_steps: int = 1, judge: Judge = "any"
) -> dict[str, Any]:
    """One method's numbers: success by every judge with intervals; by goal distance and by kind of goal as `judge` has
    it. replan_steps: environment steps from one plan to the next."""
    count = len(distances)
    cases = cases.first(count)
    looks = judgements(distances, task, replan_steps)
    rates: dict[str, Any] = {}
    for name, (looked, steps) in looks.items():
        hits = {threshold: int(reached(looked, threshold, steps).sum()) for threshold in task.thresholds}
        rates[name] = {str(t): n / count for t, n in hits.items()}
        rates[f"{name}_ci95"] = {str(t): wilson(n, count) for t, n in hits.items()}
    success = reached(looks[judge][0], task.thresholds[0], looks[judge][1])
    bins = []
    for low, high in zip(task.distance_bins[:-1], task.distance_bins[1:], strict=True):
        inside = (cases.distances >= low) & (cases.distances < high)
        bins.append({"from": low, "to": high, "episodes": int(inside.sum()), "successes": int(success[inside].sum())})
    return {
        "episodes": count,
        **rates,
        "final_distance": float(distances[:, -1].mean()),
        "least_distance": float(distances[:, 1:].min(1).mean()),
        "by_distance": bins,
        "by_kind": [
            {"kind": str(kind), "episodes": int(here.sum()), "successes": int(success[here].sum())}
            for kind in (() if cases.kinds is None else np.unique(cases.kinds))
            for here in (cases.kinds == kind,)
        ],
    }


class RandomPolicy:
    """Uniform actions within the bounds: the random floor."""

    def __init__(self, task: TaskSpec) -> None:
        self.low, self.high = np.array(task.action_low), np.array(task.action_high)

    def reset(self, goal_frames: NDArray[np.uint8], seeds: Sequence[int]) -> None:
        self.rngs = [np.random.default_rng([seed, 3]) for seed in seeds]

    def act(self, frames: NDArray[np.uint8], proprio: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        return np.stack([rng.uniform(self.low, self.high) for rng in self.rngs]).astype(np.float32)


class ZeroPolicy:
    """No action at all, or the nearest that the bounds allow: the zero-action floor."""

    def __init__(self, task: TaskSpec) -> None:
        self.action = np.clip(np.zeros(len(task.action_low)), task.action_low, task.action_high).astype(np.float32)

    def reset(self, goal_frames: NDArray[np.uint8], seeds: Sequence[int]) -> None:
        self.count = len(seeds)

    def act(self, frames: NDArray[np.uint8], proprio: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        return np.repeat(self.action[None], self.count, 0)
