"""The report of an evaluation: one HTML file with the results of every method.

It shows success at every threshold with intervals, distance over time, success by distance, planning time, what was
left out, and videos of the first episodes. Figures come from plots.py, videos from videos.py, elements of the page from
page.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from commands.evaluation.protocol import Cases, Rollouts, detect_success
from commands.report import page
from commands.report.figure import SERIES
from commands.report.plots import draw_bins, draw_distances, draw_energies, draw_success
from commands.shared.console import format_duration
from commands.shared.runs import flatten, to_json_value, write_atomic
from envs.task_spec import TaskSpec

# What each method is; others have no explanation.
METHOD_NOTES = {
    "model": "the method under test: plans with the learned dynamics to the goal image, from images alone.",
    "random": "baseline: uniform actions within the bounds.",
    "zero action": "baseline: no action, or the nearest one that the bounds allow.",
    "oracle": "the same planner with the true simulator as dynamics and the true distance as cost: the most that this "
    "planner can reach.",
    "oracle, model's cost": "the true simulator as dynamics and the model's cost, with a smaller search: "
    "where it fails and the oracle succeeds, the cost is at fault, not the dynamics.",
}

# Success as the headline counts it (commands.evaluation.protocol.Judge).
JUDGE_LABELS = {"any": "any time", "held": "held", "final": "at the end", "replan": "where it plans again"}


def write_report(
    results: Mapping[str, Any],
    runs: Mapping[str, Rollouts],
    cases: Cases,
    task: TaskSpec,
    videos: Sequence[Path],
    path: Path | str,
    extra: Sequence[tuple[str, str | Path]] | None = None,
) -> None:
    """Write the page of one evaluation to `path`; it opens without a network.

    results: those of commands.plan.collect_results; the first of its methods is the one under test, and
    `videos` show its first episodes. extra: further sections, (title, html) or (title, path of an image).
    """
    methods, title = results["methods"], f"{task.name}: goals reached from images"
    tested = runs[next(iter(methods))]
    parts = [
        f"<h1>{escape(title)}</h1>",
        page.render_paragraph(task.description, "note"),
        page.render_paragraph(describe_result(results, task), "headline"),
        _render_tiles(results, task),
        page.render_section("Methods", *_render_methods(results, task)),
        page.render_section("Distance over time", _render_distances(runs, task)),
        page.render_section("Success by distance of the goal", *_render_bins(methods, task)),
        page.render_section("Planning time", page.render_facts(_list_times(results))),
        *([page.render_section("Energy over iterations", _render_energies(tested))] if tested.energies else []),
        page.render_section("Episodes on video", *_render_videos(videos, tested, cases, task)),
        *(page.render_section(heading, _render_extra(heading, content)) for heading, content in extra or ()),
        page.render_section("Protocol", page.render_facts(_list_protocol(results, task)), *_render_settings(results)),
    ]
    write_atomic(path, page.render_page(title, parts))


def describe_result(results: Mapping[str, Any], task: TaskSpec) -> str:
    """The result in words: rate, counts and interval; baselines, oracle and normalised success."""
    rate, baselines, oracle = results["success_rate"], results["baselines"], results["oracle"]
    judge = results["protocol"]["judge"]
    ending = "" if judge == "any" else f" ({JUDGE_LABELS[judge]})"
    text = (
        f"Within {task.thresholds[0]} {task.distance_unit} of the goal{ending} in "
        f"{round(rate * results['episodes'])} of {results['episodes']} held-out episodes: "
        f"{format_percent(rate)} (95% interval {format_interval(results['success_rate_ci95'])}); held for "
        f"{task.held_steps} steps in {format_percent(results['held_rate'])}. Random actions "
        f"reach {format_percent(baselines['random'])}, no action {format_percent(baselines['zero'])}"
    )
    if oracle is None:
        return f"{text}; the oracle was not run."
    text = f"{text}, the same planner with the true simulator {format_percent(oracle)}"
    if oracle <= baselines["random"]:
        return f"{text}."
    share = (rate - baselines["random"]) / (oracle - baselines["random"])
    return f"{text}; (success − random) / (oracle − random) = {share:.2f}."


def format_percent(rate: float | None) -> str:
    """A rate as a percentage, whole unless that would say 0% or 100% of something short of it."""
    if rate is None or not math.isfinite(rate):
        return "not measured"
    close = 0.0005 <= rate < 0.005 or 0.995 <= rate < 0.9995
    return f"{rate:.1%}" if close else f"{rate:.0%}"


def format_interval(ci95: Sequence[float]) -> str:
    """The two ends of an interval of a rate."""
    return f"{format_percent(ci95[0]).removesuffix('%')}–{format_percent(ci95[1])}"


def format_number(value: float | None, unit: str = "") -> str:
    """A number to three digits with its unit, or that it was not measured."""
    if value is None or not math.isfinite(value):
        return "not measured"
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{text} {unit}".rstrip()


def _render_tiles(results: Mapping[str, Any], task: TaskSpec) -> str:
    """The numbers a reader looks for first."""
    first, baselines, plan = next(iter(results["methods"].values())), results["baselines"], results["plan"]
    key, judge = str(task.thresholds[0]), results["protocol"]["judge"]
    rows = [
        (
            f"{JUDGE_LABELS[name]}, ≤ {key} {task.distance_unit}",
            format_percent(first[name][key]),
            f"95% interval {format_interval(first[f'{name}_ci95'][key])}",
        )
        for name in dict.fromkeys((judge, "any", "held"))
    ]
    rows.append(
        (
            f"baselines, {JUDGE_LABELS[judge]}",
            f"{format_percent(baselines['random'])} / {format_percent(baselines['zero'])}",
            "random / no action",
        )
    )
    rows.append((f"oracle, {JUDGE_LABELS[judge]}", format_percent(results["oracle"]), "true simulator and distance"))
    rows.append(("planning, median", format_number(plan["ms_p50"], "ms"), f"{plan['environments']} episodes at once"))
    cells = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(note)}</small></dd></div>"
        for name, value, note in rows
    )
    return f'<dl class="tiles">{cells}</dl>'


def _render_methods(results: Mapping[str, Any], task: TaskSpec) -> list[str]:
    """All rates as a table and as a figure, and what the rows mean."""
    methods, unit = results["methods"], escape(task.distance_unit)
    limits = [str(threshold) for threshold in task.thresholds]
    held = f"held {task.held_steps} steps"
    groups = [
        ("", 1),
        ("success at any time", len(limits)),
        (held, len(limits)),
        (f"mean distance, {unit}", 2),
    ]
    rows = []
    for place, (name, row) in enumerate(methods.items()):
        rates = [_render_rate(row, kind, limit) for kind in ("any", "held") for limit in limits]
        about = f"{row['episodes']} episodes, {format_number(results['seconds'].get(name), 's')}"
        rows.append(
            [
                _render_name(place, name, about),
                *rates,
                *(format_number(row[k]) for k in ("final_distance", "least_distance")),
            ]
        )
    note = (
        "Share of episodes, 95% Wilson intervals beneath. At any time: at one step or more after the start. "
        f"Held: for {task.held_steps} consecutive steps ({task.held_steps * task.control_step_s:g} s). "
        "Distances are means over episodes. Beneath the names: wall time of simulation and planning, all "
        "episodes together."
    )
    return [
        page.render_table(
            ["method", *[f"&le; {limit} {unit}" for limit in limits] * 2, "final", "least"], rows, "", groups
        ),
        page.render_paragraph(note, "note"),
        page.render_drawing(
            draw_success(methods, task), "Filled: at any time. Hollow: held. Lines: 95% Wilson intervals."
        ),
        page.render_facts((name, METHOD_NOTES[name]) for name in methods if name in METHOD_NOTES),
    ]


def _render_rate(row: Mapping[str, Any], kind: str, limit: str) -> str:
    """A rate and its interval as a table cell."""
    return f'{format_percent(row[kind][limit])}<span class="ci">{format_interval(row[f"{kind}_ci95"][limit])}</span>'


def _render_name(place: int, name: str, about: str = "") -> str:
    """A method's name as a table cell, with the colour it has in the figures."""
    colour = f'<span class="swatch" style="background:var(--series{place % len(SERIES)})"></span>'
    return f'{colour}{escape(name)}<span class="ci">{escape(about)}</span>'


