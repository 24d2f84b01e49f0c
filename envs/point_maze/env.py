"""Point maze: a ball pushed by forces through a maze; the layout differs from episode to episode.

After D4RL's and PLDM's point mazes (arXiv 2004.07219, 2502.14819), with one difference: random layouts are divided
between the splits, so that evaluation uses layouts that training never saw. An environment step is 0.1 s, ten physics
steps with the forces held.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from envs.ball import choose_target, sample_force
from envs.goal_env import GoalEnv, Pose
from envs.point_maze import mazes
from envs.point_maze.spec import LAYOUTS, POINT_MAZE

if TYPE_CHECKING:
    import mujoco

_WALL_Z_M, _UNUSED_Z_M = 0.1, -1.0
_MARGIN_M = 0.02
_CLEARANCE_M = 0.03  # distance that the scripted ball keeps from the corners of a shortest route

_LEAD_M, _NUM_CANDIDATES = 0.25, 3  # how far the script aims beyond a corner; positions it chooses a target among


class PointMaze(GoalEnv):
    """Truth: the ball's position (m) and velocity (m/s), the layout's index."""

    task = POINT_MAZE
    camera = "top"
    task_factors = {"layout": ("layout number", 0, mazes.NUM_LAYOUTS - 1)}

    def __init__(self, layout: str = "random", **kwargs: Any) -> None:
        """`layout` is `u` or `medium` in every episode, or `random`; `kwargs` are those of every task.

        Raises `ValueError` for an unknown layout.
        """
        if layout not in LAYOUTS:
            raise ValueError(f"layout={layout!r} is unknown; choices: {', '.join(LAYOUTS)}")
        self.layout = layout
        super().__init__(**kwargs)

    def _build_model(self) -> mujoco.MjModel:
        from envs.physics import load_scene

        spec = load_scene("envs.point_maze")
        for number in range(mazes.MAX_WALLS):
            body = spec.worldbody.add_body(name=f"wall {number}", pos=(0, 0, _UNUSED_Z_M))
            body.add_geom(spec.find_default("wall"), name=f"wall {number}")
        return spec.compile()

    def _sample_task_factors(self, rng: np.random.Generator) -> NDArray[np.float64]:
        if self.layout in mazes.NAMED:
            return np.array([mazes.NAMED[self.layout]], np.float64)
        return rng.choice(mazes.list_random_layouts(self.split), size=1).astype(np.float64)

    def _write_task_factors(self, model: mujoco.MjModel, factors: NDArray[np.float64]) -> None:
        walls = mazes.locate_cells(mazes.build_walls(int(factors[0])))
        # Bodies are moved, not geoms: a body's collision tree is in its own frame, so it stays valid.
        for number in range(mazes.MAX_WALLS):
            used = number < len(walls)
            model.body(f"wall {number}").pos[:] = (*walls[number], _WALL_Z_M) if used else (0, 0, _UNUSED_Z_M)

    def _sample_pose(self, rng: np.random.Generator, factors: NDArray[np.float64]) -> Pose:
        return _sample_position(rng, int(factors[0])), np.zeros(2)

    def sample_scripted_action(self, rng: np.random.Generator, memory: dict[str, Any]) -> NDArray[np.float32]:
        """Forces `[2]` that take the ball to one random target after another by the shortest route, with noise."""
        truth = self.get_truth().astype(np.float64)
        position, velocity, layout = truth[:2], truth[2:4], int(self._factors[0])
        target = choose_target(memory, position, lambda: self._sample_far_position(rng, layout))
        waypoint = mazes.get_routes(layout).find_waypoint(position, target, _CLEARANCE_M)
        offset = waypoint - position
        if waypoint is not target:  # a corner is passed at speed
            offset *= max(1.0, _LEAD_M / max(float(np.linalg.norm(offset)), 1e-9))
        action = sample_force(rng, memory, offset, velocity)
        return np.clip(action, self._low, self._high).astype(np.float32)

    def _sample_far_position(self, rng: np.random.Generator, layout: int) -> NDArray[np.float64]:
        """The farthest `[2]` of a few random positions, so that most routes lead around walls."""
        positions = np.stack([_sample_position(rng, layout) for _ in range(_NUM_CANDIDATES)])
        truths = np.pad(positions, ((0, 0), (0, 3)))
        truths[:, -1] = layout
        return positions[self.task.distance(self.get_truth(), truths).argmax()]


def _sample_position(rng: np.random.Generator, layout: int) -> NDArray[np.float64]:
    """A position `[2]` of the ball's centre in a free cell, clear of its edges."""
    room = mazes.CELL_M / 2 - mazes.BALL_RADIUS_M - _MARGIN_M
    return rng.choice(mazes.locate_cells(~mazes.build_walls(layout))) + rng.uniform(-room, room, 2)
