"""Figures of rank correlations: by steps ahead of one model, and of success over the cells of tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from commands.offline.rank_curves import MAIN_METRIC, MODEL, TITLES, USEFUL
from commands.report.figure import MUTED, new_figure, pick_colour, save_png

METHOD_MARKERS = "osvD^PX*<>hdp8"  # more than figure.MARKERS: one an objective


def draw_rank_reach(results: Mapping[str, Any], png_path: Path | str) -> None:
    """Draw the rank correlation of cost and true distance over the steps to the goal, one panel a set of candidates.

    results: of `measure_rank_reach`. A line a view and dynamics, under the main metric, with 95 % intervals.
    """
    steps = np.array(results["steps"])
    drawn = [row for row in results["curves"] if row["metric"] == MAIN_METRIC]
    sets = list(dict.fromkeys(row["candidates"] for row in drawn))
    views = list(dict.fromkeys(row["view"] for row in drawn))
    with new_figure(len(sets), 1, (3.6, 3.0), sharey=True) as (figure, axes):
        for axis, name in zip(axes, sets, strict=True):
            for level, style in ((USEFUL, ":"), (0, "-")):
                axis.axhline(level, color=MUTED, linewidth=0.9, linestyle=style)
            if steps[-1] > results["horizon"]:
                axis.axvline(results["horizon"], color=MUTED, linewidth=0.9, linestyle=":")
            for row in drawn:
                if row["candidates"] != name:
                    continue
                number = 2 * views.index(row["view"]) + (row["dynamics"] != MODEL)
                mean, interval = np.array(row["mean"], float), row["ci95"]
                low, high = np.array([ends or (np.nan, np.nan) for ends in interval], float).T
                style = "-o" if row["dynamics"] == MODEL else "--s"
                label = f"{row['view']}, {TITLES[row['dynamics']]}"
                axis.fill_between(steps, low, high, color=pick_colour(number), alpha=0.2, linewidth=0)
                axis.plot(steps, mean, style, color=pick_colour(number), ms=4, label=label)
            axis.set(title=f"{name} candidates", xlabel="environment steps to the goal", ylim=(-0.6, 1.05))
            axis.set_xticks(steps)
        axes[0].set_ylabel(f"rank correlation of cost ({MAIN_METRIC})\nand true distance")
        axes[0].legend(loc="lower right")
        save_png(figure, png_path)


def draw_law(cells: Sequence[Mapping[str, Any]], measures: Mapping[str, tuple[str, str]], png_path: Path | str) -> None:
    """Draw normalised success over each measure, one panel a measure: a colour a task, a marker an objective.

    cells: `task`, `objective`, `success` and the measures by name (None: not measured). measures: {name: (title,
    subtitle)}.
    """
    tasks, methods = (sorted({cell[key] for cell in cells}) for key in ("task", "objective"))
    with new_figure(len(measures), 1, (3.6, 3.6), sharey=True) as (figure, axes):
        for axis, (name, (title, subtitle)) in zip(axes, measures.items(), strict=True):
            for cell in cells:
                if cell[name] is not None:
                    marker = METHOD_MARKERS[methods.index(cell["objective"]) % len(METHOD_MARKERS)]
                    colour = pick_colour(tasks.index(cell["task"]))
                    axis.plot(cell[name], cell["success"], marker, color=colour, ms=5.5, alpha=0.8)
            axis.axhline(0, color=MUTED, linewidth=0.9)
            axis.set(title=subtitle, xlabel=title)
        axes[0].set_ylabel("normalised success")
        for number, task in enumerate(tasks):
            axes[-1].plot([], [], "s", color=pick_colour(number), label=task)
        for number, method in enumerate(methods):
            axes[-1].plot([], [], METHOD_MARKERS[number % len(METHOD_MARKERS)], color=MUTED, label=method)
        axes[-1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        save_png(figure, png_path)
