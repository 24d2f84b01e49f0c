"""The page of several tasks by `jepa compare`: normalised success of every method on every task."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from commands.comparison.rows import Record, Row, make_rows
from commands.comparison.sharing import check_equal
from commands.comparison.tables import WIDTH, find_oracles, format_normalised, format_table


def format_overview(records: Sequence[Record], mixed: bool = False) -> str:
    """Markdown: normalised success of every method at equal steps on every task, and of its own dynamics. mixed: as of
    `tables.format_task_page`."""
    tasks = sorted({record["task"] for record in records})
    success: dict[str, dict[str, str]] = {}
    for task in tasks:
        here = [record for record in records if record["task"] == task and record["budget"] != "flops"]
        rows, oracles = make_rows(here), find_oracles(here)
        if not mixed:
            check_equal(rows)
        for row in rows:
            if row.key.part != "random":
                success.setdefault(row.label, {})[task] = _format_seeds(row, oracles)
    body = [[label, *(row.get(task, "") for task in tasks)] for label, row in sorted(success.items())]
    introduction = (
        "Made by `jepa compare` from the finished cells of this folder, equal steps of stage 1: (success - random) / "
        "(oracle - random), by the protocol's judge within the task's headline threshold; in brackets the number of "
        "seeds where it is not one. Intervals are on the page of each task."
    )
    wrapped = textwrap.fill(introduction, WIDTH, break_on_hyphens=False)
    return "\n".join(["# Objectives over tasks", "", wrapped, "", *format_table(["method", *tasks], body)]) + "\n"


def _format_seeds(row: Row, oracles: Mapping[int, Record]) -> str:
    """Normalised success, and of how many seeds; cells of one seed twice, as of two planners, are not averaged."""
    if len(set(row.seeds)) < len(row.seeds):
        return "several settings"
    return format_normalised(row, oracles, f"({len(row.seeds)})" if len(row.seeds) > 1 else "")
