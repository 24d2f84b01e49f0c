"""Checks of states that are given to an environment: their shape, and that a start and a goal belong together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from envs.presets import APPEARANCE, DISTRACTION, MOTION


def read_state(name: str, state: ArrayLike, size: int, task: str) -> NDArray[np.float64]:
    """A state `[S]` as float64; ValueError for another shape, or numbers that are not finite."""
    values = np.asarray(state, np.float64)
    if values.shape != (size,) or not np.isfinite(values).all():
        raise ValueError(
            f"{name} of shape {values.shape} is no state of {task}: "
            f"that is {size} finite numbers, as get_state() returns"
        )
    return values


def require_same_factors(first: NDArray[np.float64], last: NDArray[np.float64], names: Sequence[str]) -> None:
    """ValueError where the factors `[F]` of two states differ."""
    if not np.array_equal(first, last):
        raise ValueError(
            f"state and goal_state come from different episodes: {', '.join(names)} "
            f"is {first.tolist()} in one and {last.tolist()} in the other"
        )


def require_same_pose(goal: NDArray[np.float64], image: NDArray[np.float64], own: int, groups: Sequence[str]) -> None:
    """ValueError where a goal and the state in its image differ in more than appearance. own: index of the first
    factor of variation; groups: of these factors."""
    differs = goal != image
    differs[own:] &= ~np.isin(groups, (*APPEARANCE, MOTION, DISTRACTION))
    if differs.any():
        raise ValueError(
            f"goal_image_state differs from goal_state in more than {', '.join(APPEARANCE)}: "
            "give redraw_factors(goal_state, rng), which keeps the pose"
        )
