"""The evaluation protocol: held-out starts and goals, baselines, an oracle, success at any time and held.

Start and goal are two frames of one held-out episode, `goal_offset` environment steps apart and at least
`min_goal_distance` apart. Starts that already satisfy the goal are left out and counted. Every method gets the same
starts, goals and seeds. Success is judged on the true state by the task's distance; the methods see images alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise, zip_longest
from typing import Annotated, Any, Literal, Protocol, TypeVar, get_args

import numpy as np
from annotated_types import Ge, Gt, Interval
from numpy.typing import NDArray

from data.pictures import Preprocessing
from envs.presets import Preset, choose_env_kwargs, require_strength
from envs.task_spec import TaskSpec

SCHEMA = 2  # of results.json
T = TypeVar("T")
MOST_BINS = 5  # of goal distances, where the task states none
Pair = tuple[float, int, int]  # a start and its goal: their distance, episode, first frame
JudgedSteps = tuple[NDArray[np.float64], int]
Judge = Literal["any", "held", "final", "replan"]
GoalNuisance = Literal["same", "other", "clean"]


@dataclass(frozen=True)
class OracleCostConfig:
    """The true simulator planned with the model's cost. It renders and encodes the future of every candidate, which
    takes minutes per episode on a CPU, so it plays few episodes with a smaller search."""

    episodes: Annotated[int, Ge(0)] = 4
    """episodes played (0 disables this)"""
    samples: Annotated[int, Ge(2)] = 48
    """candidates per iteration"""
    elites: Annotated[int, Ge(1)] = 8
    """best candidates, which the next iteration is fitted to (at most samples)"""
    iterations: Annotated[int, Ge(1)] = 3
    """iterations per plan"""
    receding_steps: Annotated[int, Ge(1)] = 2
    """model steps executed per plan"""


@dataclass(frozen=True)
class ProtocolConfig:
    """Which starts and goals are evaluated, and what counts as success."""

    episodes: Annotated[int, Ge(1)] = 50
    """pairs of start and goal"""
    split: str = "eval"
    """episodes that starts and goals come from: val to choose settings, eval to report"""
    seed: Annotated[int, Interval(ge=0, le=2**32 - 1)] = 0
    """seed of the choice of starts and goals, and of the planner"""
    budget: Annotated[int, Ge(1)] | None = None
    """environment steps per episode; null: the task's own"""
    goal_offset: Annotated[int, Ge(1)] | None = None
    """environment steps from start to goal; null: the task's own"""
    min_goal_distance: Annotated[float, Ge(0)] | None = None
    """least distance from start to goal, in the task's unit; null: the task's own"""
    judge: Judge = "any"
    """success in the headline: at any time, held, at the final step, or replan (where the planner plans again)"""
    thresholds: dict[str, Annotated[float, Gt(0)]] = field(default_factory=dict)
    """threshold of the headline by task, as {reacher: 0.05}; empty: the task's own"""
    keep_solved: bool = False
    """whether starts that already satisfy the goal count"""
    variation: Preset | None = None
    """preset that the appearance of scenes is drawn from: none, seen, unseen or moving; null: as in the data file"""
    strength: Annotated[float, Interval(ge=0, le=2)] = 1.0
    """distance of unseen values from the training ranges, and strength of motion, times the preset's"""
    goal_nuisance: GoalNuisance = "same"
    """appearance in the goal image: same as the start's, other (another draw) or clean (defaults)"""
    note: str = ""
    """remark on the protocol, shown in the report"""
    oracle: bool = True
    """whether the oracle is run: the true simulator planned with the true distance"""
    oracle_cost: OracleCostConfig = field(default_factory=OracleCostConfig)
    """the true simulator planned with the model's cost"""

    def __post_init__(self) -> None:
        if self.judge not in get_args(Judge):
            raise ValueError(f"protocol.judge={self.judge}: choose one of {', '.join(get_args(Judge))}")
        require_strength(self.variation, self.strength, "protocol.")
        if self.variation == "none" and self.goal_nuisance == "other":
            raise ValueError(
                "protocol.goal_nuisance=other draws another appearance and protocol.variation=none shows none: "
                "choose goal_nuisance=same, or another variation"
            )