def _render_distances(runs: Mapping[str, Rollouts], task: TaskSpec) -> str:
    text = (
        "Median (line) and quartiles (band) over episodes, logarithmic scale. Shaded: within "
        f"{task.thresholds[0]} {task.distance_unit}; dotted: the other thresholds; dashed: the median of "
        f"{next(iter(runs))}, repeated."
    )
    return page.render_drawing(draw_distances(runs, task), text)


def _render_energies(tested: Rollouts) -> str:
    text = (
        "Mean over episodes of the imagined cost (the planner's own distance and reduction, no unit). All candidates "
        "near the best: the search has converged; far above it at the last iteration: more iterations would help."
    )
    return page.render_drawing(draw_energies(tested.energies), text)


def _render_bins(methods: Mapping[str, Mapping[str, Any]], task: TaskSpec) -> list[str]:
    """The plot, and the counts behind it."""
    first, tested = next(iter(methods.items()))
    bins, unit = tested["by_distance"], escape(task.distance_unit)
    text = (
        f"Success at any time within {task.thresholds[0]} {task.distance_unit} by the distance from start "
        f"to goal, with 95% Wilson intervals. n: episodes in the bin ({first})."
    )
    rows = [
        [_render_name(place, name), *(_render_count(counts) for counts in row["by_distance"])]
        for place, (name, row) in enumerate(methods.items())
    ]
    head = ["method", *(f"{b['from']:g} to {b['to']:g} {unit}" for b in bins)]
    shown = [
        page.render_drawing(draw_bins(methods, task), text),
        page.render_table(head, rows, "Successes, of episodes in the bin"),
    ]
    if tested["by_kind"]:
        kinds = [
            [_render_name(place, name), *(_render_count(counts) for counts in row["by_kind"])]
            for place, (name, row) in enumerate(methods.items())
        ]
        head = ["method", *(escape(counts["kind"]) for counts in tested["by_kind"])]
        shown.append(page.render_table(head, kinds, "The same by kind of goal"))
    outside = tested["episodes"] - sum(b["episodes"] for b in bins)
    return [*shown, page.render_paragraph(f"{outside} episodes lie outside of the bins.", "note")] if outside else shown


