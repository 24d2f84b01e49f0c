"""Episodes of a method under evaluation, played side by side, and the two baselines that need no model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from commands.evaluation.cases import Cases
from data.pictures import Preprocessing
from envs.task_spec import Distance, TaskSpec


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
    measure: Distance | None = None,
) -> Rollouts:
    """Play all cases side by side for `budget` environment steps.

    preprocessing: of all pictures, before a policy sees them or they are recorded. measure: distance of truths from
    goals' truths that is recorded; None: the environment's own. A policy with a method `set_states`
    (an oracle) gets the simulator's states before every act.
    """
    batch = make_vector(len(cases.seeds))

    def read_distances(info: dict[str, NDArray[Any]]) -> NDArray[np.float64]:
        return info["distance"].copy() if measure is None else measure(info["truth"], info["goal_truth"])

    try:
        observation, info = batch.reset(seed=list(cases.seeds), options=cases.list_reset_options())
        prepare_pictures(observation, preprocessing)
        policy.reset(observation["goal_pixels"], cases.seeds)
        set_states = getattr(policy, "set_states", None)
        distances, frames = [read_distances(info)], [observation["pixels"][:num_videos].copy()]
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
            distances.append(np.where(goes_on, read_distances(info), distances[-1]))
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
