"""Reacher: the dm_control suite's two-joint planar arm, which has to take the pose of an image.

The model is the suite's own file (dm_control, arXiv 1801.00690) without its target; reacher easy and hard differ only
in the target, so they are the same here. An environment step is 0.1 s, five physics steps with the torques held.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from envs.goal_env import GoalEnv, Pose
from envs.reacher.spec import REACHER
from envs.task_spec import wrap_angle

if TYPE_CHECKING:
    import mujoco

LINK_M = 0.12  # shoulder to wrist, and wrist to the centre of the fingertip
WRIST_LIMIT_RAD = np.deg2rad(160.0)

_HOLD_STEPS = (5, 15)  # range of the number of steps for which the script holds a pose
# The light wrist follows its torque within one step: feeding its velocity back would make it chatter.
_STIFFNESS, _DAMPING, _NOISE = 1.0, np.array([0.1, 0.0]), 0.3


def load_model() -> mujoco.MjModel:
    """The suite's arm, compiled without the target."""
    from envs.physics import load_suite_scene

    spec = load_suite_scene("reacher")
    spec.delete(spec.geom("target"))
    return spec.compile()


class Reacher(GoalEnv):
    """Truth: joint angles (rad, the shoulder wrapped), velocities (rad/s), the fingertip's position (m)."""

    task = REACHER
    camera = "fixed"

    def _build_model(self) -> mujoco.MjModel:
        return load_model()

    def _sample_pose(self, rng: np.random.Generator, factors: NDArray[np.float64]) -> Pose:
        shoulder = rng.uniform(-np.pi, np.pi)
        wrist = rng.uniform(-WRIST_LIMIT_RAD, WRIST_LIMIT_RAD)
        return np.array([shoulder, wrist]), np.zeros(2)

    def compute_truth(self, qpos: ArrayLike, qvel: ArrayLike, factors: ArrayLike) -> NDArray[np.float32]:
        """Truth float32 `[..., 6]`; see the class."""
        qpos, qvel = np.asarray(qpos, np.float64), np.asarray(qvel, np.float64)
        hand = qpos[..., 0] + qpos[..., 1]
        tip_x = LINK_M * (np.cos(qpos[..., 0]) + np.cos(hand))
        tip_y = LINK_M * (np.sin(qpos[..., 0]) + np.sin(hand))
        parts = wrap_angle(qpos[..., 0]), qpos[..., 1], qvel[..., 0], qvel[..., 1], tip_x, tip_y
        return np.stack(parts, axis=-1).astype(np.float32)

    def sample_scripted_action(self, rng: np.random.Generator, memory: dict[str, Any]) -> NDArray[np.float32]:
        """Torques `[2]` that pull the arm to one random pose after another, with noise."""
        if memory.get("steps_left", 0) <= 0:
            memory["pose"] = self._sample_pose(rng, np.zeros(0))[0]
            memory["steps_left"] = int(rng.integers(*_HOLD_STEPS, endpoint=True))
        memory["steps_left"] -= 1
        truth = self.get_truth()
        error = memory["pose"] - truth[:2]
        error[0] = wrap_angle(error[0])
        action = _STIFFNESS * error - _DAMPING * truth[2:4] + _NOISE * rng.standard_normal(2)
        return np.clip(action, self._low, self._high).astype(np.float32)