@dataclass(frozen=True)
class Cases:
    """Pairs of start and goal [n]: full simulator states, their source, and their distances."""

    start_states: NDArray[np.float64]
    goal_states: NDArray[np.float64]
    episodes: NDArray[np.int64]
    starts: NDArray[np.int64]
    distances: NDArray[np.float64]
    kinds: NDArray[np.str_] | None  # kind of goal, where the task has kinds
    seeds: tuple[int, ...]
    solved_starts: int  # candidates left out because they already satisfied the goal
    too_near: int  # candidates left out because start and goal were nearer than the least distance
    goal_image_states: NDArray[np.float64] | None = None  # what goal images show; None: the goals themselves

    def take(self, count: int) -> Cases:
        """The first `count` pairs."""
        rows: dict[str, Any] = {
            key: value[:count] for key, value in vars(self).items() if isinstance(value, (np.ndarray, tuple))
        }
        return replace(self, **rows)

    def list_reset_options(self) -> list[dict[str, Any]]:
        """What the environment of each pair is reset with: start, goal, and what its goal image shows."""
        images = [None] * len(self.seeds) if self.goal_image_states is None else self.goal_image_states
        rows = zip(self.start_states, self.goal_states, images, strict=True)
        return [{"state": s, "goal_state": g, "goal_image_state": i} for s, g, i in rows]


@dataclass(frozen=True)
class EvaluationSetup:
    """A model, the held-out data, and the starts and goals drawn from that."""

    model: Any  # planners.protocol.Dynamics, or None: without a world model
    source: dict[str, Any]  # from the model folder or the data: env, env_kwargs, objective, ...
    reader: Any  # data.store.Reader
    task: TaskSpec
    protocol: ProtocolConfig  # resolved: no null is left
    cases: Cases
    frame_skip: int  # environment steps in a model step
    preprocessing: Preprocessing | None = None  # of the environment's pictures for the method under test; None: none
    proprio: str = "none"  # what the method under test does with proprioception; none: it gets none

    @property
    def env_kwargs(self) -> dict[str, Any]:
        """Arguments of the environment: the data's, the protocol's variation, proprioception where it is read."""
        kwargs = choose_env_kwargs(self.protocol.variation, self.reader.info.env_kwargs)
        return {**kwargs, **({"proprio": True} if self.proprio != "none" else {})}


def resolve_protocol(protocol: ProtocolConfig, task: TaskSpec) -> ProtocolConfig:
    """The protocol with the task's own values in place of null."""
    budget, offset = protocol.budget or task.budget, protocol.goal_offset or task.goal_offset
    nearest = task.min_goal_distance if protocol.min_goal_distance is None else protocol.min_goal_distance
    return replace(protocol, budget=budget, goal_offset=offset, min_goal_distance=nearest)


def apply_threshold(task: TaskSpec, protocol: ProtocolConfig) -> TaskSpec:
    """The task with the protocol's threshold for it first, where there is one."""
    if task.name not in protocol.thresholds:
        return task
    first = float(protocol.thresholds[task.name])
    return replace(task, thresholds=(first, *(t for t in task.thresholds if t != first)))


