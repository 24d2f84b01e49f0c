"""Goal-image tasks with Gymnasium's interface: `envs.make("reacher")`, or `gymnasium.make("jepa/reacher-v0")`.

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
from envs.task_spec import TaskSpec, suggest_names
from envs.two_rooms.spec import TWO_ROOMS

if TYPE_CHECKING:
    from envs.goal_env import GoalEnv

__all__ = ["GYM", "OWN_TASKS", "TASKS", "TaskSpec", "find_task", "make", "task"]

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


for _name in TASKS:
    _module, _kwargs = _find_entry_point(_name)
    gymnasium.register(id=f"jepa/{_name.replace('/', '_')}-v0", entry_point=_module, kwargs=_kwargs)


def make(name: str, **kwargs: Any) -> GoalEnv:
    """The environment of a task, without Gymnasium's wrappers.

    `kwargs` go to the environment: `size`, `proprio`, `render_mode`, `factors`, `variation`. Raises
    `ValueError` for an unknown task.
    """
    entry_point, selection = _find_entry_point(name)
    module, _, cls = entry_point.partition(":")
    return getattr(importlib.import_module(module), cls)(**selection, **kwargs)


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
