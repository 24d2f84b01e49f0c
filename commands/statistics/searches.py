"""Searches beside each other, and beside acting without one: success against operations, and what that says.

Start and goal of an episode lie on one recorded trajectory, so imitating recorded actions may already reach it. The
page says first what acting without search reaches; a task that it solves says little about planning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

DIRECT = "direct"  # the planner that searches nothing


@dataclass(frozen=True)
class SearchRow:
    """One setting of the planner, its seeds pooled. label: the keys in which it differs. rate, held: shares of episodes
    with their 95 % intervals, within the first threshold. flops: of an episode; None where that was not counted."""

    label: str
    searches: bool
    episodes: int
    rate: float
    rate_ci: tuple[float, float]
    held: float
    held_ci: tuple[float, float]
    flops: float | None
    plan_ms: float


def make_row(label: str, pooled: Mapping[str, Any], results: Sequence[Mapping[str, Any]], method: str) -> SearchRow:
    """The row of a setting. pooled: of `pooling.pool_results`; results: each results.json."""
    row, limit = pooled["methods"][method], str(pooled["thresholds"][0])
    flops = [result["plan"].get("episode_flops") for result in results]
    return SearchRow(
        label,
        results[0]["planner"]["name"] != DIRECT,
        row["episodes"],
        row["any"][limit],
        tuple(row["any_ci95"][limit]),
        row["held"][limit],
        tuple(row["held_ci95"][limit]),
        None if None in flops else fmean(flops),
        fmean(result["plan"]["ms_p50"] / result["plan"]["environments"] for result in results),
    )


def judge_searches(rows: Sequence[SearchRow]) -> str:
    """One sentence: whether acting without search reaches as much as the best search."""
    direct, searched = ([row for row in rows if row.searches == kind] for kind in (False, True))
    if not direct or not searched:
        return ""
    one, best = (max(group, key=lambda row: row.rate) for group in (direct, searched))
    reach = f"{_format_rate(one.rate, one.rate_ci)} without search ({one.label})"
    other = f"{_format_rate(best.rate, best.rate_ci)} with the best search ({best.label})"
    if one.rate >= best.rate:
        return f"No search is needed here: {reach}, {other}."
    if one.rate >= best.rate_ci[0]:
        return f"Acting without search cannot be told from the best search here: {reach}, {other}."
    return f"Search helps here: {reach}, {other}."


def format_search_page(rows: Sequence[SearchRow], task: str, within: str) -> str:
    """Markdown: the sentence of `judge_searches`, and a table, the cheapest first."""
    order = sorted(rows, key=lambda row: row.flops if row.flops is not None else row.plan_ms)
    head = ["setting", "episodes", f"within {within}", "held", "GFLOP an episode", "ms a plan"]
    lines = [f"# Searches on {task}", ""]
    if verdict := judge_searches(rows):
        lines += [verdict, ""]
    cells = [
        [
            f"`{row.label}`",
            str(row.episodes),
            _format_rate(row.rate, row.rate_ci),
            _format_rate(row.held, row.held_ci),
            "" if row.flops is None else f"{row.flops / 1e9:.3g}",
            f"{row.plan_ms:.3g}",
        ]
        for row in order
    ]
    lines += [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *cells)]
    lines += ["", "Milliseconds are per environment, with all episodes planned together."]
    return "\n".join(lines) + "\n"


def _format_rate(rate: float, interval: Sequence[float]) -> str:
    return f"{rate:.0%} ({interval[0]:.0%} to {interval[1]:.0%})"
