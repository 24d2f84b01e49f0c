"""Where actions enter environments: finite numbers of the right shape, or a refusal that names what is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from envs.task_spec import TaskSpec


def read_actions(actions: ArrayLike, shape: tuple[int, ...], task: TaskSpec, dtype: DTypeLike) -> NDArray[Any]:
    """Actions `[A]`, or `[n, A]` of n environments, as numbers of a type. ValueError for another shape, for what is no
    real number, and for NaN and infinity, with the place and the name of the number."""
    given = np.asarray(actions)
    if given.shape != shape or given.dtype.kind not in "fiub":
        raise ValueError(
            f"action of shape {given.shape} and type {given.dtype}: {task.name} takes {' x '.join(map(str, shape))} "
            "real numbers"
        )
    with np.errstate(over="ignore"):  # what is too large becomes infinite, which is refused
        values = given.astype(dtype)
    wrong = np.argwhere(~np.isfinite(values))
    if len(wrong):
        *environment, number = wrong[0].tolist()
        where = f" of environment {environment[0]}" if environment else ""
        raise ValueError(
            f"action {values[tuple(environment)].tolist()}{where}: {task.action_names[number]} is "
            f"{values[tuple(wrong[0])]}, and {task.name} takes finite numbers"
        )
    return values
