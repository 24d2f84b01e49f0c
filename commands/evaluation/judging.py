"""What the distances of played episodes say: success by every judge, with intervals, by goal distance and kind."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from commands.evaluation.cases import Cases
from commands.evaluation.protocol import Judge
from commands.statistics.intervals import wilson_interval
from envs.task_spec import TaskSpec

MOST_BINS = 5  # of goal distances, where the task states none
JudgedSteps = tuple[NDArray[np.float64], int]


def detect_success(distances: NDArray[np.float64], threshold: float, steps: int = 1) -> NDArray[np.bool_]:
    """Per episode: within the threshold for `steps` consecutive steps, at any time after the start."""
    within = distances[:, 1:] <= threshold
    if within.shape[1] < steps:
        return np.zeros(len(within), bool)
    runs = np.lib.stride_tricks.sliding_window_view(within, steps, axis=1)  # [n, windows, steps]
    return np.any(np.all(runs, axis=2), axis=1)


def count_steps_to_success(distances: NDArray[np.float64], threshold: float, steps: int = 1) -> NDArray[np.float64]:
    """Per episode: environment steps until it has been within the threshold for `steps` consecutive steps for the first
    time; nan where it never has."""
    within = distances[:, 1:] <= threshold
    if within.shape[1] < steps:
        return np.full(len(within), np.nan)
    held = np.all(np.lib.stride_tricks.sliding_window_view(within, steps, axis=1), axis=2)  # [n, windows]
    return np.where(held.any(axis=1), held.argmax(axis=1) + float(steps), np.nan)


def summarise_steps(steps: NDArray[np.float64], budget: int) -> dict[str, float | None]:
    """Median of the successes (null without one), and the mean restricted to the budget, which failures count as.
    steps: as `count_steps_to_success` gives them."""
    reached = steps[~np.isnan(steps)]
    return {
        "median": float(np.median(reached)) if len(reached) else None,
        "restricted_mean": float(np.where(np.isnan(steps), budget, steps).mean()),
    }


def fill_after_end(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """The last distance of every episode in place of nan."""
    last = np.maximum.accumulate(np.where(np.isnan(distances), 0, np.arange(distances.shape[1])), axis=1)
    return np.take_along_axis(distances, last, axis=1)


def choose_bins(distances: NDArray[np.float64]) -> tuple[float, ...]:
    """Edges of at most MOST_BINS bins that hold all distances, multiples of 1, 2 or 5 times a power of ten, so that the
    bins of several seeds agree."""
    low, high = float(distances.min()), float(distances.max())
    least = (high - low or abs(high) or 1.0) / MOST_BINS
    power = 10.0 ** np.floor(np.log10(least))
    for step in (power, 2 * power, 5 * power, 10 * power, 20 * power):
        edges = step * np.arange(np.floor(low / step), np.floor(high / step + 1e-9) + 2)
        if len(edges) <= MOST_BINS + 1:
            break
    return tuple(float(f"{edge:.12g}") for edge in edges)


def list_timed_judges(task: TaskSpec) -> dict[str, int]:
    """Judges that tell the step of a success, with the consecutive steps that each asks for."""
    return {"any": 1, "held": task.held_steps}


def select_judged_steps(distances: NDArray[np.float64], task: TaskSpec, replan_steps: int) -> dict[str, JudgedSteps]:
    """Distances that each judge reads, and how many consecutive ones must be within the threshold."""
    return {
        "any": (distances, 1),
        "held": (distances, task.held_steps),
        "final": (fill_after_end(distances)[:, [0, -1]], 1),
        "replan": (distances[:, np.unique([*range(0, distances.shape[1], replan_steps), distances.shape[1] - 1])], 1),
    }


def summarise(
    distances: NDArray[np.float64], cases: Cases, task: TaskSpec, replan_steps: int = 1, judge: Judge = "any"
) -> dict[str, Any]:
    """Results of one method: success by every judge with intervals; by goal distance, kind of goal and motion at the
    start for `judge`. distances: [n, budget + 1], nan after the end of an episode. replan_steps: environment steps from
    one plan to the next."""
    count, bins = len(distances), task.distance_bins or choose_bins(cases.distances)
    # Labels of all cases, also where a method plays a few: rows of a table have the same columns.
    kinds, motions = (() if labels is None else np.unique(labels) for labels in (cases.kinds, cases.motions))
    cases = cases.take(count)
    steps_by_judge = select_judged_steps(distances, task, replan_steps)
    rates: dict[str, Any] = {}
    for name, (watched, steps) in steps_by_judge.items():
        hits = {str(t): int(detect_success(watched, t, steps).sum()) for t in task.thresholds}
        rates[name] = {threshold: n / count for threshold, n in hits.items()}
        rates[f"{name}_ci95"] = {threshold: wilson_interval(n, count) for threshold, n in hits.items()}
    speed = {
        name: {
            str(t): summarise_steps(count_steps_to_success(distances, t, steps), distances.shape[1] - 1)
            for t in task.thresholds
        }
        for name, steps in list_timed_judges(task).items()
    }
    watched, steps = steps_by_judge[judge]
    success = detect_success(watched, task.thresholds[0], steps)

    def count_group(rows: NDArray[np.bool_]) -> dict[str, int]:
        return {"episodes": int(rows.sum()), "successes": int(success[rows].sum())}

    filled = fill_after_end(distances)
    return {
        "episodes": count,
        **rates,
        "steps_to_success": speed,
        "final_distance": float(filled[:, -1].mean()),
        "least_distance": float(filled[:, 1:].min(1).mean()),
        "by_distance": [
            {"from": low, "to": high, **count_group((cases.distances >= low) & (cases.distances < high))}
            for low, high in pairwise(bins)
        ],
        "by_kind": [{"kind": str(kind), **count_group(cases.kinds == kind)} for kind in kinds],
        "by_motion": [{"motion": str(motion), **count_group(cases.motions == motion)} for motion in motions],
    }
