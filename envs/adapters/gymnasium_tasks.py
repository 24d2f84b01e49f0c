"""What a goal-image task needs to know of an environment of Gymnasium's; a table, pure numpy.

An environment that is not in the table still is a task, with what can be found out: its state is MuJoCo's, or
its `state`; the distance is the largest error of a position (of any number, where the state does not say which
are positions). `describe` puts a better description into the table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from envs.task_spec import Distance, TaskSpec, wrap_angle


@dataclass(frozen=True)
class GymTask:
    """How to use an environment of Gymnasium's as a goal-image task; None is found out from the environment.

    `get_state(env)` gives everything the next step and the picture depend on, as numbers `[S]`, and
    `set_state(env, state)` goes there; both get the environment without wrappers. `truth(env)` gives the
    quantities `[L]` that say where it is, and `distance` compares two of those, `[..., L]`.
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
    distance_bins: tuple[float, ...] = (0.4, 0.8, 1.6, 3.2)
    goal_offset: int = 20
    budget: int = 30
    frame_skip: int = 2
    control_step_s: float | None = None
    action_names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class LargestError:
    """The largest error of the first `count` numbers, those of `turns` wrapped as angles."""

    count: int
    turns: tuple[int, ...] = ()

    def __call__(self, truth_a: ArrayLike, truth_b: ArrayLike) -> NDArray[np.float64]:
        """Distance `[...]` of truths `[..., L]`."""
        error = np.asarray(truth_a, np.float64)[..., : self.count] - np.asarray(truth_b, np.float64)[..., : self.count]
        if self.turns:
            error[..., list(self.turns)] = wrap_angle(error[..., list(self.turns)])
        return np.abs(error).max(-1)


def _pendulum_state(env: Any) -> ArrayLike:
    return env.state


def _set_pendulum(env: Any, state: NDArray[np.float64]) -> None:
    env.state, env.last_u = state.copy(), None  # the last torque would be drawn as an arrow


def _fetch_state(env: Any) -> NDArray[np.float64]:
    from envs.adapters.gymnasium_state import get_mujoco_state

    return np.concatenate([get_mujoco_state(env), env.goal])


def _set_fetch(env: Any, state: NDArray[np.float64]) -> None:
    from envs.adapters.gymnasium_state import set_mujoco_state

    env.goal = state[-3:].copy()  # its sphere is in the picture
    set_mujoco_state(env, state[:-3])


FETCH = GymTask(get_state=_fetch_state, set_state=_set_fetch)

_TABLE: dict[str, GymTask] = {
    "Pendulum-v1": GymTask(
        get_state=_pendulum_state,
        set_state=_set_pendulum,
        truth_names=("angle", "velocity"),
        truth_units=("rad", "rad/s"),
        distance=LargestError(1, turns=(0,)),
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
    """Say how the environment `gym_id` is a task; for the module that registers it with Gymnasium."""
    _TABLE[gym_id] = task


def find_description(gym_id: str) -> GymTask:
    """What is known of an id, given with or without the module that registers it ("my_envs:Mine-v0")."""
    bare = gym_id.rpartition(":")[2]
    known = FETCH if bare.startswith("Fetch") else GymTask()
    return _TABLE[bare] if bare in _TABLE else known


def build_spec(name: str, task: GymTask, found: dict[str, Any]) -> TaskSpec:
    """The task's specification, from its description and from what was found out by asking the environment.

    `found` has action_low, action_high `[A]`, truth_names, truth_units, distance and control_step_s.
    """
    low, high = found["action_low"], found["action_high"]
    given = {key: getattr(task, key) for key in ("truth_names", "truth_units", "distance", "control_step_s")}
    kept = {key: found[key] if value is None else value for key, value in given.items()}
    names = kept["truth_names"]
    if len(names) != found["truth_size"] or len(kept["truth_units"]) != len(names):
        raise ValueError(
            f"{name}: {found['truth_size']} true quantities, {len(names)} truth_names and "
            f"{len(kept['truth_units'])} truth_units: describe it with as many of each"
        )
    return TaskSpec(
        name=name,
        description=f"Gymnasium's {name.partition('/')[2]}; the goal is a moment that was reached.",
        distance_unit=task.distance_unit,
        thresholds=task.thresholds,
        held_steps=3,
        budget=task.budget,
        goal_offset=task.goal_offset,
        min_goal_distance=task.min_goal_distance,
        distance_bins=task.distance_bins,
        frame_skip=task.frame_skip,
        action_low=tuple(low.tolist()),
        action_high=tuple(high.tolist()),
        action_names=task.action_names or tuple(f"action {number}" for number in range(len(low))),
        proprio_names=names,
        probe_targets=np.asarray,
        **kept,
    )
