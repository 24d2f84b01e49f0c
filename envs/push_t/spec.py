"""Push-T: the pose of a T and the position of the disc that pushes it, with the usual tolerances.

Success in DINO-WM's evaluation (arXiv 2411.04983) of Diffusion Policy's environment: the 4-d distance of
(agent x, y, block x, y) is below 20 of 512 units, and the block's angle is within pi / 9. The distance here is the
larger of both errors, each divided by its tolerance.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from envs.task_spec import Measure, TaskSpec, wrap_angle

WIDTH_M = 2.0
UNIT_M = WIDTH_M / 512  # unit of length of the original environment
POSITION_TOLERANCE_M = 20 * UNIT_M
ANGLE_TOLERANCE_RAD = np.pi / 9
_POSITIONS, _BLOCK, _ANGLE = [0, 1, 4, 5], [4, 5], 6  # columns of a truth


def push_t_distance(truth_a: ArrayLike, truth_b: ArrayLike) -> NDArray[np.float64]:
    """The larger of position and angle error in tolerances, for truth arrays `[..., 10]`; below 1 is success."""
    return _compute_error(truth_a, truth_b, _POSITIONS)


def push_t_block_distance(truth_a: ArrayLike, truth_b: ArrayLike) -> NDArray[np.float64]:
    """The larger of the block's position and angle error, wherever the disc is, in tight tolerances (10 of 512 units,
    pi / 18), for truth arrays `[..., 10]`; the strict rule of CLEAR-LeWM (its EVALUATION_SPEC.md)."""
    return 2 * _compute_error(truth_a, truth_b, _BLOCK)


def push_t_goal_kind(start: ArrayLike, goal: ArrayLike) -> NDArray[np.str_]:
    """Whether the block has to move by more than a tolerance, for truth arrays `[n, 10]`."""
    return np.where(_compute_error(start, goal, _BLOCK) > 1, "block moves", "block stays")


def _compute_error(truth_a: ArrayLike, truth_b: ArrayLike, positions: list[int]) -> NDArray[np.float64]:
    """The larger of the error of some positions and that of the block's angle, in tolerances `[...]`."""
    a, b = np.asarray(truth_a, np.float64), np.asarray(truth_b, np.float64)
    shift = np.linalg.norm(a[..., positions] - b[..., positions], axis=-1) / POSITION_TOLERANCE_M
    return np.maximum(shift, np.abs(wrap_angle(a[..., _ANGLE] - b[..., _ANGLE])) / ANGLE_TOLERANCE_RAD)


def push_t_probe_targets(truth: ArrayLike) -> NDArray[np.float64]:
    """Positions of agent and block (m), sine and cosine of the block's angle `[..., 6]`."""
    truth = np.asarray(truth, np.float64)
    angle = truth[..., [_ANGLE]]
    return np.concatenate((truth[..., _POSITIONS], np.sin(angle), np.cos(angle)), -1)


PUSH_T = TaskSpec(
    name="push_t",
    description="A T-shaped block, pushed by a disc; the goal is the pose of both, shown as an image.",
    distance_unit="tolerances",
    thresholds=(1.0, 2.0, 0.5),
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
    measures={"block": Measure(push_t_block_distance, "tight tolerances", (1.0, 2.0))},
)
