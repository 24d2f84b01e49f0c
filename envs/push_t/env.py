"""Push-T: a disc pushes a T-shaped block; the goal is an image of both.

The task of Diffusion Policy (arXiv 2303.04137) in MuJoCo, planar: see scene.xml for the physics and its sources,
`envs.push_t.spec` for the distance, `envs.push_t.pusher` for the script that collects data. An environment step is
0.1 s, ten physics steps with the action held.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from envs.goal_env import GoalEnv, Pose
from envs.push_t.pusher import AGENT_RADIUS_M, is_clear, rotate, sample_push
from envs.push_t.spec import PUSH_T, UNIT_M, WIDTH_M
from envs.task_spec import wrap_angle

# From the T's centre of mass to the middle of its upper edge, which other versions of the task call its position.
EDGE_M = (120 * 30 * 15 + 30 * 90 * 75) / (120 * 30 + 30 * 90) * UNIT_M
_BLOCK_RANGE_M, _AGENT_RANGE_M = 0.55, WIDTH_M / 2 - AGENT_RADIUS_M - 0.02


class PushT(GoalEnv):
    """Truth: the disc's position (m) and velocity (m/s); the middle of the T's upper edge (m), its angle (rad, wrapped,
    0 upright), the velocities of both (m/s, rad/s).
    """

    task = PUSH_T
    camera = "top"

    def __init__(self, stray: float = 0.0, **kwargs: Any) -> None:
        """`stray` is the probability per step that the scripted disc of a training episode goes astray for some steps
        (`envs.push_t.pusher`); `val` and `eval` episodes, from which goals are taken, show only pushes. `kwargs` are
        those of every task.

        Raises `ValueError` for a probability outside [0, 1).
        """
        if not 0.0 <= stray < 1.0:
            raise ValueError(f"stray={stray}: give a probability per step, from 0 to below 1")
        self.stray = stray
        super().__init__(**kwargs)

    def _sample_pose(self, rng: np.random.Generator, factors: NDArray[np.float64]) -> Pose:
        block = sample_block_pose(rng)
        agent = rng.uniform(-_AGENT_RANGE_M, _AGENT_RANGE_M, 2)
        while not is_clear(rotate(agent - block[:2], -block[2])):
            agent = rng.uniform(-_AGENT_RANGE_M, _AGENT_RANGE_M, 2)
        return np.concatenate([agent, block]), np.zeros(5)

    def compute_truth(self, qpos: ArrayLike, qvel: ArrayLike, factors: ArrayLike) -> NDArray[np.float32]:
        """Truth float32 `[..., 10]`; see the class."""
        qpos, qvel = np.asarray(qpos, np.float64), np.asarray(qvel, np.float64)
        angle, spin = qpos[..., 4:], qvel[..., 4:]
        arm = EDGE_M * np.concatenate([-np.sin(angle), np.cos(angle)], -1)
        swing = spin * arm[..., ::-1] * (-1, 1)
        agent, block = (qpos[..., :2], qvel[..., :2]), (qpos[..., 2:4] + arm, wrap_angle(angle))
        return np.concatenate([*agent, *block, qvel[..., 2:4] + swing, spin], -1).astype(np.float32)

    def sample_scripted_action(self, rng: np.random.Generator, memory: dict[str, Any]) -> NDArray[np.float32]:
        """Targets `[2]` of a pusher that takes the block to one random pose after another, with noise."""
        qpos = self.get_state()[self.qpos]
        stray = self.stray if self.split == "train" else 0.0
        action = sample_push(qpos[:2], qpos[2:], rng, memory, sample_block_pose, stray)
        return np.clip(action, self._low, self._high).astype(np.float32)


def sample_block_pose(rng: np.random.Generator) -> NDArray[np.float64]:
    """Centre of mass (m) and angle (rad) `[3]` of the block, far enough from walls to be pushed at every edge."""
    return np.append(rng.uniform(-_BLOCK_RANGE_M, _BLOCK_RANGE_M, 2), rng.uniform(-np.pi, np.pi))
