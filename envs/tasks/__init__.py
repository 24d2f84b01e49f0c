"""Task specifications: what each task measures, in which unit, and how an episode of it is judged.

Pure numpy, one file a task. Nothing here imports a simulator, so an evaluator or a report can read a specification
without OpenGL. The protocol these numbers feed is that of DINO-WM (arXiv 2411.04983): reach a goal image from the
same episode within a budget; here with success at several thresholds.
"""

from __future__ import annotations

from envs.tasks.point_maze import POINT_MAZE
from envs.tasks.push_t import PUSH_T
from envs.tasks.reacher import REACHER
from envs.tasks.spec import TaskSpec, wrap_angle
from envs.tasks.two_rooms import TWO_ROOMS

__all__ = ["POINT_MAZE", "PUSH_T", "REACHER", "TASKS", "TWO_ROOMS", "TaskSpec", "wrap_angle"]

TASKS: dict[str, TaskSpec] = {spec.name: spec for spec in (POINT_MAZE, PUSH_T, REACHER, TWO_ROOMS)}
