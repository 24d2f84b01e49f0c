"""Goal-image tasks with Gymnasium's interface: `envs.make("reacher")`, or `gymnasium.make("jepa/reacher-v0")`.

The first gives no reward and plays on for ever. The second is for reinforcement learning: it takes `reward` and
`terminate_on_success`, and truncates an episode at the task's budget.

Importing this package registers the ids and imports no simulator: MuJoCo is loaded when the first environment
is made, after the OpenGL backend has been chosen (see `envs.rendering`).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import gymnasium

from envs.adapters.dm_control_tasks import DMC_TASKS
from envs.point_maze.spec import POINT_MAZE
from envs.push_t.spec import PUSH_T
from envs.reacher.spec import REACHER
from envs.rewards import Kind, Rewards
from envs.task_spec import TaskSpec, suggest_names
from envs.two_rooms.spec import TWO_ROOMS

if TYPE_CHECKING:
    from envs.goal_env import GoalEnv

__all__ = ["GYM", "OWN_TASKS", "TASKS", "TaskSpec", "find_task", "get_gym_id", "get_task", "make", "make_with_rewards"]

# A task's specification imports no simulator, so a report can read it without OpenGL.
OWN_TASKS: dict[str, TaskSpec] = {spec.name: spec for spec in (POINT_MAZE, PUSH_T, REACHER, TWO_ROOMS)}
# Tasks known by name; any environment of Gymnasium is a task, too, under the name "gym/<id>".
TASKS: dict[str, TaskSpec] = {**OWN_TASKS, **DMC_TASKS}
GYM = "gym/"

_ENTRY_POINTS = {
    "point_maze": "envs.point_maze.env:PointMaze",
    "push_t": "envs.push_t.env:PushT",
    "reacher": "envs.reacher.env:Reacher",
    "two_rooms": "envs.two_rooms.env:TwoRooms",
}


def _find_entry_point(name: str) -> tuple[str, dict[str, str]]:
    """Module and class of a task's environment, and the arguments that select the task; ValueError if unknown."""
    if name in _ENTRY_POINTS:
        return _ENTRY_POINTS[name], {}
    if name in DMC_TASKS:
        return "envs.adapters.dm_control_env:Dmc", {"domain": DMC_TASKS[name].domain}
    if name.startswith(GYM) and name != GYM:
        return "envs.adapters.gymnasium_env:GymGoalEnv", {"gym_id": name.removeprefix(GYM)}
    raise ValueError(
        f"unknown environment {name!r}; {suggest_names(name, TASKS)}choices: {', '.join(sorted(TASKS))}, {GYM}ID"
    )


def make(name: str, **kwargs: Any) -> GoalEnv:
    """The environment of a task, without Gymnasium's wrappers.

    `kwargs` go to the environment: `size`, `proprio`, `render_mode`, `factors`, `variation`, `distraction`.
    Raises `ValueError` for an unknown task.
    """
    entry_point, selection = _find_entry_point(name)
    module, _, cls = entry_point.partition(":")
    return getattr(importlib.import_module(module), cls)(**selection, **kwargs)


def make_with_rewards(name: str, reward: Kind = "none", terminate_on_success: bool = False, **kwargs: Any) -> GoalEnv:
    """The environment of a task with rewards: what `gymnasium.make` calls, and puts its wrappers around.

    `reward`: none (0), sparse (-1 until the goal is reached, then 0) or dense (negative distance in the task's unit).
    `terminate_on_success` ends an episode at the first success. `kwargs` as for `make`.
    """
    rewards = Rewards(reward, terminate_on_success)  # a bad value is named before a simulator is loaded
    env = make(name, **kwargs)
    env.rewards = rewards
    return env


def get_gym_id(name: str) -> str:
    """The id under which Gymnasium knows a task of TASKS."""
    return f"jepa/{name.replace('/', '_')}-v0"


def get_task(name: str) -> TaskSpec:
    """A task's specification; ValueError for an unknown name, or an environment of Gymnasium that cannot be a task.

    For "gym/<id>" the environment is made once, without rendering.
    """
    if name in TASKS:
        return TASKS[name]
    _find_entry_point(name)
    from envs.adapters.gymnasium_env import build_gym_spec

    return build_gym_spec(name.removeprefix(GYM))


def find_task(name: str) -> TaskSpec | None:
    """A task's specification, or None for the name of data recorded elsewhere."""
    return get_task(name) if name in TASKS or name.startswith(GYM) else None


for _name, _task in TASKS.items():
    gymnasium.register(
        id=get_gym_id(_name),
        entry_point="envs:make_with_rewards",
        max_episode_steps=_task.budget,
        kwargs={"name": _name},
    )
