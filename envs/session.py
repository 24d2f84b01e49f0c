"""An episode in progress, apart from the environment that plays it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Session:
    """State, goal and generator of an episode, so that many episodes can share one environment and OpenGL context."""

    state: NDArray[np.float64]
    goal_state: NDArray[np.float64]
    goal_frame: NDArray[np.uint8]
    frame: NDArray[np.uint8] | None  # of `state`, if it was rendered
    rng: np.random.Generator
