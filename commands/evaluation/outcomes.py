"""The outcome of every episode of an evaluation, as columns: what intervals and paired differences are made of.

budget    environment steps of an episode
goals     episode and first frame that a start comes from, and the distance [n] from start to goal
methods   by name: final and least distance [n]; by threshold [n]: environment steps to success at any time and held
          (null where never), and whether the final state is a success (0 or 1); where the protocol judges at every
          plan (`replan`), whether there was a success at one (0 or 1)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from commands.evaluation.cases import Cases
from commands.evaluation.judging import (
    count_steps_to_success,
    detect_success,
    fill_after_end,
    list_timed_judges,
    select_judged_steps,
)
from envs.task_spec import TaskSpec

DIGITS = 5  # of distances, after the decimal point


def tabulate_outcomes(
    distances: Mapping[str, NDArray[np.float64]], cases: Cases, task: TaskSpec, replan_steps: int | None = None
) -> dict[str, dict[str, Any] | int]:
    """The columns above. distances: of every method [n, budget + 1], nan after the end of an episode; n may be less
    than the number of cases. replan_steps: environment steps from one plan to the next, where the protocol judges
    there; None elsewhere."""
    return {
        "budget": next(iter(distances.values())).shape[1] - 1,
        "goals": {
            "episode": cases.episodes.tolist(),
            "start": cases.starts.tolist(),
            "distance": _round(cases.distances),
        },
        "methods": {name: _tabulate_method(array, task, replan_steps) for name, array in distances.items()},
    }


def list_steps(distances: NDArray[np.float64], task: TaskSpec) -> dict[str, dict[str, list[int | None]]]:
    """Environment steps to success by kind (any, held) and threshold, one number an episode; None where never."""
    return {
        kind: {
            str(t): [None if np.isnan(n) else int(n) for n in count_steps_to_success(distances, t, steps)]
            for t in task.thresholds
        }
        for kind, steps in list_timed_judges(task).items()
    }


def _tabulate_method(distances: NDArray[np.float64], task: TaskSpec, replan_steps: int | None) -> dict[str, Any]:
    filled, replan = fill_after_end(distances), {}
    if replan_steps is not None:
        watched, steps = select_judged_steps(distances, task, replan_steps)["replan"]
        replan = {str(t): detect_success(watched, t, steps).astype(int).tolist() for t in task.thresholds}
    return {
        "final_distance": _round(filled[:, -1]),
        "least_distance": _round(filled[:, 1:].min(1)),
        **list_steps(distances, task),
        "final": {str(t): (filled[:, -1] <= t).astype(int).tolist() for t in task.thresholds},
        **({"replan": replan} if replan else {}),
    }


def _round(values: NDArray[np.float64]) -> list[float]:
    return [round(float(value), DIGITS) for value in values]
