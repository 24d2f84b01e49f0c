"""What the episodes of a row say: success with its interval, differences between rows, steps to success, success by
start distance.

Rows of earlier versions hold counts of successes, and no outcome of every episode: they have success with its interval,
and differences whose goals are not matched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import nan
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from commands.shared.errors import UsageError
from commands.statistics.seed_intervals import (
    Estimate,
    estimate_difference,
    estimate_mean,
    estimate_paired_difference,
    estimate_rate,
)
from commands.tables.rows import KINDS, Record, Row, get_headline, get_judge
from commands.tables.sharing import find_oracle

TIMED = KINDS[:2]  # kinds that have a first step of success
Goal = tuple[int, int]  # a held-out episode and the first frame of it
Distances = tuple[float, float]  # of a start to its goal, from and to


def estimate_success(row: Row, kind: str, threshold: str) -> Estimate:
    """Success rate of a row with its 95 % interval."""
    return estimate_rate(*_list_counts(row, kind, threshold))


def estimate_normalised(row: Row, records: Sequence[Record]) -> Estimate | None:
    """(success - random) / (oracle - random) by the protocol's judge, of means over the seeds; its interval is that of
    success, with the two others taken as exact. records: those among which the oracle of each seed is (`find_oracle`).

    None where the oracle of a seed is missing, and for the true simulator with the cost of a method, which plays the
    first goals alone; nan where the oracle is no better than random actions.
    """
    oracles = [find_oracle(record, records) for record in row.records]
    found = [oracle for oracle in oracles if oracle is not None]
    if row.key.part == "oracle_cost" or len(found) < len(oracles):
        return None
    threshold, judge = get_headline(row.records[0]), get_judge(row.records[0])

    def mean(records: Iterable[Record], part: str) -> float:
        return fmean(record[part][judge][threshold] for record in records)

    random, oracle = mean(row.records, "random"), mean(found, "plan")
    rate = estimate_success(row, judge, threshold)
    if oracle <= random:
        return replace(rate, mean=nan, low=nan, high=nan)
    low, high = ((value - random) / (oracle - random) for value in (rate.low, rate.high))
    return replace(rate, mean=(mean(row.records, row.key.part) - random) / (oracle - random), low=low, high=high)


def estimate_on_shared_goals(row: Row, other: Row, kind: str, threshold: str) -> Estimate:
    """Success rate of a row on the goals that another one was played on, too, with its 95 % interval."""
    hits = [
        [_map_outcomes(each.records[number]["outcomes"], each.key.part, kind, threshold) for each in (row, other)]
        for number in range(len(row.seeds))
    ]
    found = [[mine[goal] for goal in theirs if goal in mine] for mine, theirs in hits]
    return estimate_rate([sum(each) for each in found], [len(each) for each in found])


def compare_rows(row: Row, other: Row, kind: str, threshold: str, shared: bool = False) -> Estimate | None:
    """Success of a row less that of another, on the seeds of both; None where they have none in common. shared: whether
    goals that one of them alone was played on are left out.

    Otherwise raises UsageError where their goals of a seed differ.
    """
    seeds = sorted(set(row.seeds) & set(other.seeds))
    if not seeds:
        return None
    row, other = row.select_seeds(seeds), other.select_seeds(seeds)
    if all("outcomes" in record for record in (*row.records, *other.records)):
        return estimate_paired_difference(
            [_subtract_outcomes(row, other, number, kind, threshold, shared) for number in range(len(seeds))]
        )
    (first, counts), (second, other_counts) = (_list_counts(each, kind, threshold) for each in (row, other))
    for seed, count, other_count in zip(seeds, counts, other_counts, strict=True):
        if count != other_count:
            raise UsageError(
                f"{row.label} and {other.label} were not evaluated on the same goals: seed {seed} has {count} episodes "
                f"of the one and {other_count} of the other"
            )
    return estimate_difference(first, second, counts)


def estimate_steps_to_success(row: Row, kind: str, threshold: str) -> tuple[float | None, Estimate] | None:
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


def estimate_by_distance(row: Row) -> dict[Distances, tuple[Estimate, int]]:
    """Success within the headline threshold, and episodes, by start distance, of the seeds that have any there."""
    counts: dict[Distances, list[tuple[int, int]]] = {}
    for result in row.results:
        for group in result.get("by_distance", ()):
            if group["episodes"]:
                counts.setdefault((group["from"], group["to"]), []).append((group["successes"], group["episodes"]))
    return {
        bounds: (estimate_rate(*zip(*seeds, strict=True)), sum(episodes for _, episodes in seeds))
        for bounds, seeds in sorted(counts.items())
    }


def read_steps(record: Record, row: Row, kind: str, threshold: str) -> NDArray[np.float64]:
    """Environment steps to success of every episode of a record, nan where never."""
    return np.array(record["outcomes"][row.key.part][kind][threshold], float)  # null becomes nan


def count_successes(result: Mapping[str, Any], kind: str, threshold: str) -> int:
    """Successes of a seed."""
    return round(result[kind][threshold] * result["episodes"])


def _list_counts(row: Row, kind: str, threshold: str) -> tuple[list[int], list[int]]:
    """Successes and episodes of every seed."""
    results = row.results
    return [count_successes(each, kind, threshold) for each in results], [each["episodes"] for each in results]


def _subtract_outcomes(row: Row, other: Row, number: int, kind: str, threshold: str, shared: bool) -> NDArray[np.int64]:
    """Outcomes of a row less those of another, goal by goal, of the seed with this number."""
    first, second = (
        _map_outcomes(each.records[number]["outcomes"], each.key.part, kind, threshold) for each in (row, other)
    )
    if shared:
        return np.array([hit - second[goal] for goal, hit in first.items() if goal in second])
    for mine, theirs, label in ((first, second, row.label), (second, first, other.label)):
        if alone := sorted(mine.keys() - theirs.keys()):
            episode, start = alone[0]
            raise UsageError(
                f"{row.label} and {other.label} were not evaluated on the same goals: seed {row.seeds[number]}, "
                f"episode {episode}, start frame {start} is one of {label} alone ({len(alone)} such goals)"
            )
    return np.array([first[goal] - second[goal] for goal in first])


def _map_outcomes(outcomes: Mapping[str, Any], part: str, kind: str, threshold: str) -> dict[Goal, int]:
    """Success (0 or 1) of every goal that was played: all, or the first ones."""
    column = outcomes[part][kind][threshold]
    hits = [int(steps is not None) for steps in column] if kind in TIMED else column
    goals = zip(outcomes["goals"]["episode"], outcomes["goals"]["start"], strict=True)
    return dict(zip(goals, hits, strict=False))
