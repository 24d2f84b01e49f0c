"""Descriptions of Gymnasium's environments as goal-image tasks; pure numpy.

An environment without a description is a task, too: its state is MuJoCo's, or its attribute `state`, and the distance
is the largest error of a position (of any number, where the positions are unknown). `describe_task` adds a
description.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from envs.task_spec import Distance, LargestError


@dataclass(frozen=True)
class GymTask:
    """How to use an environment of Gymnasium as a goal-image task; the environment provides what is None.

    `get_state(env)` returns all that the next step and the image depend on, as numbers `[S]`, and
    `set_state(env, state)` restores it; both get the environment without wrappers. `truth(env)` returns the
    quantities `[L]` that `distance` compares, `[..., L]` with `[..., L]`. The other fields are those of `TaskSpec`.
    """

    get_state: Callable[[Any], ArrayLike] | None = None
    set_state: Callable[[Any, NDArray[np.float64]], None] | None = None
    truth: Callable[[Any], ArrayLike] | None = None
    truth_names: tuple[str, ...] | None = None
    truth_units: tuple[str, ...] | None = None
    distance: Distance | None = field(default=None, repr=False)
    distance_unit: str = "of its units"
    thresholds: tuple[float, ...] = (0.2, 0.1, 0.05)
    min_goal_distance: float = 0.4
    distance_bins: tuple[float, ...] | None = None
    goal_offset: int = 20
    budget: int = 30
    frame_skip: int = 2
    control_step_s: float | None = None
    action_names: tuple[str, ...] | None = None
    # Whether an episode ends where a step says `terminated` or `truncated`; False: the environment goes on as before.
    # None: it ends, but in environments of Gymnasium, Gymnasium-Robotics and OGBench.
    stops_at_end: bool | None = None


def _set_pendulum(env: Any, state: NDArray[np.float64]) -> None:
    env.state, env.last_u = state.copy(), None  # the last torque would be drawn as an arrow


def _get_fetch(env: Any) -> NDArray[np.float64]:
    from envs.physics import Physics

    return np.concatenate([Physics(env.model, data=env.data).get_state(), env.goal])


def _set_fetch(env: Any, state: NDArray[np.float64]) -> None:
    from envs.physics import Physics

    env.goal = state[-3:].copy()  # its sphere is in the image
    physics = Physics(env.model, data=env.data)
    physics.set_state(state[:-3])
    physics.update_kinematics()


_FETCH = GymTask(get_state=_get_fetch, set_state=_set_fetch)

_TASKS: dict[str, GymTask] = {
    "Pendulum-v1": GymTask(
        get_state=lambda env: env.state,
        set_state=_set_pendulum,
        truth_names=("angle", "velocity"),
        truth_units=("rad", "rad/s"),
        distance=LargestError(1, periodic=(0,)),
        distance_unit="rad",
        min_goal_distance=0.6,
        distance_bins=(0.6, 1.0, 1.5, 2.0, 3.2),
        action_names=("torque",),
    ),
    "MountainCarContinuous-v0": GymTask(
        truth_names=("position", "velocity"),
        truth_units=("of the track", "of the track/step"),
        distance=LargestError(1),
        distance_unit="of the track",
        thresholds=(0.05, 0.03, 0.01),
        min_goal_distance=0.15,
        distance_bins=(0.15, 0.25, 0.5, 2.0),
        goal_offset=30,
        budget=50,
        action_names=("force",),
    ),
}


def describe_task(gym_id: str, task: GymTask) -> None:
    """Add the description of the environment `gym_id`; for the module that registers it with Gymnasium."""
    _TASKS[gym_id] = task


def find_description(gym_id: str) -> GymTask:
    """The description of an id, given with or without the module that registers it ("my_envs:Mine-v0")."""
    bare = gym_id.rpartition(":")[2]
    return _TASKS[bare] if bare in _TASKS else _FETCH if bare.startswith("Fetch") else GymTask()
