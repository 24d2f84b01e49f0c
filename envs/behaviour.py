"""Scripted behaviour that several tasks share: noise correlated in time, and a ball that visits random targets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Steps until it gives a place up, how near counts as there, feedback gains, and its noise.
_PATIENCE_STEPS, _NEAR_M = 60, 0.12
_STIFFNESS, _DAMPING = 4.0, 0.6
_NOISE, _NOISE_KEPT = 0.5, 0.8


def advance_noise(noise: Array, retained: float, rng: np.random.Generator) -> Array:
    """The next value `[n]` of a first-order autoregressive process with unit variance; `retained` is its
    coefficient."""
    return retained * noise + np.sqrt(1 - retained**2) * rng.standard_normal(len(noise))


def choose_destination(memory: dict[str, Any], place: Array, draw: Callable[[], Array]) -> Array:
    """Where a ball at `place` `[2]` is bound for: a new `draw` where it has arrived, or has tried for long enough."""
    if memory.get("steps_left", 0) <= 0 or np.linalg.norm(memory["place"] - place) < _NEAR_M:
        memory.update(place=draw(), steps_left=_PATIENCE_STEPS)
    memory["steps_left"] -= 1
    return memory["place"]


def sample_force(rng: np.random.Generator, memory: dict[str, Any], towards: Array, velocity: Array) -> Array:
    """Forces `[2]` along `towards` (metres to go), damped, with noise that is correlated in time."""
    memory["noise"] = advance_noise(memory.setdefault("noise", np.zeros(2)), _NOISE_KEPT, rng)
    return _STIFFNESS * towards - _DAMPING * velocity + _NOISE * memory["noise"]
