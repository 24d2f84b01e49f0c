"""Figures of a page: success against effort, open-loop errors, rank correlations, success by task and by plan time.

Each function draws one figure. The colour and marker of a method are the same in all figures of a page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from commands.offline.rank_curves import USEFUL
from commands.report.figure import MUTED, new_figure, pick_colour, save_png
from commands.report.rank_plots import METHOD_MARKERS

LINES = ("-", "--", ":")  # once for every round through the colours
COLOURS = 6  # of commands.report.figure.SERIES
PANEL_INCHES = (3.5, 3.2)
Interval = tuple[float, float, float]  # mean, lower and upper end


@dataclass(frozen=True)
class Curve:
    """A line of a figure. number: of the method, in the order of the page, which gives colour and marker."""

    label: str
    number: int
    steps: Sequence[float]
    values: Sequence[float]


def pick_style(number: int) -> dict[str, Any]:
    """Colour, marker and line of the method of that number."""
    marker, line = METHOD_MARKERS[number % len(METHOD_MARKERS)], LINES[number // COLOURS % len(LINES)]
    return {"color": pick_colour(number), "marker": marker, "linestyle": line}


def draw_success_by_effort(
    success: Mapping[str, Interval],
    efforts: Mapping[str, Mapping[str, float]],
    references: Mapping[str, float],
    png_path: Path | str,
) -> None:
    """Draw success against each effort, one panel an effort, with 95 % intervals.

    success: rates by method. efforts: {title of an axis: {method: value above 0}}. references: rates that are drawn as
    lines (oracle, random actions).
    """
    with new_figure(len(efforts), 1, PANEL_INCHES, sharey=True) as (figure, axes):
        for axis, (title, values) in zip(axes, efforts.items(), strict=True):
            for line, (name, level) in zip(LINES, references.items(), strict=False):
                axis.axhline(100 * level, color=MUTED, linewidth=1, linestyle=line, label=name)
            for number, (name, rate) in enumerate(success.items()):
                if name in values:
                    _draw_rate(axis, values[name], rate, number, name)
            axis.set(xlabel=title, xscale="log", ylim=(-4, 104))
            _label_log_axis(axis, list(values.values()))
        axes[0].set_ylabel("success, % of episodes")
        _add_legend(figure, axes)
        save_png(figure, png_path)


def draw_success_by_time(tasks: Mapping[str, Mapping[str, tuple[Interval, float]]], png_path: Path | str) -> None:
    """Draw success against the time of a plan, one panel a task, with 95 % intervals.

    tasks: {task: {method: (rate, milliseconds above 0)}}; a method has one colour and marker in all panels.
    """
    names = list(dict.fromkeys(name for points in tasks.values() for name in points))
    with new_figure(len(tasks), 1, PANEL_INCHES, sharex=True, sharey=True) as (figure, axes):
        for axis, (task, points) in zip(axes, tasks.items(), strict=True):
            for name, (rate, milliseconds) in points.items():
                _draw_rate(axis, milliseconds, rate, names.index(name), name)
            axis.set(title=task, xlabel="plan, ms an episode", xscale="log", ylim=(-4, 104))
        _label_log_axis(axes[0], [ms for points in tasks.values() for _, ms in points.values()])
        axes[0].set_ylabel("success, % of episodes")
        _add_legend(figure, axes)
        save_png(figure, png_path)


def draw_open_loop(curves: Sequence[Curve], png_path: Path | str) -> None:
    """Draw the open-loop error over that of copying the last frame by model step, a line a model."""
    with new_figure(1, 1, (4.6, 3.2)) as (figure, axes):
        axis = axes[0]
        axis.axhline(1, color=MUTED, linewidth=1, linestyle="--", label="copying the last frame")
        _draw_curves(axis, curves)
        axis.set(xlabel="model steps ahead", ylabel="error over that of copying", ylim=(0, None))
        _add_legend(figure, axes)
        save_png(figure, png_path)


def draw_rank_curves(curves: Sequence[Curve], png_path: Path | str) -> None:
    """Draw the rank correlation of cost and true distance over the environment steps to the goal, a line a method."""
    with new_figure(1, 1, (4.6, 3.2)) as (figure, axes):
        axis = axes[0]
        for level, line in ((USEFUL, ":"), (0, "-")):
            axis.axhline(level, color=MUTED, linewidth=0.9, linestyle=line)
        _draw_curves(axis, curves)
        axis.set(xlabel="environment steps to the goal", ylabel="rank correlation of cost and true distance")
        axis.set_ylim(-0.6, 1.05)
        _add_legend(figure, axes)
        save_png(figure, png_path)


def draw_tasks(success: Mapping[str, Mapping[str, Interval]], tasks: Sequence[str], png_path: Path | str) -> None:
    """Draw normalised success by task with 95 % intervals, a marker a method. success: {method: {task: interval}}."""
    with new_figure(1, 1, (2.2 + 1.7 * len(tasks), 3.4)) as (figure, axes):
        axis = axes[0]
        for level in (0, 1):
            axis.axhline(level, color=MUTED, linewidth=0.9)
        for number, (name, values) in enumerate(success.items()):
            places = [tasks.index(task) + 0.8 * ((number + 0.5) / len(success) - 0.5) for task in values]
            mean, low, high = np.array(list(values.values())).T
            style = pick_style(number) | {"linestyle": "none"}
            spread = np.maximum([mean - low, high - mean], 0)
            axis.errorbar(places, mean, spread, **style, ms=5.5, elinewidth=1.2, label=name)
        axis.set_xticks(range(len(tasks)), tasks)
        axis.set(xlim=(-0.5, len(tasks) - 0.5), ylabel="normalised success")
        axis.grid(axis="x", visible=False)
        _add_legend(figure, axes)
        save_png(figure, png_path)


def _draw_rate(axis: Any, value: float, rate: Interval, number: int, label: str) -> None:
    """A rate with its interval, in percent."""
    mean, low, high = rate
    spread = [[100 * max(0.0, mean - low)], [100 * max(0.0, high - mean)]]
    style = pick_style(number) | {"linestyle": "none"}
    axis.errorbar(value, 100 * mean, spread, **style, ms=6.5, elinewidth=1.2, label=label)


def _draw_curves(axis: Any, curves: Sequence[Curve]) -> None:
    for curve in curves:
        axis.plot(curve.steps, curve.values, **pick_style(curve.number), ms=5, label=curve.label)
    axis.set_xticks(sorted({step for curve in curves for step in curve.steps}))


def _label_log_axis(axis: Any, values: Sequence[float]) -> None:
    """Plain numbers on a logarithmic axis, which spans at least a factor of two."""
    from matplotlib.ticker import LogLocator, NullFormatter

    low, high = min(values), max(values)
    widen = max(1.15, (2 * low / high) ** 0.5)
    axis.set_xlim(low / widen, high * widen)
    subs = (1, 2, 5) if high * widen**2 / low > 4 else (1, 1.2, 1.5, 2, 3, 4, 5, 6, 8)
    axis.xaxis.set_major_locator(LogLocator(subs=subs))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())


def _add_legend(figure: Any, axes: Sequence[Any]) -> None:
    """One legend beside the panels, of all that any of them shows."""
    found = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(found.values(), found.keys(), loc="outside right center")
