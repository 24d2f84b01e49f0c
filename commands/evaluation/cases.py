"""Starts and goals of an evaluation: two frames of one held-out episode each, `goal_offset` environment steps apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from commands.evaluation.protocol import ProtocolConfig
from commands.shared.errors import UsageError
from envs import GYM
from envs.task_spec import TaskSpec

T = TypeVar("T")
Pair = tuple[float, int, int]  # a start and its goal: their distance, episode, first frame
REST_SPEED = 0.01  # velocity up to which a start counts as resting, in the units of the truth (m/s, rad/s)
RESTING, MOVING = "resting", "moving"  # at the start of a case
SPARE_FRAMES = 41  # frames beyond the goal offset that a message proposes: as many starts an episode


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
    motions: NDArray[np.str_] | None = None  # resting or moving at the start, where the truth has velocities

    def take(self, count: int) -> Cases:
        """The first `count` pairs."""
        return self.select(slice(0, count))

    def select(self, chosen: slice) -> Cases:
        """Some of the pairs."""
        rows: dict[str, Any] = {
            key: value[chosen] for key, value in vars(self).items() if isinstance(value, (np.ndarray, tuple))
        }
        return replace(self, **rows)

    def count_starts(self) -> dict[str, int]:
        """Episodes that starts come from, and the least and the most starts of one of them."""
        counts = np.unique(self.episodes, return_counts=True)[1]
        return {"episodes": len(counts), "least": int(counts.min()), "most": int(counts.max())}

    def list_reset_options(self) -> list[dict[str, Any]]:
        """What the environment of each pair is reset with: start, goal, and what its goal image shows."""
        images = [None] * len(self.seeds) if self.goal_image_states is None else self.goal_image_states
        rows = zip(self.start_states, self.goal_states, images, strict=True)
        return [{"state": s, "goal_state": g, "goal_image_state": i} for s, g, i in rows]


def draw_cases(reader: Any, task: TaskSpec, protocol: ProtocolConfig) -> Cases:
    """Starts and goals of a split, as many of every episode as far as each has them; ValueError where the file has too
    few."""
    assert protocol.goal_offset is not None and protocol.min_goal_distance is not None, protocol
    rng = np.random.default_rng([protocol.seed, 71])
    candidates: list[list[Pair]] = []  # of each episode, in the order of their draw
    solved = near = 0
    kind, kinds = protocol.goal_kinds.get(task.name), set[str]()
    episodes = reader.episodes(protocol.split)
    check_lengths(reader, task, protocol.split, protocol.goal_offset, episodes)
    for episode in map(int, rng.permutation(episodes)):
        truth = reader.column("truth", episode)
        starts = np.arange(max(0, len(truth) - protocol.goal_offset))
        goals = truth[starts + protocol.goal_offset]
        if kind is not None and task.goal_kind is not None:
            kind_of_pairs = task.goal_kind(truth[starts], goals)
            kinds.update(map(str, kind_of_pairs))
            starts, goals = starts[kind_of_pairs == kind], goals[kind_of_pairs == kind]
        distance = task.distance(truth[starts], goals)
        already = distance <= task.thresholds[0]
        is_solved = already & (not protocol.keep_solved)
        is_near = ~already & (distance < protocol.min_goal_distance)
        solved += int(is_solved.sum())
        near += int(is_near.sum())
        drawn = rng.permutation(np.flatnonzero(~is_solved & ~is_near))
        candidates.append([(float(distance[index]), episode, int(starts[index])) for index in drawn])
    pairs = take_in_turn(candidates, protocol.episodes)
    if len(pairs) < protocol.episodes:
        of_kind = "" if kind is None else f" of the kind {kind!r} (of {', '.join(sorted(kinds))})"
        raise ValueError(
            f"split {protocol.split} serves {len(pairs)} starts with goals{of_kind} {protocol.goal_offset} steps ahead "
            f"and at least {protocol.min_goal_distance} {task.distance_unit} away, not {protocol.episodes}: ask "
            "for fewer episodes, a smaller protocol.goal_offset, or collect more or longer episodes"
        )
    return _read_cases(reader, task, protocol, pairs, protocol.goal_offset, (solved, near))


def check_lengths(reader: Any, task: TaskSpec, split: str, offset: int, episodes: NDArray[np.int64]) -> None:
    """UsageError where no episode of a split is longer than the goal offset."""
    longest = max((reader.num_frames(int(episode)) for episode in episodes), default=0) - 1
    if len(episodes) and longest < offset:
        env = task.name if not task.name.startswith(GYM) else f"{GYM[:-1]} env.id={task.name.removeprefix(GYM)}"
        raise UsageError(
            f"protocol.goal_offset={offset}: the longest episode of split {split} has {longest} environment steps; "
            f"choose at most {longest}, or collect longer episodes: jepa collect env={env} "
            f"data.frames={offset + SPARE_FRAMES}"
        )


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
    speeds = np.abs(truths[0][:, list(task.velocity_index)])
    motions = np.where(speeds.max(1) <= REST_SPEED, RESTING, MOVING) if speeds.shape[1] else None
    seeds = tuple(int(seed) for seed in np.random.default_rng([protocol.seed, 72]).integers(2**31, size=len(pairs)))
    return Cases(states[0], states[1], episodes, first_frames, distances, kinds, seeds, *left_out, motions=motions)