def _render_count(counts: Mapping[str, int]) -> str:
    if not counts["episodes"]:
        return '<span class="ci">no episode</span>'
    return f"{counts['successes']} of {counts['episodes']}"


def _list_times(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How long a plan takes, on what, and how long the evaluation took."""
    plan, seconds = results["plan"], results["seconds"]
    alone = None if plan["ms_p50"] is None else plan["ms_p50"] / plan["environments"]
    middle, high = format_number(plan["ms_p50"], "ms"), format_number(plan["ms_p95"], "ms")
    together = f"for {plan['environments']} episodes planned at once ({format_number(alone, 'ms')} an episode)"
    rows = [
        ("one plan", f"{middle} median, {high} 95th percentile, {together}"),
        ("control step", f"{format_number(1000 * results['control_step_s'], 'ms')} of simulated time, one action"),
        ("device", f"{plan['device']}, {plan['precision']}"),
        ("peak memory", f"{format_number(plan['peak_mib'], 'MiB')} resident, of the whole process"),
    ]
    if plan.get("flops") is not None:
        rows.append(("arithmetic", f"{format_number(plan['flops'] / 1e9, 'GFLOP')} a plan"))
    played = sum(seconds[name] for name in results["methods"] if name in seconds)
    return [*rows, ("all methods", f"{format_duration(played)} wall time")]


def _render_videos(videos: Sequence[Path], run: Rollouts, cases: Cases, task: TaskSpec) -> list[str]:
    if not videos:
        return [page.render_paragraph("No videos were recorded.", "note")]
    text = (
        f"The first {len(videos)} of {len(run.distances)} episodes, not picked, in real time. Left the "
        "episode, right the goal image, all that the model gets. The bar fills with time and is "
        "green where the distance is "
        f"within {task.thresholds[0]} {task.distance_unit}."
    )
    shown = [page.render_video(path, _describe_episode(place, run, cases, task)) for place, path in enumerate(videos)]
    return [page.render_paragraph(text, "note"), f'<div class="videos">{"".join(shown)}</div>']


def _describe_episode(place: int, run: Rollouts, cases: Cases, task: TaskSpec) -> str:
    """Where an episode came from and how it ended."""
    distances, unit, limit = run.distances[place], task.distance_unit, task.thresholds[0]
    inside = (distances[1:] <= limit).nonzero()[0]
    ended = "not reached"
    if len(inside):
        held = detect_success(distances[None], limit, task.held_steps)[0]
        ended = f"reached after {(inside[0] + 1) * task.control_step_s:.1f} s, {'held' if held else 'not held'}"
    return (
        f"Episode {cases.episodes[place]} from step {cases.starts[place]}: {distances[0]:.2f} {unit} away, "
        f"{ended}; {distances[-1]:.2f} {unit} at the end."
    )


def _render_extra(title: str, content: str | Path) -> str:
    """An image by its path, else html as it is."""
    if isinstance(content, Path) or ("<" not in content and Path(content).suffix in page.MEDIA):
        return page.render_picture(content, title)
    return content


def _list_protocol(results: Mapping[str, Any], task: TaskSpec) -> list[tuple[str, str]]:
    """How it was judged and what was left out, in words."""
    protocol, out, unit, step_s = (
        results["protocol"],
        results["left_out"],
        task.distance_unit,
        task.control_step_s,
    )
    offset, budget = protocol["goal_offset"], protocol["budget"]
    limits = ", ".join(str(threshold) for threshold in task.thresholds)
    methods, whole = results["methods"], results["episodes"]
    fewer = "".join(
        f"; {name}: the first {row['episodes']} episodes alone, since it is slow"
        for name, row in methods.items()
        if row["episodes"] < whole
    )
    said = [("protocol", protocol["note"])] if protocol["note"] else []
    return [
        *said,
        (
            "starts and goals",
            f"two frames of one held-out episode (split {protocol['split']}, seed "
            f"{protocol['seed']}), {offset} environment steps ({offset * step_s:g} s) apart and at least "
            f"{protocol['min_goal_distance']:g} {unit} apart",
        ),
        (
            "left out",
            f"{out['solved_at_start']} candidate starts that satisfy the goal already, and "
            f"{out['nearer_than_least_distance']} that are nearer to their goal than the least distance",
        ),
        ("budget", f"{budget} environment steps of {step_s:g} s ({budget * step_s:g} s)"),
        (
            "success",
            f"a true distance of at most {limits} {unit}, at any time after the start, and held for "
            f"{task.held_steps} consecutive steps; an episode always lasts its whole budget",
        ),
        ("the headline", f"counts success {JUDGE_LABELS[protocol['judge']]}"),
        ("what methods see", "the current image and the goal image; the oracles alone see the true state"),
        ("comparison", f"same starts, goals and seeds for every method{fewer}"),
    ]


def _render_settings(results: Mapping[str, Any]) -> list[str]:
    """Planner, model and data, folded away."""
    shown = []
    for title in ("planner", "model", "data"):
        if title in results:
            rows = [(key, _format_value(value)) for key, value in flatten(to_json_value(results[title])).items()]
            shown.append(f"<details><summary>{title.capitalize()}</summary>{page.render_facts(rows)}</details>")
    return shown


def _format_value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_format_value(item) for item in value)
    return "none" if value is None else str(value)
