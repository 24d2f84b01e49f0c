"""Point maze: a ball pushed by forces through a maze; the layout differs from episode to episode.

After D4RL's and PLDM's point mazes (arXiv 2004.07219, 2502.14819), with one difference that matters: random layouts
are dealt out by split, so that what is evaluated was never seen in training. An environment step is 0.1 s, ten
physics steps with the forces held.
"""

from __future__ import annotations

import importlib.resources
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from envs.behaviour import choose_destination, sample_force
from envs.factor_writes import add_pattern
from envs.goal_env import GoalEnv
from envs.point_maze.mazes import (
    BALL_RADIUS_M,
    CELL_M,
    MAX_WALLS,
    NAMED,
    NUM_LAYOUTS,
    build_walls,
    get_routes,
    list_random_layouts,
    locate_cells,
)
from envs.point_maze.spec import LAYOUTS, POINT_MAZE
from envs.task_spec import TaskSpec

if TYPE_CHECKING:
    import mujoco

_WALL_Z_M, _UNUSED_Z_M = 0.1, -1.0
_MARGIN_M = 0.02
_ROOM_M = 0.03  # how much farther than a shortest way the scripted ball keeps from corners

_LEAD_M, _PLACES = 0.25, 3  # how far ahead it aims beyond a corner; places it chooses the next among


class PointMaze(GoalEnv):
    """Truth: the ball's place (m) and velocity (m/s), the layout's index."""

    task: ClassVar[TaskSpec] = POINT_MAZE
    camera: ClassVar[str] = "top"
    factor_names: ClassVar[tuple[str, ...]] = ("layout",)
    factor_ranges: ClassVar[tuple[tuple[str, float, float], ...]] = (("layout number", 0, NUM_LAYOUTS - 1),)

    def __init__(self, layout: str = "random", **kwargs: Any) -> None:
        """`layout` is `u` or `medium` in every episode, or `random`; `kwargs` are those of every task.

        Raises `ValueError` for an unknown layout.
        """
        if layout not in LAYOUTS:
            raise ValueError(f"layout={layout!r} is unknown; choices: {', '.join(LAYOUTS)}")
        self.layout = layout
        super().__init__(**kwargs)

    def _build_model(self) -> mujoco.MjModel:
        import mujoco

        xml = importlib.resources.files("envs.point_maze").joinpath("scene.xml").read_text(encoding="utf-8")
        spec = mujoco.MjSpec.from_string(xml)
        for number in range(MAX_WALLS):
            body = spec.worldbody.add_body(name=f"wall {number}", pos=(0, 0, _UNUSED_Z_M))
            body.add_geom(spec.find_default("wall"), name=f"wall {number}")
        add_pattern(spec)
        return spec.compile()

    def _sample_task_factors(self, rng: np.random.Generator) -> NDArray[np.float64]:
        if self.layout in NAMED:
            return np.array([NAMED[self.layout]], np.float64)
        return rng.choice(list_random_layouts(self.split), size=1).astype(np.float64)

    def _write_task_factors(self, model: mujoco.MjModel, factors: NDArray[np.float64]) -> None:
        places = locate_cells(*np.nonzero(build_walls(_index(factors))))
        # Bodies are moved, not geoms: a body's collision tree is in its own frame, so nothing goes stale.
        for number in range(MAX_WALLS):
            used = number < len(places)
            model.body(f"wall {number}").pos[:] = (*places[number], _WALL_Z_M) if used else (0, 0, _UNUSED_Z_M)

    def _sample_pose(
        self, rng: np.random.Generator, factors: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return _sample_position(rng, _index(factors)), np.zeros(2)

    def compute_truth(self, qpos: ArrayLike, qvel: ArrayLike, factors: ArrayLike) -> NDArray[np.float32]:
        """Truth float32 `[..., 5]`; see the class."""
        return np.concatenate([np.asarray(part) for part in (qpos, qvel, factors)], axis=-1).astype(np.float32)

    def sample_scripted_action(self, rng: np.random.Generator, memory: dict[str, Any]) -> NDArray[np.float32]:
        """Forces `[2]` that take the ball to one random place after another by the shortest way, with noise."""
        truth = self.get_truth().astype(np.float64)
        place, velocity, layout = truth[:2], truth[2:4], _index(self._factors)
        target = choose_destination(memory, place, lambda: self._sample_far_position(rng, layout))
        heading = get_routes(layout).find_heading(place, target, _ROOM_M)
        towards = heading - place
        if heading is not target:  # a corner is passed at speed
            towards *= max(1.0, _LEAD_M / max(float(np.linalg.norm(towards)), 1e-9))
        action = sample_force(rng, memory, towards, velocity)
        return np.clip(action, self._low, self._high).astype(np.float32)

    def _sample_far_position(self, rng: np.random.Generator, layout: int) -> NDArray[np.float64]:
        """The farthest `[2]` of a few random places, so that most routes lead around walls."""
        places = np.stack([_sample_position(rng, layout) for _ in range(_PLACES)])
        truths = np.concatenate([places, np.zeros((_PLACES, 2)), np.full((_PLACES, 1), layout)], -1)
        return places[self.task.distance(self.get_truth(), truths).argmax()]


def _index(factors: NDArray[np.float64]) -> int:
    return int(factors[0])


def _sample_position(rng: np.random.Generator, layout: int) -> NDArray[np.float64]:
    """A place `[2]` of the ball's centre in a free cell, clear of its edges."""
    room = CELL_M / 2 - BALL_RADIUS_M - _MARGIN_M
    cells = locate_cells(*np.nonzero(~build_walls(layout)))
    return rng.choice(cells) + rng.uniform(-room, room, 2)