def draw_cases(reader: Any, task: TaskSpec, protocol: ProtocolConfig) -> Cases:
    """Starts and goals of a split, spread evenly over its episodes; ValueError where the file has too few."""
    assert protocol.goal_offset is not None and protocol.min_goal_distance is not None, protocol
    rng = np.random.default_rng([protocol.seed, 71])
    candidates: list[list[Pair]] = []  # of each episode, in the order of their draw
    solved = near = 0
    for episode in map(int, rng.permutation(reader.episodes(protocol.split))):
        truth = reader.column("truth", episode)
        starts = np.arange(max(0, len(truth) - protocol.goal_offset))
        distance = task.distance(truth[starts], truth[starts + protocol.goal_offset])
        is_solved = (distance <= task.thresholds[0]) & (not protocol.keep_solved)
        is_near = ~is_solved & (distance < protocol.min_goal_distance)
        solved += int(is_solved.sum())
        near += int(is_near.sum())
        drawn = rng.permutation(starts[~is_solved & ~is_near])
        candidates.append([(float(distance[start]), episode, int(start)) for start in drawn])
    pairs = take_in_turn(candidates, protocol.episodes)
    if len(pairs) < protocol.episodes:
        raise ValueError(
            f"split {protocol.split} serves {len(pairs)} starts with goals {protocol.goal_offset} steps ahead and at "
            f"least {protocol.min_goal_distance} {task.distance_unit} away, not {protocol.episodes}: ask for fewer "
            "episodes, a smaller protocol.goal_offset, or collect more or longer episodes"
        )
    return _read_cases(reader, task, protocol, pairs, protocol.goal_offset, (solved, near))


def draw_starts(reader: Any, task: TaskSpec, protocol: ProtocolConfig) -> Cases:
    """Starts alone, for goals that are no recorded state: any frames of a split, spread evenly over its episodes, fewer
    than protocol.episodes where there are fewer. Their goals are themselves. ValueError where there is none."""
    rng = np.random.default_rng([protocol.seed, 71])
    episodes = rng.permutation(reader.episodes(protocol.split)).tolist()
    frames = [(episode, rng.permutation(reader.num_frames(episode)).tolist()) for episode in episodes]
    pairs = take_in_turn([[(0.0, episode, start) for start in drawn] for episode, drawn in frames], protocol.episodes)
    if not pairs:
        raise ValueError(f"split {protocol.split} has no complete episode to start in: collect more, or choose another")
    return _read_cases(reader, task, protocol, pairs, 0, (0, 0))


def take_in_turn(candidates: Sequence[Sequence[T]], count: int) -> list[T]:
    """The first `count` candidates: the first of every episode, then the second, and so on."""
    rounds = zip_longest(*candidates)
    return [pair for one_round in rounds for pair in one_round if pair is not None][:count]


def _read_cases(
    reader: Any, task: TaskSpec, protocol: ProtocolConfig, pairs: Sequence[Pair], offset: int, left_out: tuple[int, int]
) -> Cases:
    """Cases of these pairs, whose goals are `offset` steps ahead. left_out: candidates solved, and too near."""
    distances, episodes, first_frames = (np.array(column) for column in zip(*pairs, strict=True))
    ends = [np.array([start, start + offset]) for start in first_frames]
    states, truths = (
        np.stack([reader.column(name, int(e))[frames] for e, frames in zip(episodes, ends, strict=True)], 1)
        for name in ("state", "truth")
    )
    kinds = None if task.goal_kind is None else task.goal_kind(truths[0], truths[1])
    seeds = tuple(int(seed) for seed in np.random.default_rng([protocol.seed, 72]).integers(2**31, size=len(pairs)))
    return Cases(states[0], states[1], episodes, first_frames, distances, kinds, seeds, *left_out)


