"""Figures: training curves and errors by horizon as PNG, the planning page's plots as SVG inside HTML.

Each function computes what it shows and draws one figure of commands/report/figure.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from commands.evaluation.episodes import Rollouts
from commands.report.figure import GOOD, MUTED, PAGE, SERIES, new_figure, pick_colour, pick_marker, render_svg, save_png
from commands.shared.console import read_evaluations
from commands.statistics.intervals import wilson_interval
from envs.task_spec import TaskSpec


def draw_training_curves(metrics_path: Path | str, png_path: Path | str, curves: Mapping[str, Sequence[str]]) -> None:
    """Draw the evaluations of a metrics.jsonl (its lines of kind "val"), one panel a title.

    curves: {title: metric keys}; the keys of a title share its panel and legend, which also gives their
    last values. A key that was not logged stands for those that start with it. What follows the last comma
    of a title is the unit of its axis. A panel without any value reads "not measured".
    """
    rows = read_evaluations(metrics_path)
    names = list(dict.fromkeys(key for row in rows for key in row))
    steps = np.array([row["step"] for row in rows], float)
    columns = min(3, len(curves))
    with new_figure(columns, math.ceil(len(curves) / columns), (3.3, 2.4)) as (figure, axes):
        for axis, (title, keys) in zip(axes, curves.items(), strict=False):
            heading, _, unit = title.rpartition(", ")
            axis.set_title(heading or unit)
            axis.set_ylabel((unit if heading else "no unit").replace("R2", "R²"))
            axis.set_xlabel("training steps")
            shown = _expand_keys(keys, names)
            for number, key in enumerate(shown):
                values = np.array([row.get(key, math.nan) for row in rows], float)
                label = key.removeprefix(f"{shown[0]}_").replace("_", " ")  # probe, probe_pixels: "pixels"
                _draw_curve(axis, number, label, steps, values)
            if axis.lines:
                axis.margins(y=0.12)
                axis.legend(handlelength=1.4, labelspacing=0.3, borderaxespad=0.2)
            else:
                axis.text(0.5, 0.5, "not measured", transform=axis.transAxes, ha="center", color=MUTED)
        save_png(figure, png_path)


def draw_sweep_curves(runs: Mapping[str, Path | str], png_path: Path | str, curves: Mapping[str, str]) -> None:
    """Draw evaluations of several metrics.jsonl over each other, one panel a title, one line a run.

    runs: {label: metrics.jsonl}; curves: {title: metric key}. Where values differ by more than tenfold, as losses and
    spread do when features collapse, a panel is logarithmic.
    """
    evaluations = {label: read_evaluations(path) for label, path in runs.items()}
    with new_figure(len(curves), 1, (3.4, 2.7)) as (figure, axes):
        for axis, (title, key) in zip(axes, curves.items(), strict=True):
            for number, (label, rows) in enumerate(evaluations.items()):
                known = [(row["step"], row[key]) for row in rows if not math.isnan(row.get(key, math.nan))]
                if known:
                    steps, values = np.array(known, float).T
                    axis.plot(
                        steps, values, "-", color=pick_colour(number), marker=pick_marker(number), ms=3.5, label=label
                    )
            axis.set_title(title)
            axis.set_xlabel("training steps")
            drawn = np.concatenate([line.get_ydata() for line in axis.lines] or [np.zeros(1)])
            if drawn.min() > 0 and drawn.max() > 10 * drawn.min():
                axis.set_yscale("log")
                axis.yaxis.set_major_formatter("{x:g}")
                axis.yaxis.set_minor_formatter("")
        axes[0].legend(loc="upper left", bbox_to_anchor=(0, -0.22), ncols=max(1, len(runs)))
        save_png(figure, png_path)


def draw_setting_curves(
    key: str, values: Sequence[float], curves: Mapping[str, Mapping[str, Any]], title: str, png_path: Path | str
) -> None:
    """Draw success at any time over the values of a key, ascending, one line a method; the legend has the areas.

    curves: as `curves.collect_curves` gives them; bars are 95 % intervals.
    """
    with new_figure(1, 1, (4.6, 2.9)) as (figure, (axis,)):
        for number, (name, row) in enumerate(curves.items()):
            rates, (low, high) = np.array(row["any"]["rates"]), np.array(row["any"]["ci95"]).T
            axis.errorbar(
                values,
                100 * rates,
                100 * np.maximum([rates - low, high - rates], 0),
                fmt=f"-{pick_marker(number)}",
                color=pick_colour(number),
                ms=5,
                elinewidth=1.2,
                label=f"{name}, area {row['any']['area']:.0%}",
            )
        axis.set(title=title, xlabel=key, ylim=(-4, 104))
        axis.set_ylabel("success, % of episodes")
        axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        save_png(figure, png_path)


def draw_horizon_curves(errors: Mapping[str, Sequence[float]], png_path: Path | str) -> None:
    """Draw open-loop error at model steps 1..K ahead: `predicted`, and `copy`: that of copying the last frame.

    The right panel is their ratio: below 1, predictions are better than copying.
    """
    predicted, copy = (np.array(errors[name], float) for name in ("predicted", "copy"))
    assert len(predicted) == len(copy) > 0, (len(predicted), len(copy))
    ahead = np.arange(1, len(predicted) + 1)
    with new_figure(2, 1, (3.9, 2.8)) as (figure, (left, right)):
        for number, (label, values) in enumerate([("copying the last frame", copy), ("predicted", predicted)]):
            left.plot(ahead, values, "--o" if number == 0 else "-o", color=SERIES[1 - number], ms=4, label=label)
        left.set(title="Open-loop error", ylabel="mean squared error, no unit", ylim=(0, None))
        left.legend()
        ratio = predicted / np.maximum(copy, 1e-12)
        right.plot(ahead, ratio, "-o", color=SERIES[0], ms=4)
        right.axhline(1, color=MUTED, linewidth=1, linestyle="--")
        for place in dict.fromkeys((0, len(ratio) - 1)):
            right.annotate(
                f"{ratio[place]:.2f}",
                (ahead[place], ratio[place]),
                (0, 7),
                textcoords="offset points",
                ha="center",
            )
        right.set(
            title="Error over that of copying",
            ylabel="ratio, no unit",
            ylim=(0, max(1.1, 1.15 * ratio.max())),
        )
        for axis in (left, right):
            axis.set_xlabel("model steps ahead")
            axis.set_xticks(ahead if len(ahead) <= 12 else ahead[:: math.ceil(len(ahead) / 12)])
        save_png(figure, png_path)


def draw_landscape(
    energy_XY: NDArray[np.floating[Any]],
    offsets: NDArray[np.floating[Any]],
    names: Sequence[str],
    summary: Mapping[str, Any],
    png_path: Path | str,
) -> None:
    """Draw mean energy over offsets from the recorded action (the cross), scaled to 0..1.

    names: of the two dimensions of the action, x first; the same twice draws a curve.
    """
    with new_figure(1, 1, (5.2, 4.2)) as (figure, (axis,)):
        steps = f"{summary['steps']} model step{'s' if summary['steps'] > 1 else ''} ahead"
        axis.set_title(f"Energy around the recorded action, {steps}")
        axis.set_xlabel(f"{names[0]}, offset in half ranges")
        if names[0] == names[1]:
            axis.plot(offsets, energy_XY[:, 0], color=SERIES[0])
            axis.axvline(0, color=MUTED, linewidth=1, linestyle="--")
            axis.set_ylabel("energy, scaled to 0..1")
        else:
            image = axis.pcolormesh(offsets, offsets, energy_XY.T, shading="nearest", cmap="viridis")
            axis.set_aspect("equal")
            axis.plot(0, 0, "+", color=PAGE, ms=11, markeredgewidth=1.8)
            axis.set_ylabel(f"{names[1]}, offset in half ranges")
            axis.grid(visible=False)
            figure.colorbar(image, ax=axis, label="energy, scaled to 0..1")
        save_png(figure, png_path)


def draw_energies(energies: Sequence[NDArray[np.float32]]) -> str:
    """Imagined cost over the iterations of a plan: the first plan, and the mean of those after it.

    energies: [iterations, 3] a plan, as `planners.mpc.MPC.energies`; some may have stopped early.
    """
    longest = max(len(energy) for energy in energies)
    padded = np.full((len(energies), longest, energies[0].shape[1]), np.nan)
    for row, energy in zip(padded, energies, strict=True):
        row[: len(energy)] = np.where(np.isfinite(energy), energy, np.nan)
    panels = {"First plan": padded[0]}
    if len(padded) > 1:
        counts = np.isfinite(padded[1:]).sum(0)
        mean = np.where(counts, np.nansum(padded[1:], axis=0) / np.maximum(counts, 1), np.nan)
        panels[f"Mean of the {len(padded) - 1} plans after it"] = mean
    with new_figure(len(panels), 1, (3.9, 2.6)) as (figure, axes):
        for axis, (title, drawn) in zip(axes, panels.items(), strict=True):
            for number, label in enumerate(("best so far", "elites", "all candidates")):
                axis.plot(np.arange(1, longest + 1), drawn[:, number], "-o", color=SERIES[number], ms=3.5, label=label)
            axis.set(title=title, xlabel="iteration", ylabel="imagined cost", ylim=(0, None))
            axis.set_xticks(np.arange(1, longest + 1, max(1, longest // 8)))
        axes[0].legend()
        return render_svg(figure, "Imagined cost over the iterations of a plan, mean over episodes")


def draw_success(methods: Mapping[str, Mapping[str, Any]], task: TaskSpec) -> str:
    """Success of every method with 95 % intervals, one panel a threshold: at any time filled, held hollow."""
    held_s = task.held_steps * task.control_step_s
    with new_figure(len(task.thresholds), 1, (3.3, 0.75 + 0.5 * len(methods)), sharey=True) as (figure, axes):
        for axis, threshold in zip(axes, task.thresholds, strict=True):
            for row, numbers in enumerate(methods.values()):
                for kind, shift, fill in (("any", -0.13, True), ("held", 0.17, False)):
                    rate, (low, high) = numbers[kind][str(threshold)], numbers[f"{kind}_ci95"][str(threshold)]
                    axis.plot([100 * low, 100 * high], [row + shift] * 2, color=pick_colour(row), linewidth=1.6)
                    axis.plot(
                        100 * rate,
                        row + shift,
                        pick_marker(row),
                        color=pick_colour(row),
                        ms=6,
                        markeredgewidth=1.4,
                        markerfacecolor=pick_colour(row) if fill else PAGE,
                    )
            axis.set_title(f"within {threshold} {task.distance_unit}")
            axis.set(xlim=(-3, 103), ylim=(len(methods) - 0.5, -0.5), xlabel="success, % of episodes")
            axis.set_yticks(range(len(methods)), list(methods))
            axis.tick_params(axis="y", length=0)
            axis.grid(axis="y", visible=False)
        for axis in axes[1:]:
            axis.tick_params(labelleft=False)
        return render_svg(figure, f"Success by method with 95 % intervals: at any time, and held for {held_s:g} s")


def draw_distances(runs: Mapping[str, Rollouts], task: TaskSpec) -> str:
    """Median and quartiles of the distance to the goal over time, one panel a method, all on one scale.

    The median of the first method is repeated in every panel. The scale is logarithmic, so that the smallest
    threshold can be read; distances below a fifth of it are drawn there.
    """
    lowest, top = task.thresholds[-1] / 5, 1.3 * max(float(run.distances.max()) for run in runs.values())
    quartiles = {
        name: np.maximum(np.quantile(run.distances, (0.25, 0.5, 0.75), axis=0), lowest) for name, run in runs.items()
    }
    (first, reference), columns = next(iter(quartiles.items())), min(3, len(runs))
    with new_figure(columns, math.ceil(len(runs) / columns), (3.3, 2.4), sharex=True, sharey=True) as (
        figure,
        axes,
    ):
        for number, (axis, (name, (low, middle, high))) in enumerate(zip(axes, quartiles.items(), strict=False)):
            times_s = np.arange(len(middle)) * task.control_step_s
            axis.axhspan(lowest / 2, task.thresholds[0], color=GOOD, linewidth=0)
            for threshold in task.thresholds[1:]:
                axis.axhline(threshold, color=MUTED, linewidth=0.7, linestyle=":")
            if number:
                axis.plot(
                    np.arange(reference.shape[1]) * task.control_step_s,
                    reference[1],
                    color=SERIES[0],
                    linewidth=1.1,
                    linestyle="--",
                )
            axis.fill_between(times_s, low, high, color=pick_colour(number), alpha=0.25, linewidth=0)
            axis.plot(times_s, middle, color=pick_colour(number))
            axis.set_title(f"{name} ({runs[name].distances.shape[0]} episodes)")
            axis.set(yscale="log", ylim=(lowest, top), xlim=(0, None))
            ticks = [t for t in (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0) if lowest <= t <= top]
            axis.set_yticks(ticks, [f"{t:g}" for t in ticks])
            axis.minorticks_off()
            axis.set_xlabel("time, s")
            axis.tick_params(labelbottom=True)
        for axis in axes[::columns]:
            axis.set_ylabel(f"distance to goal, {task.distance_unit}")
        return render_svg(figure, f"Distance to the goal over time, median and quartiles; dashed: median of {first}")


def draw_bins(methods: Mapping[str, Mapping[str, Any]], task: TaskSpec) -> str:
    """Success within the first threshold by bins of the start's distance, with 95 % intervals and counts."""
    bins = next(iter(methods.values()))["by_distance"]
    with new_figure(1, 1, (9.9, 3.2)) as (figure, (axis,)):
        for number, (name, numbers) in enumerate(methods.items()):
            shift = 0.11 * (number - (len(methods) - 1) / 2)
            counted = [
                (i, b["successes"], b["episodes"]) for i, b in enumerate(numbers["by_distance"]) if b["episodes"]
            ]
            if not counted:
                continue
            place, successes, episodes = np.array(counted, float).T
            rates = successes / episodes
            low, high = np.array([wilson_interval(int(s), int(n)) for _, s, n in counted]).T
            spread = 100 * np.maximum([rates - low, high - rates], 0)
            axis.errorbar(
                place + shift,
                100 * rates,
                spread,
                fmt=pick_marker(number),
                color=pick_colour(number),
                ms=5.5,
                elinewidth=1.5,
                label=name,
            )
        axis.set_xticks(range(len(bins)), [f"{b['from']:g} to {b['to']:g}\nn = {b['episodes']}" for b in bins])
        axis.set(ylim=(-4, 104), xlim=(-0.5, len(bins) - 0.5))
        axis.set_ylabel(f"within {task.thresholds[0]} {task.distance_unit}\nat any time, % of episodes")
        axis.set_xlabel(f"distance from start to goal, {task.distance_unit}")
        axis.grid(axis="x", visible=False)
        if axis.get_legend_handles_labels()[0]:  # none where every episode lies outside of the bins
            axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return render_svg(figure, "Success by distance from start to goal")


def _expand_keys(keys: Sequence[str], names: Sequence[str]) -> list[str]:
    """The logged names of the wanted keys: each itself, else those that start with it."""
    expanded = [name for key in keys for name in ([key] if key in names else [n for n in names if n.startswith(key)])]
    return list(dict.fromkeys(expanded))


def _draw_curve(axis: Any, number: int, label: str, steps: NDArray[np.float64], values: NDArray[np.float64]) -> None:
    """One metric over steps; a constant, as of a reference that is not trained, is dashed."""
    known = np.isfinite(values)
    if not known.any():
        return
    constant = known.sum() > 1 and np.ptp(values[known]) == 0
    axis.plot(
        steps[known],
        values[known],
        "--" if constant else "-",
        color=pick_colour(number),
        marker="" if constant else "o",
        ms=3,
        label=f"{label}: {values[known][-1]:.3g}",
    )
