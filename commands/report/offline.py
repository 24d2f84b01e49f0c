"""The report of an evaluation at recorded moments: one HTML file. Its text is in offline.html."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from commands.evaluation.methods import MODEL_METHOD, RANDOM_METHOD, ZERO_METHOD
from commands.offline.measures import (
    BEST_SHARE,
    ERRORS,
    MEAN_METHOD,
    NEAREST_METHOD,
    OTHERS_METHOD,
    RECORDED_SOURCE,
    UNIFORM_SOURCE,
    Methods,
    OfflineSetup,
    measure_ranks,
)
from commands.offline.moments import PlannedMoments
from commands.report import page
from commands.report.figure import MUTED, SERIES, new_figure, pick_colour, pick_marker, render_svg
from commands.report.planning import format_interval, format_number, format_percent, render_name, render_settings
from commands.report.plots import draw_horizon_curves
from commands.report.sheet import draw_sheet, enlarge, write_sheet
from commands.shared.runs import write_atomic
from commands.statistics.intervals import format_share

METHOD_NOTES = {
    MODEL_METHOD: "the method under test: plans with the learned dynamics from the frame now to the goal image.",
    NEAREST_METHOD: "baseline without a plan: the actions recorded in train where the frame now and the goal image "
    "are nearest to these, by the model's embedding.",
    OTHERS_METHOD: "baseline: actions recorded at another moment of train, chosen at random.",
    MEAN_METHOD: "baseline: the mean action of train.",
    ZERO_METHOD: "baseline: no action, or the nearest one that the bounds allow.",
    RANDOM_METHOD: "baseline: uniform actions within the bounds.",
}
SOURCE_TEXTS = {RECORDED_SOURCE: "other recorded sequences of train", UNIFORM_SOURCE: "uniform sequences"}
MOST_PANELS = 12  # numbers of an action that are drawn
PANEL_COLUMNS = 4


def write_offline_report(
    results: Mapping[str, Any],
    setup: OfflineSetup,
    planned: PlannedMoments,
    methods: Methods,
    num_strips: int,
    folder: Path,
) -> None:
    """Write report.html, open_loop.png and, with num_strips above 0, moments.png."""
    draw_horizon_curves(results["open_loop"], folder / "open_loop.png")
    names, steps, errors = results["actions"]["names"], results["steps"], results["action_error"]
    pictures = page.render_note("No moments are shown.")
    if num_strips:
        write_strips(setup, methods.nearest, num_strips, folder / "moments.png")
        pictures = page.render_picture(folder / "moments.png", "Moments with their goal images and nearest neighbours")
    constant, shown = results["actions"]["constant"], min(len(names), MOST_PANELS)
    texts = {
        **results,
        "rank_mean": format_share(results["rank"][RECORDED_SOURCE]["rank"]),
        "first_errors": _list_errors(errors, "first_step"),
        "average_errors": _list_errors(errors, "average_action"),
        "interval_text": "an interval needs several episodes"
        if results["episodes"] == 1
        else "95% intervals beneath, by resampling episodes",
        "constant_text": f" Constant in train and not compared: {', '.join(constant)}." if constant else "",
        "shown_text": f" The first {shown} of {len(names)} are drawn." if shown < len(names) else "",
        "cost": {name: format_number(value) for name, value in results["imagined_cost"].items()},
        "plan_ms": format_number(results["plan"]["ms_p50"], "ms"),
        "asked_text": f" ({results['asked']} were asked for)" if results["asked"] > results["moments"] else "",
        "plural": "s" * (results["episodes"] > 1),
        "goal_s": f"{steps['goal_offset_s']:g}",
    }
    html = {
        "errors_table": _render_errors(errors),
        "units_table": _render_units(errors, results["actions"]),
        "method_notes": page.render_facts(METHOD_NOTES.items()),
        "dimensions_drawing": _draw_dimensions(errors, names[:shown]),
        "scatter_drawing": _draw_scatter(setup, methods, names[:shown]),
        "ranks_table": _render_ranks(results["rank"]),
        "ranks_drawing": _draw_ranks(measure_ranks(planned)),
        "open_loop": page.render_picture(folder / "open_loop.png", "Open-loop error by horizon"),
        "pictures": pictures,
        "note": f"<dt>protocol</dt><dd>{escape(results['note'])}</dd>" if results["note"] else "",
        "settings": render_settings(results),
    }
    body = page.fill_template("offline.html", texts, html)
    write_atomic(folder / "report.html", page.render_page(f"{results['task']}: plans at recorded moments", body))


def write_strips(setup: OfflineSetup, nearest: NDArray[np.int64], count: int, path: Path) -> None:
    """A picture of the first moments: frame now and goal image, beside those of the nearest moment of train."""
    asked, found = setup.moments.take(count), setup.train_moments
    like = type(found)(found.index.select(nearest[: len(asked)]), found.goal_offset)
    columns = [frames.numpy() for moments in (asked, like) for frames in moments.read_frames(setup.reader)]
    strips = {}
    for number, frames in enumerate(zip(*columns, strict=True)):
        of = f"{asked.index.episode[number]}, frame {asked.index.last[number]}"
        neighbour = f"{like.index.episode[number]}, frame {like.index.last[number]}"
        strips[f"{number + 1}. episode {of}: now, goal image | nearest of train, episode {neighbour}"] = [
            enlarge(frame) for frame in frames
        ]
    write_sheet(draw_sheet(strips, columns=len(columns), gap_px=4, text_px=13), path)


def _list_errors(errors: Mapping[str, Any], key: str) -> str:
    """The model's error and, in brackets, those of two baselines."""
    others = ", ".join(f"{name} {errors[name][key]['mean']:.2f}" for name in (NEAREST_METHOD, MEAN_METHOD))
    return f"{errors[MODEL_METHOD][key]['mean']:.2f} ({others})"


