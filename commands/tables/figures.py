"""Figures of a task's page: what is drawn, read from the rows of a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from commands.report.comparison_plots import Curve, draw_open_loop, draw_rank_curves, draw_success_by_effort
from commands.tables.markdown import wrap
from commands.tables.rows import Record, Row, get_headline, get_judge
from commands.tables.statistics import estimate_success

Read = Callable[[Record], Any]  # None where a record of an earlier version lacks it


def read_plan_ms(record: Record) -> float | None:
    """Milliseconds of a plan, as a share of one episode of those that were planned at once."""
    found = record.get("planning")
    return None if found is None or found["ms_p50"] is None else found["ms_p50"] / found["environments"]


def read_plan_flops(record: Record) -> float | None:
    """FLOPs of one plan for one episode."""
    return record.get("planning", {}).get("flops")


def read_episode_flops(record: Record) -> float | None:
    """FLOPs of all plans of one episode."""
    return record.get("planning", {}).get("episode_flops")


# {title of an axis: how to read it from a record, and its unit}
EFFORTS: dict[str, tuple[Read, float]] = {
    "training, TFLOP": (lambda record: record.get("flops", {}).get("total"), 1e12),
    "plan, ms an episode": (read_plan_ms, 1.0),
    "planning, GFLOP an episode": (read_episode_flops, 1e9),
}


def write_figures(rows: Sequence[Row], stem: Path) -> list[str]:
    """Draw the figures of these rows beside the page, as `STEM_success.png`; the section of the page that shows them,
    empty where no cell has measured anything."""
    methods = [row for row in rows if row.key.part == "plan" and not row.is_baseline]
    drawn = [_draw_success(methods, rows, stem), _draw_open_loop(methods, stem), _draw_rank_curves(methods, stem)]
    sections = [section for section in drawn if section is not None]
    return ["## Figures", "", *(line for section in sections for line in section)] if sections else []


def _draw_success(methods: Sequence[Row], rows: Sequence[Row], stem: Path) -> list[str] | None:
    efforts = {
        title: {name_row(row): value / unit for row in methods if (value := average(row, read))}
        for title, (read, unit) in EFFORTS.items()
    }
    efforts = {title: values for title, values in efforts.items() if values}
    if not efforts:
        return None
    judge, limit = get_judge(rows[0].records[0]), get_headline(rows[0].records[0])
    success = {name_row(row): estimate_success(row, judge, limit) for row in methods}
    references = {
        row.key.objective: estimate_success(row, judge, limit).mean
        for row in rows
        if row.is_baseline and row.key.part != "oracle_cost"
    }
    path = stem.with_name(f"{stem.name}_success.png")
    draw_success_by_effort(
        {name: (each.mean, each.low, each.high) for name, each in success.items()}, efforts, references, path
    )
    text = (
        "Success with 95 % intervals against what it costs: FLOPs of both stages of training; wall time of a plan, "
        "which depends on the machine; FLOPs of all plans of an episode."
    )
    return [wrap(text), "", f"![success against effort]({path.name})", ""]


def _draw_open_loop(methods: Sequence[Row], stem: Path) -> list[str] | None:
    names: dict[tuple[float, ...], list[str]] = {}  # of methods that share a model
    numbers: dict[tuple[float, ...], int] = {}
    for number, row in enumerate(methods):
        if (ratios := _mean_ratios(row)) is not None:
            names.setdefault(ratios, []).append(name_row(row))
            numbers.setdefault(ratios, number)
    if not names:
        return None
    path = stem.with_name(f"{stem.name}_open_loop.png")
    curves = [
        Curve(", ".join(same), numbers[ratios], range(1, len(ratios) + 1), ratios) for ratios, same in names.items()
    ]
    draw_open_loop(curves, path)
    text = (
        "Squared error of imagined paths on val over that of copying the last frame, mean over seeds. Each model is "
        "measured in what it predicts (tokens, latents or pixels), so only the shapes of the curves compare."
    )
    return [wrap(text), "", f"![open-loop error by model step]({path.name})", ""]


def _draw_rank_curves(methods: Sequence[Row], stem: Path) -> list[str] | None:
    curves = []
    for number, row in enumerate(methods):
        if (means := _mean_ranks(row)) is not None:
            reach = fmean(record["rank_reach"]["reach"]["useful"] for record in row.records)
            curves.append(Curve(f"{name_row(row)}: reach {reach:.3g}", number, *means))
    if not curves:
        return None
    path = stem.with_name(f"{stem.name}_rank_reach.png")
    draw_rank_curves(curves, path)
    text = (
        "Rank correlation of the planner's cost with the true distance over random candidates on val, mean over seeds. "
        "Reach: the most environment steps at which the lower end of the interval exceeds 0.5 (dotted)."
    )
    return [wrap(text), "", f"![rank correlation of cost by steps to the goal]({path.name})", ""]


def name_row(row: Row) -> str:
    """A row in a legend, where code is not set apart."""
    return row.label.replace("`", "")


def average(row: Row, read: Read) -> float | None:
    """Mean over seeds; None where one lacks it."""
    values = [read(record) for record in row.records]
    return None if None in values else fmean(values)


def _mean_ratios(row: Row) -> tuple[float, ...] | None:
    """Open-loop error over copying at every model step, mean over seeds."""
    if any("open_loop" not in record for record in row.records):
        return None
    found = [record["open_loop"] for record in row.records]
    ratios = [np.array(each["predicted"]) / np.maximum(each["copy"], 1e-12) for each in found]
    return tuple(np.mean(ratios, 0).tolist())


def _mean_ranks(row: Row) -> tuple[list[int], list[float]] | None:
    """Environment steps, and the rank correlation at each, mean over seeds."""
    found = [record.get("rank_reach") for record in row.records]
    if None in found or len({tuple(each["steps"]) for each in found if each}) != 1:
        return None
    means = np.array([each["mean"] for each in found if each], float)  # null becomes nan
    assert found[0] is not None
    return list(found[0]["steps"]), means.mean(0).tolist()
