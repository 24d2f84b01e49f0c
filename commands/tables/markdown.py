"""Pieces of a page in Markdown: tables, paragraphs, rates and differences with their intervals."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from math import isnan

from commands.shared.errors import UsageError
from commands.statistics.seed_intervals import Estimate
from commands.tables.rows import Record, Row
from commands.tables.statistics import compare_rows, estimate_normalised, estimate_success

WIDTH = 120  # columns of a paragraph
BUDGET_TITLES = {
    "steps": "Equal steps of stage 1",
    "flops": "Equal arithmetic in stage 1",
    "total": "Equal arithmetic in both stages together",
}
UNMATCHED = "*"  # marks a difference whose goals are not matched


def format_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def format_estimate(rate: Estimate) -> str:
    """A rate and its interval, as "81% (74% to 86%)"."""
    return f"{rate.mean:.0%} ({rate.low:.0%} to {rate.high:.0%})"


def judge_difference(difference: Estimate) -> str:
    """What a difference shows: better or worse only where its interval excludes zero."""
    if not difference.excludes_zero:
        return "no difference shown"
    word = "better" if difference.low > 0 else "worse"
    return word if difference.seeds > 1 else f"{word} (one seed)"


def format_difference(difference: Estimate | None) -> tuple[str, str]:
    """The difference in percentage points with its interval, and what it shows."""
    if difference is None:
        return "", "no seed in common"
    mean, low, high = (100 * value for value in (difference.mean, difference.low, difference.high))
    mark = "" if difference.matched else UNMATCHED
    return f"{mean:+.0f}{mark} ({low:+.0f} to {high:+.0f})", judge_difference(difference)


def format_comparison(row: Row, other: Row, kind: str, threshold: str, strict: bool = True) -> tuple[str, str]:
    """The difference between two rows in percentage points, and what it shows. strict: whether rows with other goals
    raise UsageError; else the second part says so."""
    try:
        return format_difference(compare_rows(row, other, kind, threshold))
    except UsageError:
        if strict:
            raise
        return "", "other goals"


def format_short(row: Row, kind: str, threshold: str) -> str:
    """Success in percent with its interval; empty where records of an earlier version lack this kind."""
    if any(kind not in result for result in row.results):
        return ""
    rate = estimate_success(row, kind, threshold)
    return f"{100 * rate.mean:.0f} ({100 * rate.low:.0f}–{100 * rate.high:.0f})"


def format_mean(mean: Estimate) -> str:
    """A mean and its interval, as "15.0 (12.1 to 17.9)"."""
    interval = f" ({mean.low:.1f} to {mean.high:.1f})" if mean.low < mean.high else ""  # equal numbers show no spread
    return f"{mean.mean:.1f}{interval}"


def format_bin(rate: Estimate, episodes: int) -> str:
    """A rate in percent, its interval, and of how many episodes it is."""
    return f"{100 * rate.mean:.0f} ({100 * rate.low:.0f}–{100 * rate.high:.0f}) of {episodes}"


def format_normalised(row: Row, records: Sequence[Record]) -> str:
    """Normalised success with its interval; empty for random actions and where `estimate_normalised` has none, and a
    dash where the oracle is no better than random actions. records: those among which the oracle's cells are."""
    found = None if row.key.part == "random" else estimate_normalised(row, records)
    if found is None or isnan(found.mean):
        return "" if found is None else "–"
    return f"{found.mean:.2f} ({found.low:.2f} to {found.high:.2f})"


def format_number(value: float | None) -> str:
    """A number with two digits; a dash for one that too few episodes could not measure."""
    return "–" if value is None else f"{value:.2f}"


def format_tflop(flops: float) -> str:
    """A number of operations in TFLOP; a dash for none."""
    return f"{flops / 1e12:.1f}" if flops else "–"


def join_values(values: Iterable[object]) -> str:
    """The values with commas."""
    return ", ".join(map(str, values))


def wrap(paragraph: str, indent: str = "") -> str:
    """A paragraph in lines of at most WIDTH columns. indent: of all lines but the first."""
    return textwrap.fill(paragraph, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
