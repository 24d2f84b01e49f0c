"""Push-T: the pose of a T and the place of the disc that pushes it, judged as the field judges them.

Success there (Diffusion Policy's environment as DINO-WM, arXiv 2411.04983, evaluates it): the 4-d distance of
(agent x, y, block x, y) is below 20 of 512 units and the block's angle is within pi / 9. As one number, the
distance here is the larger of both errors, each in units of its tolerance.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from envs.task_spec import TaskSpec, wrap_angle

WIDTH_M = 2.0
UNIT_M = WIDTH_M / 512  # the field's unit of length
POSITION_TOLERANCE_M = 20 * UNIT_M
ANGLE_TOLERANCE_RAD = np.pi / 9
_PLACES, _BLOCK, _ANGLE = [0, 1, 4, 5], [4, 5], 6  # where truth holds them


def push_t_distance(truth_a: ArrayLike, truth_b: ArrayLike) -> NDArray[np.float64]:
    """The larger of position and angle error in tolerances, for truth arrays `[..., 10]`; 1 is the field's success."""
    a, b = np.asarray(truth_a, np.float64), np.asarray(truth_b, np.float64)
    return np.maximum(_apart(a, b, _PLACES), _turned(a, b))


def _apart(a: NDArray[np.float64], b: NDArray[np.float64], places: list[int]) -> NDArray[np.float64]:
    return np.linalg.norm(a[..., places] - b[..., places], axis=-1) / POSITION_TOLERANCE_M


def _turned(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.abs(wrap_angle(a[..., _ANGLE] - b[..., _ANGLE])) / ANGLE_TOLERANCE_RAD


def push_t_probe_targets(truth: ArrayLike) -> NDArray[np.float64]:
    """Places of agent and block (m), sine and cosine of the block's angle `[..., 6]`."""
    truth = np.asarray(truth, np.float64)
    angle = truth[..., [_ANGLE]]
    return np.concatenate((truth[..., _PLACES], np.sin(angle), np.cos(angle)), -1)


def push_t_goal_kind(start: ArrayLike, goal: ArrayLike) -> NDArray[np.str_]:
    """Whether the block has to move at all, for truth arrays `[n, 10]`: by more than a tolerance."""
    a, b = np.asarray(start, np.float64), np.asarray(goal, np.float64)
    return np.where(np.maximum(_apart(a, b, _BLOCK), _turned(a, b)) > 1, "block moves", "block stays")


PUSH_T = TaskSpec(
    name="push_t",
    description="A T-shaped block, pushed by a disc; the goal is the pose of both, shown as an image.",
    distance_unit="tolerances",
    thresholds=(1.0, 2.0, 0.5),
    held_steps=3,
    budget=50,
    goal_offset=25,
    min_goal_distance=1.0,
    distance_bins=(1.0, 3.0, 6.0, 9.0, 12.0, 40.0),
    control_step_s=0.1,
    frame_skip=5,
    action_low=(-1.0, -1.0),
    action_high=(1.0, 1.0),
    action_names=("target x", "target y"),
    truth_names=(
        *("agent x", "agent y", "agent velocity x", "agent velocity y"),
        *("block x", "block y", "block angle", "block velocity x", "block velocity y", "block angular velocity"),
    ),
    truth_units=("m", "m", "m/s", "m/s", "m", "m", "rad", "m/s", "m/s", "rad/s"),
    proprio_names=("agent x", "agent y", "agent velocity x", "agent velocity y"),
    distance=push_t_distance,
    probe_targets=push_t_probe_targets,
    goal_kind=push_t_goal_kind,
)
