"""The page of several tasks by `jepa compare`: normalised success of every method on every task, and what differs."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan
from pathlib import Path

from commands.report.comparison_plots import Interval, draw_success_by_time, draw_tasks
from commands.tables.figures import average, name_row, read_plan_ms
from commands.tables.markdown import (
    BUDGET_TITLES,
    format_comparison,
    format_normalised,
    format_table,
    join_values,
    wrap,
)
from commands.tables.rows import Record, Row, find_main_row, get_headline, get_judge, make_rows, select_records
from commands.tables.sharing import check_equal
from commands.tables.statistics import estimate_normalised, estimate_success

Tables = dict[str, list[Row]]  # the rows of each task
FIGURE, TIMES = "tasks.png", "plan_times.png"


def format_overview(
    records: Sequence[Record],
    budgets: Sequence[str] = ("steps",),
    main: str | None = None,
    mixed: bool = False,
    png_path: Path | None = None,
) -> str:
    """Markdown: normalised success of every method on every task, a table a budget, and the differences to `main`.

    main, mixed: as of `tables.format_task_page`. png_path: where the figure of the first budget is written; None: none.
    """
    introduction = (
        "Made by `jepa compare` from finished cells: (success - random) / (oracle - random), by the protocol's judge "
        "within the headline threshold of each task, with 95 % intervals. Where a row has several training seeds, they "
        "are over seeds; else over the goals of one trained model."
    )
    lines = ["# Objectives over tasks", "", wrap(introduction), ""]
    for budget in budgets:
        tables = _make_tables(select_records(records, budget), mixed)
        if len(budgets) > 1:
            lines += [f"## {BUDGET_TITLES[budget]}", ""]
        lines += [*_tabulate_normalised(tables), ""]
        if png_path is not None and budget == budgets[0] and _draw_tasks(tables, png_path):
            lines += [f"![normalised success by task]({png_path.name})", ""]
        if png_path is not None and budget == budgets[0] and _draw_times(tables, png_path.with_name(TIMES)):
            text = "Success against the wall time of a plan, which depends on the machine, as the tasks' pages say."
            lines += [text, "", f"![success against plan time]({TIMES})", ""]
        if main is not None:
            lines += _tabulate_differences(tables, main)
    return "\n".join(lines)


def _make_tables(records: Sequence[Record], mixed: bool) -> Tables:
    tables: Tables = {}
    for task in sorted({record["task"] for record in records}):
        tables[task] = make_rows([record for record in records if record["task"] == task])
        if not mixed:
            check_equal(tables[task])
    return tables


def _tabulate_normalised(tables: Tables) -> list[str]:
    """A row a method, in the order of their names; its seeds are those of all tasks."""
    success: dict[str, dict[str, str]] = {}
    seeds: dict[str, set[int]] = {}
    for task, rows in tables.items():
        records = [record for row in rows for record in row.records]
        for row in rows:
            if row.key.part != "random":
                text = "several settings" if _has_several_settings(row) else format_normalised(row, records)
                success.setdefault(row.label, {})[task] = text
                seeds.setdefault(row.label, set()).update(row.seeds)
    body = [
        [label, join_values(sorted(seeds[label])), *(found.get(task, "") for task in tables)]
        for label, found in sorted(success.items())
    ]
    return format_table(["method", "seeds", *tables], body)


def _tabulate_differences(tables: Tables, main: str) -> list[str]:
    """Success of every method less that of the main one on the same goals, by task."""
    found: dict[str, dict[str, str]] = {}
    for task, rows in tables.items():
        methods = [row for row in rows if not row.is_baseline and not _has_several_settings(row)]
        ours = find_main_row(methods, main)
        for row in methods if ours is not None else ():
            if row is not ours and ours is not None:
                judge, limit = get_judge(row.records[0]), get_headline(row.records[0])
                parts = format_comparison(row, ours, judge, limit, strict=False)
                found.setdefault(row.label, {})[task] = ", ".join(filter(None, parts))
    if not found:
        return []
    note = (
        f"Success less that of `{main}`, percentage points, on the seeds and goals that both have. A method is called "
        "better or worse only where the interval of the paired difference excludes zero. No interval is corrected for "
        "the number of methods and tasks."
    )
    body = [[label, *(row.get(task, "") for task in tables)] for label, row in sorted(found.items())]
    return [f"### Less {main}", "", wrap(note), "", *format_table(["method", *tables], body), ""]


def _draw_tasks(tables: Tables, png_path: Path) -> bool:
    """Draw normalised success by task; whether there was any."""
    success: dict[str, dict[str, Interval]] = {}
    for task, rows in tables.items():
        records = [record for row in rows for record in row.records]
        for row in rows:
            found = None if row.is_baseline or _has_several_settings(row) else estimate_normalised(row, records)
            if found is not None and not isnan(found.mean):
                success.setdefault(name_row(row), {})[task] = (found.mean, found.low, found.high)
    if success:
        draw_tasks(success, list(tables), png_path)
    return bool(success)


def _draw_times(tables: Tables, png_path: Path) -> bool:
    """Draw success against plan time by task; whether there was any."""
    points: dict[str, dict[str, tuple[Interval, float]]] = {}
    for task, rows in tables.items():
        for row in rows:
            planned = row.key.part == "plan" and not row.is_baseline and not _has_several_settings(row)
            if planned and (milliseconds := average(row, read_plan_ms)):
                judge, limit = get_judge(row.records[0]), get_headline(row.records[0])
                rate = estimate_success(row, judge, limit)
                points.setdefault(task, {})[name_row(row)] = (rate.mean, rate.low, rate.high), milliseconds
    if points:
        draw_success_by_time(points, png_path)
    return bool(points)


def _has_several_settings(row: Row) -> bool:
    """Whether it has a seed twice, as of two planners, which are not averaged."""
    return len(set(row.seeds)) < len(row.seeds)
