"""The law over cells: whether what is measured before planning predicts success, as rank correlations and a figure.

RoboJEPA (arXiv 2610.10515) finds that success follows the error of latent rollouts. Here every finished cell is a
point: normalised success, (success - random) / (oracle - random), over the open-loop error of its dynamics, over the
near-pair rank correlation of its embedding, and, where the cell has recorded them, over how far its cost ranks random
candidates (`commands.offline.rank_curves`) and how well on average.

Cells of one method on one task are alike, so the bootstrap resamples methods, with all their seeds and budgets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from commands.report.rank_plots import draw_law
from commands.statistics.intervals import LEVELS
from commands.tables.markdown import wrap
from commands.tables.rows import ALL, CANDIDATES, ORACLE, Record, get_effort, get_headline, get_judge
from commands.tables.sharing import find_oracle

FIGURE = "law.png"
LEAST_CELLS = 5  # for a rank correlation
LEAST_METHODS = 4  # for an interval
RESAMPLES = 1000  # of methods, for an interval


def _read_reach(record: Record) -> float | None:
    return record["rank_reach"]["reach"]["useful"] if record.get("rank_reach") else None


def _read_ranking(record: Record) -> float | None:
    means = [mean for mean in record["rank_reach"]["mean"] if mean is not None] if record.get("rank_reach") else []
    return fmean(means) if means else None


# {name: (title, how to read it from a record, None where it was not measured)}
MEASURES: dict[str, tuple[str, Callable[[Record], float | None]]] = {
    "error": ("open-loop error over copying, last step", lambda r: r.get("posttrain", {}).get("over_copy_last")),
    "near_pairs": ("near-pair rank correlation", lambda r: r.get("pretrain", {}).get("near_pair_correlation")),
    "rank_reach": ("rank reach, environment steps", _read_reach),
    "ranking": ("rank correlation of cost, mean over distances", _read_ranking),
}


def write_law(records: Sequence[Record], png_path: Path) -> str:
    """Draw the figure and return a section of Markdown; "" and no figure where too few cells can be compared."""
    cells = list_points(records)
    found = {name: row for name in MEASURES if (row := correlate(cells, name)) is not None}
    if not found:
        return ""
    draw_law(cells, {name: (MEASURES[name][0], _format_short(row)) for name, row in found.items()}, png_path)
    said = "; ".join(f"{MEASURES[name][0]}: {_format_long(row)}" for name, row in found.items())
    text = (
        "Every cell with equal candidates whose oracle is known is a point: normalised success over what is measured "
        "before planning. Spearman's "
        f"rank correlation with 95 % intervals (bootstrap over methods): {said}."
    )
    figure = f"![success over measures]({png_path.name})"
    return "\n".join(["", "## What predicts success", "", wrap(text), "", figure, ""])


def list_points(records: Sequence[Record]) -> list[dict[str, Any]]:
    """`task`, `objective`, `seed`, normalised `success` and all MEASURES (or None) of every cell whose oracle is among
    the records and better than random actions."""
    points = []
    for record in records:
        counted = record["objective"] != ORACLE and get_effort(record) in (CANDIDATES, ALL)  # a model counts once
        oracle = find_oracle(record, records) if counted else None
        if oracle is None:
            continue
        threshold = get_headline(record)
        success, random, best = (
            float(row[get_judge(record)][threshold]) for row in (record["plan"], record["random"], oracle["plan"])
        )
        if best > random:
            points.append(
                {key: record[key] for key in ("task", "objective", "seed")}
                | {"success": (success - random) / (best - random)}
                | {name: read(record) for name, (_, read) in MEASURES.items()}
            )
    return points


def correlate(cells: Sequence[Mapping[str, Any]], measure: str) -> dict[str, Any] | None:
    """Rank correlation of success and a measure: `overall` and `within` tasks (of ranks within each task), each with
    an interval `_ci95` (null for fewer than LEAST_METHODS), and the number of `cells` and `tasks`; None for fewer than
    LEAST_CELLS or where either is constant."""
    known = [cell for cell in cells if cell[measure] is not None]
    if len(known) < LEAST_CELLS:
        return None
    x, y = (np.array([cell[key] for cell in known], float) for key in (measure, "success"))
    tasks = np.unique([cell["task"] for cell in known], return_inverse=True)[1]
    methods = np.unique([f"{cell['task']} {cell['objective']}" for cell in known], return_inverse=True)[1]
    one_task = np.zeros_like(tasks)
    overall = _correlate(x, y, one_task)
    if np.isnan(overall):
        return None
    result: dict[str, Any] = {
        "cells": len(known),
        "tasks": int(tasks.max()) + 1,
        "overall": overall,
        "within": _correlate(x, y, tasks),
        "overall_ci95": None,
        "within_ci95": None,
    }
    rng, members = np.random.default_rng(0), [np.flatnonzero(methods == method) for method in range(methods.max() + 1)]
    if len(members) < LEAST_METHODS:
        return result
    drawn = []
    for _ in range(RESAMPLES):
        rows = np.concatenate([members[method] for method in rng.integers(len(members), size=len(members))])
        drawn.append([_correlate(x[rows], y[rows], groups[rows]) for groups in (one_task, tasks)])
    for name, values in zip(("overall", "within"), np.array(drawn).T, strict=True):
        finite = values[np.isfinite(values)]
        result[f"{name}_ci95"] = np.quantile(finite, LEVELS).tolist() if len(finite) else None
    return result


def _correlate(x: NDArray[np.float64], y: NDArray[np.float64], tasks: NDArray[np.int64]) -> float:
    """Correlation of ranks within tasks; Spearman's where there is one task. NaN where either is constant."""
    same = tasks[:, None] == tasks

    def rank(values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Ranks within tasks with mean ranks for ties, centred, over the task's number of cells."""
        return np.asarray((np.sign(values[:, None] - values) * same).sum(1) / (2 * same.sum(1)))

    ranks = rank(x), rank(y)
    power = np.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum())
    return float((ranks[0] * ranks[1]).sum() / power) if power > 0 else float("nan")


def _format_number(value: float, interval: Sequence[float] | None) -> str:
    return f"{value:.2f}" + ("" if interval is None else f" ({interval[0]:.2f} to {interval[1]:.2f})")


def _format_short(row: Mapping[str, Any]) -> str:
    return f"rank correlation {_format_number(row['overall'], row['overall_ci95'])}"


def _format_long(row: Mapping[str, Any]) -> str:
    within = f", within tasks {_format_number(row['within'], row['within_ci95'])}" if row["tasks"] > 1 else ""
    return f"{_format_number(row['overall'], row['overall_ci95'])}{within}, {row['cells']} cells"
