"""Two rooms: a ball, a wall, and a door whose position differs from episode to episode; the goal is an image.

A standard test of planning past an obstacle from pixels (the Wall task of DINO-WM, arXiv 2411.04983, and Two-Rooms
of PLDM, arXiv 2502.14819), here with inertia: actions are forces, and a single image does not show the ball's
velocity. An environment step is 0.1 s, ten physics steps with the forces held.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from envs.ball import choose_target, sample_force
from envs.goal_env import GoalEnv, Pose
from envs.two_rooms.spec import BALL_RADIUS_M, DOOR_HALF_WIDTH_M, TWO_ROOMS

if TYPE_CHECKING:
    import mujoco

ROOM_HALF_M = 1.0  # from the wall's middle to a border
WALL_HALF_THICKNESS_M = 0.06
DOOR_RANGE_M = 0.6  # the door's middle lies between -DOOR_RANGE_M and DOOR_RANGE_M
_MARGIN_M = 0.02


class TwoRooms(GoalEnv):
    """Truth: the ball's position (m) and velocity (m/s), the door's position along the wall (m)."""

    task = TWO_ROOMS
    camera = "top"
    task_factors = {"door_y": ("m", -DOOR_RANGE_M, DOOR_RANGE_M)}

    def _sample_task_factors(self, rng: np.random.Generator) -> NDArray[np.float64]:
        return rng.uniform(-DOOR_RANGE_M, DOOR_RANGE_M, size=1)

    def _write_task_factors(self, model: mujoco.MjModel, factors: NDArray[np.float64]) -> None:
        # Bodies are moved, not geoms: a body's collision tree is in its own frame, so it stays valid.
        for name, side in (("wall below", -1), ("wall above", 1)):
            half_length = model.geom(name).size[1]
            model.body(name).pos[1] = factors[0] + side * (DOOR_HALF_WIDTH_M + half_length)

    def _sample_pose(self, rng: np.random.Generator, factors: NDArray[np.float64]) -> Pose:
        return _sample_position(rng), np.zeros(2)

    def sample_scripted_action(self, rng: np.random.Generator, memory: dict[str, Any]) -> NDArray[np.float32]:
        """Forces `[2]` that take the ball to one random target after another, through the door, with noise."""
        truth = self.get_truth().astype(np.float64)
        position, velocity, door_y = truth[:2], truth[2:4], truth[4]
        target = choose_target(memory, position, lambda: _sample_position(rng))
        action = sample_force(rng, memory, find_waypoint(position, target, door_y) - position, velocity)
        return np.clip(action, self._low, self._high).astype(np.float32)


def _sample_position(rng: np.random.Generator) -> NDArray[np.float64]:
    """A position `[2]` of the ball's centre in either room, clear of walls."""
    inner, outer = WALL_HALF_THICKNESS_M + BALL_RADIUS_M + _MARGIN_M, ROOM_HALF_M - BALL_RADIUS_M - _MARGIN_M
    x = rng.uniform(inner, outer) * rng.choice((-1.0, 1.0))
    return np.array([x, rng.uniform(-outer, outer)])


def find_waypoint(position: NDArray[np.float64], target: NDArray[np.float64], door_y: float) -> NDArray[np.float64]:
    """Next waypoint `[2]` from `position` `[2]` to `target` `[2]`: the target, or a point before or behind the door."""
    side = 1.0 if target[0] > 0 else -1.0
    clear = WALL_HALF_THICKNESS_M + BALL_RADIUS_M
    if side * position[0] >= clear:
        return target
    at_door = abs(position[1] - door_y) < DOOR_HALF_WIDTH_M - BALL_RADIUS_M
    return np.array([side * (clear + 0.1) if at_door else -side * (clear + 0.05), door_y])