def _render_errors(errors: Mapping[str, Any]) -> str:
    rows = [
        [
            render_name(number, name),
            *(_render_mean(row[key]) for key in ERRORS),
            "" if name == MODEL_METHOD else _render_mean(row["first_step_minus_model"], "+.2f"),
        ]
        for number, (name, row) in enumerate(errors.items())
    ]
    return page.render_table(["method", *ERRORS.values(), "first step, minus the model's"], rows)


def _render_units(errors: Mapping[str, Any], actions: Mapping[str, Any]) -> str:
    """Errors over all steps in environment units, one row a number of the action."""
    rows = [
        [
            escape(name),
            format_number(std),
            *(format_number(std * row["by_dimension"][place]) for row in errors.values()),
        ]
        for place, (name, std) in enumerate(zip(actions["names"], actions["std"], strict=True))
    ]
    return page.render_table(["all steps, environment units", "std of train", *map(escape, errors)], rows)


def _render_mean(summary: Mapping[str, Any], spec: str = ".2f") -> str:
    interval = "" if summary["ci95"] is None else " to ".join(f"{end:{spec}}" for end in summary["ci95"])
    return f'{summary["mean"]:{spec}}<span class="ci">{interval}</span>'


def _render_ranks(ranks: Mapping[str, Any]) -> str:
    rows = [
        [f"among {SOURCE_TEXTS[name]}", _render_share(row["rank"]), _render_share(row["best_tenth"])]
        for name, row in ranks.items()
    ]
    rows.append(["chance", format_percent(0.5), format_percent(BEST_SHARE)])
    return page.render_table(["the recorded actions", "candidates that cost less", "in the best tenth"], rows)


def _render_share(summary: Mapping[str, Any]) -> str:
    interval = "" if summary["ci95"] is None else format_interval(summary["ci95"])
    return f'{format_percent(summary["mean"])}<span class="ci">{interval}</span>'


def _draw_dimensions(errors: Mapping[str, Any], names: list[str]) -> str:
    """Error of every method by the numbers of an action."""
    with new_figure(1, 1, (max(5.0, 1.1 * len(names) + 3.0), 3.0)) as (figure, (axis,)):
        places = np.arange(len(names))
        for number, (name, row) in enumerate(errors.items()):
            shift = 0.1 * (number - (len(errors) - 1) / 2)
            axis.plot(
                places + shift,
                row["by_dimension"][: len(names)],
                pick_marker(number),
                color=pick_colour(number),
                ms=5.5,
                label=name,
            )
        axis.set_xticks(places, names, rotation=20 if len(names) > 3 else 0)
        axis.set(ylim=(0, None), xlim=(-0.6, len(names) - 0.4))
        axis.set_ylabel("mean absolute error,\nstd of train")
        axis.grid(axis="x", visible=False)
        axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return render_svg(figure, "Error of actions over all steps, by the numbers of an action")


def _draw_scatter(setup: OfflineSetup, methods: Methods, names: list[str]) -> str:
    """Planned against recorded actions of the first model step, one panel a number."""
    skip, varies = setup.dynamics.spec.frame_skip, setup.compared
    planned = methods.actions[MODEL_METHOD][:, 0, :skip][..., varies].reshape(-1, int(varies.sum())).T
    recorded = methods.recorded[:, :skip, varies].reshape(-1, int(varies.sum())).T
    columns = min(PANEL_COLUMNS, len(names))
    with new_figure(columns, math.ceil(len(names) / columns), (2.4, 2.3)) as (figure, axes):
        for number, (axis, name) in enumerate(zip(axes, names, strict=False)):
            low = min(planned[number].min(), recorded[number].min())
            high = max(planned[number].max(), recorded[number].max())
            axis.plot([low, high], [low, high], color=MUTED, linewidth=1, linestyle="--")
            axis.plot(recorded[number], planned[number], "o", color=SERIES[0], ms=3, alpha=0.6)
            axis.set(title=name, xlabel="recorded", ylabel="planned")
        return render_svg(figure, "Planned against recorded actions of the first model step")


def _draw_ranks(ranks: Mapping[str, NDArray[np.float64]]) -> str:
    """How often the recorded actions have each rank; chance is level."""
    with new_figure(len(ranks), 1, (3.9, 2.4), sharey=True) as (figure, axes):
        for axis, (name, rank) in zip(axes, ranks.items(), strict=True):
            counts, _ = np.histogram(rank, 10, (0.0, 1.0))
            axis.bar(np.arange(5, 100, 10), 100 * counts / len(rank), width=9, color=SERIES[0])
            axis.axhline(10, color=MUTED, linewidth=1, linestyle="--")
            axis.set(title=f"among {SOURCE_TEXTS[name]}", xlabel="candidates that cost less, %", xlim=(0, 100))
        axes[0].set_ylabel("moments, %")
        return render_svg(figure, "Rank of the recorded actions by imagined cost; dashed: chance")
