"""Reacher: the larger of the two joints' angle errors, wrapped where the joint is unlimited."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from envs.task_spec import LargestError, Measure, PoseTargets, TaskSpec

_FINGERTIP = [4, 5]  # columns of a truth


def measure_fingertip(truth_a: ArrayLike, truth_b: ArrayLike) -> NDArray[np.float64]:
    """Distance of two fingertips in metres, for truth arrays `[..., 6]`; several arm poses may share one."""
    a, b = np.asarray(truth_a, np.float64), np.asarray(truth_b, np.float64)
    return np.linalg.norm(a[..., _FINGERTIP] - b[..., _FINGERTIP], axis=-1)


REACHER = TaskSpec(
    name="reacher",
    description="Two-joint planar arm of the dm_control suite; the goal is an arm pose, shown as an image.",
    distance_unit="rad",
    thresholds=(0.2, 0.1, 0.05),
    budget=30,
    goal_offset=25,
    min_goal_distance=1.0,
    distance_bins=(1.0, 1.5, 2.0, 2.5, 3.2, 6.0),
    control_step_s=0.1,
    frame_skip=2,
    action_low=(-1.0, -1.0),
    action_high=(1.0, 1.0),
    action_names=("shoulder torque", "wrist torque"),
    truth_names=("shoulder", "wrist", "shoulder velocity", "wrist velocity", "fingertip x", "fingertip y"),
    truth_units=("rad", "rad", "rad/s", "rad/s", "m", "m"),
    proprio_names=("shoulder", "wrist", "shoulder velocity", "wrist velocity"),
    distance=LargestError(2, periodic=(0,)),  # the shoulder turns freely; the wrist stops at +-160 degrees
    probe_targets=PoseTargets(angles=(0, 1)),
    measures={"fingertip": Measure(measure_fingertip, "m", (0.01, 0.02, 0.05))},
)
