"""Walls hold: no executed path leads through one, looked at after every physics step.

A protocol that counts legal routes alone (CLEAR-LeWM) needs no further check here, since contacts of the simulator
enforce it: a success is reached on a path that it allowed, and starts and goals were recorded in it.
"""

from __future__ import annotations

import numpy as np
import pytest

import envs
from envs.goal_env import GoalEnv

DENT_M = 0.01  # that a ball may sink into a wall: contacts are springs
STEPS, EPISODES, HOLD = 400, 20, 40  # physics steps an episode; of them with one force


def list_boxes(env: GoalEnv) -> np.ndarray:
    """Middle and half size [W, 4] in the plane of all boxes that stand where the ball slides."""
    model, data = env.physics.model, env.physics.data
    env.physics.update_kinematics()
    geoms = [model.geom(number) for number in range(model.ngeom) if model.geom(number).contype[0]]
    height = data.geom("ball").xpos[2]
    walls = [
        geom for geom in geoms if geom.name != "ball" and abs(data.geom(geom.name).xpos[2] - height) < geom.size[2]
    ]
    return np.array([[*data.geom(geom.name).xpos[:2], *geom.size[:2]] for geom in walls])


def measure_gaps(positions: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Distance [N] of positions [N, 2] from the nearest box; 0 inside one."""
    beyond = np.abs(positions[:, None] - boxes[:, :2]) - boxes[:, 2:]
    return np.linalg.norm(np.maximum(beyond, 0), axis=-1).min(1)


@pytest.mark.parametrize("task", ["two_rooms", "point_maze"])
def test_a_ball_never_passes_a_wall_whatever_pushes_it(task: str) -> None:
    env, rng = envs.make(task, size=8), np.random.default_rng(0)
    radius = env.physics.model.geom("ball").size[0]
    env.physics.substeps = 1
    touched, fastest = 0, 0.0
    for episode in range(EPISODES):
        env.reset(seed=episode)
        boxes, state = list_boxes(env), env.get_state()
        assert len(boxes) > 4 and measure_gaps(state[env.qpos][None], boxes)[0] > radius
        state[env.qvel] = rng.uniform(-2, 2, 2)  # faster than forces make it
        env.set_state(state)
        path = [state[env.qpos]]
        for step in range(STEPS):
            if step % HOLD == 0:  # any force, or straight at some wall
                box = boxes[rng.integers(len(boxes)), :2]
                force = rng.uniform(-1, 1, 2) if rng.random() < 0.3 else 5 * (box - path[-1])
            env.advance(force)
            path.append(env.physics.data.qpos.copy())
        gaps = measure_gaps(np.array(path), boxes)
        moved = np.linalg.norm(np.diff(path, axis=0), axis=1)
        assert gaps.min() > radius - DENT_M, "the disc overlaps a wall"
        touched += int((gaps < radius).sum())
        fastest = max(fastest, moved.max())
    assert touched > 1000, "walls were pushed against"
    # Between two physics steps the centre moves less than its gap, so it cannot have been inside a wall meanwhile.
    assert fastest < radius - DENT_M
    env.close()
