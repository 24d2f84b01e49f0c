"""What the episodes of a row say: success with its interval, differences between rows, steps to success, success by
start distance.

Rows of earlier versions hold counts of successes, and no outcome of every episode: they have success with its interval,
and differences whose goals are not matched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from commands.comparison.rows import Record, Row
from commands.shared.errors import UsageError
from commands.statistics.seed_intervals import (
    Estimate,
    estimate_difference,
    estimate_mean,
    estimate_paired_difference,
    estimate_rate,
)

KINDS = ("any", "held", "final")  # success at any time, for consecutive steps, at the last step
TIMED = KINDS[:2]  # kinds that have a first step of success
Goal = tuple[int, int]  # a held-out episode and the first frame of it


def estimate_success(row: Row, kind: str, threshold: str) -> Estimate:
    """Success rate of a row with its 95 % interval."""
    return estimate_rate(*_count_successes(row, kind, threshold))


def compare_rows(row: Row, other: Row, kind: str, threshold: str) -> Estimate | None:
    """Success of a row less that of another, on the seeds of both; None where they have none in common.

    Raises UsageError where their goals of a seed differ.
    """
    seeds = sorted(set(row.seeds) & set(other.seeds))
    if not seeds:
        return None
    row, other = row.select_seeds(seeds), other.select_seeds(seeds)
    if all("outcomes" in record for record in (*row.records, *other.records)):
        return estimate_paired_difference(
            [_subtract_outcomes(row, other, number, kind, threshold) for number in range(len(seeds))]
        )
    (first, counts), (second, other_counts) = (_count_successes(each, kind, threshold) for each in (row, other))
    for seed, count, other_count in zip(seeds, counts, other_counts, strict=True):
        if count != other_count:
            raise UsageError(
                f"{row.label} and {other.label} were not evaluated on the same goals: seed {seed} has {count} episodes "
                f"of the one and {other_count} of the other"
            )
    return estimate_difference(first, second, counts)


def summarise_steps(row: Row, kind: str, threshold: str) -> tuple[float | None, Estimate] | None:
    """Environment steps to success: the median of all successes (None without one), and the mean restricted to the
    budget, which failures count as, with its interval. None without outcomes."""
    if any("outcomes" not in record for record in row.records):
        return None
    steps = [read_steps(record, row, kind, threshold) for record in row.records]
    budgets = [record["outcomes"]["budget"] for record in row.records]
    reached = np.concatenate(steps)
    reached = reached[~np.isnan(reached)]
    restricted = [np.where(np.isnan(array), budget, array) for array, budget in zip(steps, budgets, strict=True)]
    mean = estimate_mean(restricted)
    mean = replace(mean, low=max(0.0, mean.low), high=min(float(max(budgets)), mean.high))
    return float(np.median(reached)) if len(reached) else None, mean


def count_by_distance(row: Row) -> dict[tuple[float, float], tuple[int, int]]:
    """Successes within the headline threshold, and episodes, by start distance (from, to), over all seeds."""
    counts: dict[tuple[float, float], tuple[int, int]] = {}
    for result in row.results:
        for group in result.get("by_distance", ()):
            label = group["from"], group["to"]
            successes, episodes = counts.get(label, (0, 0))
            counts[label] = successes + group["successes"], episodes + group["episodes"]
    return dict(sorted(counts.items()))


def read_steps(record: Record, row: Row, kind: str, threshold: str) -> NDArray[np.float64]:
    """Environment steps to success of every episode of a record, nan where never."""
    return np.array(record["outcomes"][row.key.part][kind][threshold], float)  # null becomes nan


def _count_successes(row: Row, kind: str, threshold: str) -> tuple[list[int], list[int]]:
    """Successes and episodes of every seed."""
    episodes = [result["episodes"] for result in row.results]
    return [round(result[kind][threshold] * result["episodes"]) for result in row.results], episodes


def _subtract_outcomes(row: Row, other: Row, number: int, kind: str, threshold: str) -> NDArray[np.int64]:
    """Outcomes of a row less those of another, goal by goal, of the seed with this number."""
    first, second = (
        _map_outcomes(each.records[number]["outcomes"], each.key.part, kind, threshold) for each in (row, other)
    )
    for mine, theirs, label in ((first, second, row.label), (second, first, other.label)):
        if alone := sorted(mine.keys() - theirs.keys()):
            episode, start = alone[0]
            raise UsageError(
                f"{row.label} and {other.label} were not evaluated on the same goals: seed {row.seeds[number]}, "
                f"episode {episode}, start frame {start} is one of {label} alone ({len(alone)} such goals)"
            )
    return np.array([first[goal] - second[goal] for goal in first])


def _map_outcomes(outcomes: Mapping[str, Any], part: str, kind: str, threshold: str) -> dict[Goal, int]:
    """Success (0 or 1) of every goal."""
    column = outcomes[part][kind][threshold]
    hits = column if kind == "final" else [int(steps is not None) for steps in column]
    goals = zip(outcomes["goals"]["episode"], outcomes["goals"]["start"], strict=True)
    return dict(zip(goals, hits, strict=True))
