"""Goal states: random poses at a least distance, or states that random actions have reached."""

from __future__ import annotations

from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from envs.task_spec import TaskSpec

_MAX_POSES = 1000
_MAX_WALKS, _HOLD_STEPS = 20, 5


class StateEnv(Protocol):
    """What goals are drawn with: an environment whose full state `[S]` can be read and set, as `GoalEnv`."""

    task: ClassVar[TaskSpec]

    @property
    def np_random(self) -> np.random.Generator: ...

    def sample_state(self, factors: NDArray[np.float64]) -> NDArray[np.float64]: ...

    def get_state(self) -> NDArray[np.float64]: ...

    def set_state(self, state: NDArray[np.float64]) -> None: ...

    def get_truth(self, state: NDArray[np.float64] | None = None) -> NDArray[np.float32]: ...

    def advance(self, action: NDArray[np.float64]) -> tuple[bool, bool]: ...


def sample_distant_goal(env: StateEnv, start: NDArray[np.float64], factors: NDArray[np.float64]) -> NDArray[np.float64]:
    """A random state `[S]` at least `min_goal_distance` from `start` `[S]`, with the factors `[F]`."""
    for _ in range(_MAX_POSES):
        goal = env.sample_state(factors)
        if env.task.distance(env.get_truth(start), env.get_truth(goal)) >= env.task.min_goal_distance:
            return goal
    raise AssertionError(f"no goal at a distance of {env.task.min_goal_distance} {env.task.distance_unit} was drawn")


def sample_reachable_goal(
    env: StateEnv, start: NDArray[np.float64], factors: NDArray[np.float64]
) -> NDArray[np.float64]:
    """A state `[S]` after `goal_offset` steps of held random actions from `start` `[S]`.

    For tasks in which most poses cannot be held, or the possible poses are not known. A walk stops where the simulator
    ends its episode. Returns the first state at least `min_goal_distance` away, else the farthest of 20. Leaves the
    environment in another state.
    """
    low, high = np.array(env.task.action_low), np.array(env.task.action_high)
    truth, farthest, goal = env.get_truth(start), -1.0, start
    for _ in range(_MAX_WALKS):
        env.set_state(start)
        for step in range(env.task.goal_offset):
            if step % _HOLD_STEPS == 0:
                action = env.np_random.uniform(low, high)
            if any(env.advance(action)):
                break
        distance = float(env.task.distance(truth, env.get_truth()))
        if distance > farthest:
            farthest, goal = distance, env.get_state()
        if distance >= env.task.min_goal_distance:
            break
    return goal