class Policy(Protocol):
    """A method under evaluation, batched over episodes."""

    def reset(self, goal_frames: NDArray[np.uint8], seeds: Sequence[int]) -> None:
        """Begin one episode in every environment."""
        ...

    def act(self, frames: NDArray[np.uint8], proprio: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Actions [B, A] for the current frames [B, H, W, C] and, where the environment gives it, proprioception
        [B, Q]."""
        ...


@dataclass
class Rollouts:
    """The episodes of one method: distances [n, budget + 1] with the start first, actions, and times and energies of
    its planner (`planners.mpc.MPC`). Of the recorded ones, the first [m]: frames, goal images and the proprioception at
    the start, where the environment gives it. played: steps [n] before the simulator ended an episode, after which
    distances and frames are repeated; None: all."""

    distances: NDArray[np.float64]
    actions: NDArray[np.float32]
    plan_ms: list[float] = field(default_factory=list)
    frames: NDArray[np.uint8] | None = None
    goal_frames: NDArray[np.uint8] | None = None
    energies: list[NDArray[np.float32]] = field(default_factory=list)
    start_proprio: NDArray[np.float32] | None = None
    played: NDArray[np.int64] | None = None

    @property
    def played_distances(self) -> NDArray[np.float64]:
        """Distances [n, budget + 1], nan after the end of an episode: what is judged."""
        if self.played is None:
            return self.distances
        return np.where(np.arange(self.distances.shape[1]) <= self.played[:, None], self.distances, np.nan)


def run_episodes(
    policy: Policy,
    make_vector: Callable[[int], Any],
    cases: Cases,
    budget: int,
    num_videos: int = 0,
    progress: Callable[[int], None] = lambda step: None,
    preprocessing: Preprocessing | None = None,
) -> Rollouts:
    """Play all cases side by side for `budget` environment steps.

    preprocessing: of all pictures, before a policy sees them or they are recorded. A policy with a method `set_states`
    (an oracle) gets the simulator's states before every act.
    """
    batch = make_vector(len(cases.seeds))
    try:
        observation, info = batch.reset(seed=list(cases.seeds), options=cases.list_reset_options())
        prepare_pictures(observation, preprocessing)
        policy.reset(observation["goal_pixels"], cases.seeds)
        set_states = getattr(policy, "set_states", None)
        distances, frames = [info["distance"].copy()], [observation["pixels"][:num_videos].copy()]
        actions, proprio = [], observation.get("proprio")
        goes_on, played = np.ones(len(cases.seeds), bool), np.zeros(len(cases.seeds), np.int64)
        start_proprio = None if proprio is None else proprio[:num_videos].copy()
        for step in range(budget):
            if set_states is not None:
                set_states(batch.get_states(), cases.goal_states)
            action = policy.act(observation["pixels"], observation.get("proprio"))
            before = observation
            observation, _, terminated, truncated, info = batch.step(action)
            prepare_pictures(observation, preprocessing)
            goes_on &= ~(terminated | truncated)
            played += goes_on
            for name, values in observation.items():
                values[~goes_on] = before[name][~goes_on]
            distances.append(np.where(goes_on, info["distance"], distances[-1]))
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
            start_proprio,
            None if goes_on.all() else played,
        )
    finally:
        batch.close()


def prepare_pictures(observation: dict[str, NDArray[Any]], preprocessing: Preprocessing | None) -> None:
    """Bring the pictures of an observation to the model's size."""
    if preprocessing is not None:
        observation |= {name: preprocessing.prepare(observation[name]) for name in ("pixels", "goal_pixels")}


def detect_success(distances: NDArray[np.float64], threshold: float, steps: int = 1) -> NDArray[np.bool_]:
    """Per episode: within the threshold for `steps` consecutive steps, at any time after the start."""
    within = distances[:, 1:] <= threshold
    if within.shape[1] < steps:
        return np.zeros(len(within), bool)
    runs = np.lib.stride_tricks.sliding_window_view(within, steps, axis=1)  # [n, windows, steps]
    return np.any(np.all(runs, axis=2), axis=1)


def wilson_interval(successes: int, count: int) -> tuple[float, float]:
    """95 % Wilson score interval of a rate (Wilson 1927)."""
    if count == 0:
        return 0.0, 1.0
    from scipy.stats import binomtest  # slow to import

    low, high = binomtest(successes, count).proportion_ci(method="wilson")
    return float(low), float(high)


def fill_after_end(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """The last distance of every episode in place of nan."""
    last = np.maximum.accumulate(np.where(np.isnan(distances), 0, np.arange(distances.shape[1])), axis=1)
    return np.take_along_axis(distances, last, axis=1)


def choose_bins(distances: NDArray[np.float64]) -> tuple[float, ...]:
    """Edges of at most MOST_BINS bins that hold all distances, multiples of 1, 2 or 5 times a power of ten, so that the
    bins of several seeds agree."""
    low, high = float(distances.min()), float(distances.max())
    least = (high - low or abs(high) or 1.0) / MOST_BINS
    power = 10.0 ** np.floor(np.log10(least))
    for step in (power, 2 * power, 5 * power, 10 * power, 20 * power):
        edges = step * np.arange(np.floor(low / step), np.floor(high / step + 1e-9) + 2)
        if len(edges) <= MOST_BINS + 1:
            break
    return tuple(float(f"{edge:.12g}") for edge in edges)


def select_judged_steps(distances: NDArray[np.float64], task: TaskSpec, replan_steps: int) -> dict[str, JudgedSteps]:
    """Distances that each judge reads, and how many consecutive ones must be within the threshold."""
    return {
        "any": (distances, 1),
        "held": (distances, task.held_steps),
        "final": (fill_after_end(distances)[:, [0, -1]], 1),
        "replan": (distances[:, np.unique([*range(0, distances.shape[1], replan_steps), distances.shape[1] - 1])], 1),
    }


def summarise(
    distances: NDArray[np.float64], cases: Cases, task: TaskSpec, replan_steps: int = 1, judge: Judge = "any"
) -> dict[str, Any]:
    """Results of one method: success by every judge with intervals; by goal distance and kind of goal for `judge`.
    distances: [n, budget + 1], nan after the end of an episode. replan_steps: environment steps from one plan to the
    next."""
    count, bins = len(distances), task.distance_bins or choose_bins(cases.distances)
    cases = cases.take(count)
    steps_by_judge = select_judged_steps(distances, task, replan_steps)
    rates: dict[str, Any] = {}
    for name, (watched, steps) in steps_by_judge.items():
        hits = {str(t): int(detect_success(watched, t, steps).sum()) for t in task.thresholds}
        rates[name] = {threshold: n / count for threshold, n in hits.items()}
        rates[f"{name}_ci95"] = {threshold: wilson_interval(n, count) for threshold, n in hits.items()}
    watched, steps = steps_by_judge[judge]
    success = detect_success(watched, task.thresholds[0], steps)

    def count_group(rows: NDArray[np.bool_]) -> dict[str, int]:
        return {"episodes": int(rows.sum()), "successes": int(success[rows].sum())}

    kinds = () if cases.kinds is None else np.unique(cases.kinds)
    filled = fill_after_end(distances)
    return {
        "episodes": count,
        **rates,
        "final_distance": float(filled[:, -1].mean()),
        "least_distance": float(filled[:, 1:].min(1).mean()),
        "by_distance": [
            {"from": low, "to": high, **count_group((cases.distances >= low) & (cases.distances < high))}
            for low, high in pairwise(bins)
        ],
        "by_kind": [{"kind": str(kind), **count_group(cases.kinds == kind)} for kind in kinds],
    }


class RandomPolicy:
    """Baseline: uniform actions within the bounds."""

    def __init__(self, task: TaskSpec) -> None:
        self.low, self.high = np.array(task.action_low), np.array(task.action_high)

    def reset(self, goal_frames: NDArray[np.uint8], seeds: Sequence[int]) -> None:
        self.rngs = [np.random.default_rng([seed, 3]) for seed in seeds]

    def act(self, frames: NDArray[np.uint8], proprio: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        return np.stack([rng.uniform(self.low, self.high) for rng in self.rngs]).astype(np.float32)


class ZeroPolicy:
    """Baseline: no action, or the nearest one that the bounds allow."""

    def __init__(self, task: TaskSpec) -> None:
        self.action = np.clip(np.zeros(len(task.action_low)), task.action_low, task.action_high).astype(np.float32)

    def reset(self, goal_frames: NDArray[np.uint8], seeds: Sequence[int]) -> None:
        self.count = len(seeds)

    def act(self, frames: NDArray[np.uint8], proprio: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        return np.repeat(self.action[None], self.count, 0)
