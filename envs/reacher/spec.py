"""Reacher: joint angles, wrapped where the joint is unlimited."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from envs.task_spec import TaskSpec, wrap_angle


def reacher_distance(truth_a: ArrayLike, truth_b: ArrayLike) -> NDArray[np.float64]:
    """The larger of the two joints' absolute angle errors in radians, for truth arrays `[..., 6]`.

    The shoulder turns freely and its error is wrapped; the wrist stops at +-160 degrees and its error is not.
    """
    a, b = np.asarray(truth_a, np.float64), np.asarray(truth_b, np.float64)
    shoulder = np.abs(wrap_angle(a[..., 0] - b[..., 0]))
    wrist = np.abs(a[..., 1] - b[..., 1])
    return np.maximum(shoulder, wrist)


def reacher_probe_targets(truth: ArrayLike) -> NDArray[np.float64]:
    """Sines and cosines of both joints `[..., 4]`: angles as a linear map can read them."""
    angles = np.asarray(truth, np.float64)[..., :2]
    return np.concatenate((np.sin(angles), np.cos(angles)), -1)


REACHER = TaskSpec(
    name="reacher",
    description="Two-joint planar arm of the dm_control suite; the goal is an arm pose, shown as an image.",
    distance_unit="rad",
    thresholds=(0.2, 0.1, 0.05),
    held_steps=3,
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
    distance=reacher_distance,
    probe_targets=reacher_probe_targets,
)
