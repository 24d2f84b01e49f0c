"""Two rooms: a ball, a wall, and a door whose place differs from episode to episode; the goal is a picture.

The classic test of planning past an obstacle in pixels (the Wall task of DINO-WM, arXiv 2411.04983, and
Two-Rooms of PLDM, arXiv 2502.14819), here with inertia: actions are forces, and the ball has a velocity that
one picture does not show. An environment step is 0.1 s, ten physics steps with the forces held.
"""

from __future__ import annotations

import importlib.resources
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from envs.behaviour import choose_destination, sample_force
from envs.factor_writes import add_pattern
from envs.goal_env import GoalEnv
from envs.task_spec import TaskSpec
from envs.two_rooms.spec import BALL_RADIUS_M, DOOR_HALF_WIDTH_M, TWO_ROOMS

if TYPE_CHECKING:
    import mujoco

ROOM_HALF_M = 1.0  # from the wall's middle to a border
WALL_HALF_THICKNESS_M = 0.06
DOOR_RANGE_M = 0.6  # the door's middle lies between -DOOR_RANGE_M and DOOR_RANGE_M
_MARGIN_M = 0.02


class TwoRooms(GoalEnv):
    """Truth: the ball's place (m) and velocity (m/s), the door's place along the wall (m)."""

    task: ClassVar[TaskSpec] = TWO_ROOMS
    camera: ClassVar[str] = "top"
    factor_names: ClassVar[tuple[str, ...]] = ("door_y",)
    factor_ranges: ClassVar[tuple[tuple[str, float, float], ...]] = (("m", -DOOR_RANGE_M, DOOR_RANGE_M),)

    def _build_model(self) -> mujoco.MjModel:
        import mujoco

        xml = importlib.resources.files("envs.two_rooms").joinpath("scene.xml").read_text(encoding="utf-8")
        spec = mujoco.MjSpec.from_string(xml)
        add_pattern(spec)
        return spec.compile()

    def _sample_task_factors(self, rng: np.random.Generator) -> NDArray[np.float64]:
        return rng.uniform(-DOOR_RANGE_M, DOOR_RANGE_M, size=1)

    def _write_task_factors(self, model: mujoco.MjModel, factors: NDArray[np.float64]) -> None:
        # Bodies are moved, not geoms: a body's collision tree is in its own frame, so nothing goes stale.
        for name, side in (("wall below", -1), ("wall above", 1)):
            half_length = model.geom(name).size[1]
            model.body(name).pos[1] = factors[0] + side * (DOOR_HALF_WIDTH_M + half_length)

    def _sample_pose(
        self, rng: np.random.Generator, factors: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return _sample_position(rng), np.zeros(2)

    def compute_truth(self, qpos: ArrayLike, qvel: ArrayLike, factors: ArrayLike) -> NDArray[np.float32]:
        """Truth float32 `[..., 5]`; see the class."""
        return np.concatenate([np.asarray(part) for part in (qpos, qvel, factors)], axis=-1).astype(np.float32)

    def sample_scripted_action(self, rng: np.random.Generator, memory: dict[str, Any]) -> NDArray[np.float32]:
        """Forces `[2]` that take the ball to one random place after another, through the door, with noise."""
        truth = self.get_truth().astype(np.float64)
        place, velocity, door_y = truth[:2], truth[2:4], truth[4]
        target = choose_destination(memory, place, lambda: _sample_position(rng))
        action = sample_force(rng, memory, find_waypoint(place, target, door_y) - place, velocity)
        return np.clip(action, self._low, self._high).astype(np.float32)


def _sample_position(rng: np.random.Generator) -> NDArray[np.float64]:
    """A place `[2]` of the ball's centre in either room, clear of walls."""
    inner, outer = WALL_HALF_THICKNESS_M + BALL_RADIUS_M + _MARGIN_M, ROOM_HALF_M - BALL_RADIUS_M - _MARGIN_M
    x = rng.uniform(inner, outer) * rng.choice((-1.0, 1.0))
    return np.array([x, rng.uniform(-outer, outer)])


def find_waypoint(place: NDArray[np.float64], target: NDArray[np.float64], door_y: float) -> NDArray[np.float64]:
    """Where a ball at `place` `[2]` heads to reach `target` `[2]`: there, or before or behind the door."""
    side = 1.0 if target[0] > 0 else -1.0
    clear = WALL_HALF_THICKNESS_M + BALL_RADIUS_M
    if side * place[0] >= clear:
        return target
    at_door = abs(place[1] - door_y) < DOOR_HALF_WIDTH_M - BALL_RADIUS_M
    return np.array([side * (clear + 0.1) if at_door else -side * (clear + 0.05), door_y])
