"""A ball pushed by forces: what the tasks with one share, and noise that is correlated in time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.task_spec import TaskSpec

Array = NDArray[np.float64]

# The script: steps until it gives up a target, distance at which a target is reached, feedback gains, noise.
_PATIENCE_STEPS, _REACHED_M = 60, 0.12
_STIFFNESS, _DAMPING = 4.0, 0.6
_NOISE, _NOISE_RETAINED = 0.5, 0.8


def build_ball_task(factor_name: str, factor_unit: str, **fields: Any) -> TaskSpec:
    """The specification of a task whose truth is position (m) and velocity (m/s) of a ball, then one factor."""
    ball = ("ball x", "ball y", "ball velocity x", "ball velocity y")
    return TaskSpec(
        distance_unit="m",
        thresholds=(0.15, 0.1, 0.05),
        budget=60,
        goal_offset=30,
        min_goal_distance=1.0,
        distance_bins=(1.0, 1.25, 1.5, 2.0, 4.0),
        control_step_s=0.1,
        frame_skip=4,
        action_low=(-1.0, -1.0),
        action_high=(1.0, 1.0),
        action_names=("force x", "force y"),
        truth_names=(*ball, factor_name),
        truth_units=("m", "m", "m/s", "m/s", factor_unit),
        proprio_names=ball,
        **fields,
    )


def advance_noise(noise: Array, retained: float, rng: np.random.Generator) -> Array:
    """The next value `[n]` of a first-order autoregressive process with unit variance and coefficient `retained`."""
    return retained * noise + np.sqrt(1 - retained**2) * rng.standard_normal(len(noise))


def choose_target(memory: dict[str, Any], position: Array, sample: Callable[[], Array]) -> Array:
    """The target `[2]` of a ball at `position` `[2]`: a new sample once the last is reached or given up."""
    if memory.get("steps_left", 0) <= 0 or np.linalg.norm(memory["target"] - position) < _REACHED_M:
        memory.update(target=sample(), steps_left=_PATIENCE_STEPS)
    memory["steps_left"] -= 1
    return memory["target"]


def sample_force(rng: np.random.Generator, memory: dict[str, Any], offset: Array, velocity: Array) -> Array:
    """Forces `[2]` along `offset` (metres to go), damped, with noise that is correlated in time."""
    memory["noise"] = advance_noise(memory.setdefault("noise", np.zeros(2)), _NOISE_RETAINED, rng)
    return _STIFFNESS * offset - _DAMPING * velocity + _NOISE * memory["noise"]
