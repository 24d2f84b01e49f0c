"""Goal-image tasks behind Gymnasium's interface: `envs.make("reacher")`, or Gymnasium's own `make` with
"jepa/reacher-v0".

Importing this package registers the ids and imports no simulator: MuJoCo is loaded when the first environment
is made, after the OpenGL backend has been chosen (see `envs.rendering`).
"""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING, Any

import gymnasium

from envs.tasks import TASKS, TaskSpec

if TYPE_CHECKING:
    from envs.goal_env import GoalEnv

__all__ = ["TASKS", "TaskSpec", "make"]

_ENTRY_POINTS = {
    "point_maze": "envs.point_maze:PointMaze",
    "push_t": "envs.push_t:PushT",
    "reacher": "envs.reacher:Reacher",
    "two_rooms": "envs.two_rooms:TwoRooms",
}


def _register() -> None:
    for name, entry_point in _ENTRY_POINTS.items():
        env_id = f"jepa/{name}-v0"
        if env_id not in gymnasium.registry:
            gymnasium.register(id=env_id, entry_point=entry_point)


_register()


def make(name: str, **kwargs: Any) -> GoalEnv:
    """The environment of a task, without Gymnasium's wrappers.

    `kwargs` go to the environment: `size`, `proprio`, `render_mode`. Raises `ValueError` for an unknown task.
    """
    if name not in _ENTRY_POINTS:
        near = difflib.get_close_matches(name, _ENTRY_POINTS, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise ValueError(f"unknown environment {name!r}; {hint}choices: {', '.join(sorted(_ENTRY_POINTS))}")
    module, _, cls = _ENTRY_POINTS[name].partition(":")
    return getattr(importlib.import_module(module), cls)(**kwargs)
