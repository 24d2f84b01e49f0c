"""The report of an evaluation: one HTML file with the results of every method. Its text is in planning.html.

Figures come from plots.py, videos from videos.py, elements of the page from page.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from commands.evaluation.arithmetic import format_flops
from commands.evaluation.cases import REST_SPEED, Cases
from commands.evaluation.episodes import Rollouts
from commands.evaluation.judging import detect_success
from commands.evaluation.scenes import describe_scenes
from commands.report import page
from commands.report.figure import SERIES
from commands.report.plots import draw_bins, draw_distances, draw_energies, draw_success
from commands.shared.console import format_duration
from commands.shared.runs import flatten, to_json_value, write_atomic
from envs.task_spec import TaskSpec

# Explanations of the methods; others have none.
METHOD_NOTES = {
    "model": "the method under test: plans with the learned dynamics to the goal image, from images alone.",
    "random": "baseline: uniform actions within the bounds.",
    "zero action": "baseline: no action, or the nearest one that the bounds allow.",
    "oracle": "the same planner with the true simulator as dynamics and the true distance as cost: an upper bound for "
    "this planner.",
    "oracle, model's cost": "the true simulator as dynamics and the model's cost, with a smaller search: "
    "where it fails and the oracle succeeds, the cost is at fault, not the dynamics.",
}

# Names of commands.evaluation.protocol.Judge.
JUDGE_LABELS = {"any": "any time", "held": "held", "final": "at the end", "replan": "where it plans again"}


def write_report(
    results: Mapping[str, Any],
    runs: Mapping[str, Rollouts],
    cases: Cases,
    task: TaskSpec,
    videos: Sequence[Path],
    path: Path | str,
    extra: Sequence[tuple[str, str | Path]] = (),
    scenes: str = "",
) -> None:
    """Write the page of one evaluation to `path`; it opens without a network.

    results: of collect_results; its first method is the one under test, and `videos` show its first episodes.
    extra: further sections, (title, html) or (title, path of an image). scenes: a section on scenes that vary.
    """
    methods, note = results["methods"], results["protocol"]["note"]
    tested = runs[next(iter(methods))]
    elements = {
        "tiles": _render_tiles(results, task),
        "scene_draws": scenes,
        "methods_table": _render_methods(results, task),
        "success_drawing": draw_success(methods, task),
        "method_notes": page.render_facts((name, METHOD_NOTES[name]) for name in methods if name in METHOD_NOTES),
        "distances_drawing": draw_distances(runs, task),
        "bins_drawing": draw_bins(methods, task),
        "bins_table": _render_bins(methods, task),
        "energies": _render_energies(tested),
        "videos": _render_videos(videos, tested, cases, task),
        "extra": "\n".join(page.render_section(title, _render_extra(title, content)) for title, content in extra),
        "note": f"<dt>protocol</dt><dd>{escape(note)}</dd>" if note else "",
        "settings": render_settings(results),
    }
    body = page.fill_template("planning.html", _list_texts(results, task), elements)
    write_atomic(path, page.render_page(f"{task.name}: goals reached from images", body))


def _list_texts(results: Mapping[str, Any], task: TaskSpec) -> dict[str, Any]:
    """The values in the sentences of planning.html."""
    protocol, plan, methods, rate = (results[key] for key in ("protocol", "plan", "methods", "success_rate"))
    random, step_s, judge = results["baselines"]["random"], task.control_step_s, protocol["judge"]
    alone = None if plan["ms_p50"] is None else plan["ms_p50"] / plan["environments"]
    flops, episode_flops = plan.get("flops"), plan.get("episode_flops")
    starts = results["starts"]
    fewer = [
        f"; {name}: the first {row['episodes']} episodes alone, since it is slow"
        for name, row in methods.items()
        if row["episodes"] < results["episodes"]
    ]
    return {
        **results,
        "task": task,
        "limit": task.thresholds[0],
        "limits": ", ".join(map(str, task.thresholds)),
        "tested": next(iter(methods)),
        "ending": "" if judge == "any" else f" ({JUDGE_LABELS[judge]})",
        "judge_label": JUDGE_LABELS[judge],
        "successes": round(rate * results["episodes"]),
        "rate": format_percent(rate),
        "interval": format_interval(results["success_rate_ci95"]),
        "held_rate": format_percent(results["held_rate"]),
        "random": format_percent(random),
        "zero": format_percent(results["baselines"]["zero"]),
        "oracle": format_percent(results["oracle"]),
        "oracle_clause": _describe_oracle(rate, random, results["oracle"]),
        "plan_p50": format_number(plan["ms_p50"], "ms"),
        "plan_p95": format_number(plan["ms_p95"], "ms"),
        "plan_alone": format_number(alone, "ms"),
        "plan_flops": "not measured" if flops is None else format_flops(flops),
        "episode_flops": "not measured" if episode_flops is None else format_flops(episode_flops),
        "starts_each": f"{starts['least']} to {starts['most']}" if starts["least"] < starts["most"] else starts["most"],
        "peak_memory": format_number(plan["peak_mib"], "MiB"),
        "control_ms": format_number(1000 * step_s, "ms"),
        "wall_time": format_duration(sum(results["seconds"].get(name, 0.0) for name in methods)),
        "held_for": f"{task.held_steps} step{'s' * (task.held_steps > 1)}",
        "held_s": task.held_steps * step_s,
        "offset_s": protocol["goal_offset"] * step_s,
        "budget_s": protocol["budget"] * step_s,
        "sensors": "" if results.get("proprio", "none") == "none" else ", the model also proprioception",
        "fewer": "".join(fewer),
        "measure": f" ({protocol['measures'][task.name]})" if task.name in protocol["measures"] else "",
        "scenes": describe_scenes(protocol),
    }


def _describe_oracle(rate: float, random: float, oracle: float | None) -> str:
    """The oracle's rate and the normalised success, as the end of a sentence."""
    if oracle is None:
        return "; the oracle was not run"
    clause = f", the same planner with the true simulator {format_percent(oracle)}"
    if oracle <= random:
        return clause
    return f"{clause}; (success − random) / (oracle − random) = {(rate - random) / (oracle - random):.2f}"


def format_percent(rate: float | None) -> str:
    """A rate as a percentage, whole unless that gives 0% or 100% for a rate that is neither."""
    if rate is None or not math.isfinite(rate):
        return "not measured"
    close = 0.0005 <= rate < 0.005 or 0.995 <= rate < 0.9995
    return f"{rate:.1%}" if close else f"{rate:.0%}"


def format_interval(ci95: Sequence[float]) -> str:
    """The two ends of an interval of a rate."""
    return f"{format_percent(ci95[0]).removesuffix('%')}–{format_percent(ci95[1])}"


def format_number(value: float | None, unit: str = "") -> str:
    """A number to three digits with its unit; "not measured" for None or NaN."""
    if value is None or not math.isfinite(value):
        return "not measured"
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{text} {unit}".rstrip()


def _render_tiles(results: Mapping[str, Any], task: TaskSpec) -> str:
    """Rates of the method under test by the headline's judge, at any time and held."""
    row, limit = next(iter(results["methods"].values())), str(task.thresholds[0])
    return "".join(
        f"<div><dt>{JUDGE_LABELS[judge]}, ≤ {limit} {escape(task.distance_unit)}</dt>"
        f"<dd>{format_percent(row[judge][limit])}"
        f"<small>95% interval {format_interval(row[f'{judge}_ci95'][limit])}</small></dd></div>"
        for judge in dict.fromkeys((results["protocol"]["judge"], "any", "held"))
    )


def _render_methods(results: Mapping[str, Any], task: TaskSpec) -> str:
    """All rates as a table."""
    unit, limits = escape(task.distance_unit), [str(threshold) for threshold in task.thresholds]
    rows = []
    for number, (name, row) in enumerate(results["methods"].items()):
        rates = [
            f'{format_percent(row[judge][limit])}<span class="ci">{format_interval(row[f"{judge}_ci95"][limit])}</span>'
            for judge in ("any", "held")
            for limit in limits
        ]
        effort = f"{row['episodes']} episodes, {format_number(results['seconds'].get(name), 's')}"
        distances = (format_number(row[key]) for key in ("final_distance", "least_distance"))
        rows.append([render_name(number, name, effort), *rates, *distances])
    heads = ["method", *[f"&le; {limit} {unit}" for limit in limits] * 2, "final", "least"]
    spans = [("", 1), ("success at any time", len(limits)), (f"held {task.held_steps} steps", len(limits))]
    return page.render_table(heads, rows, "", [*spans, (f"mean distance, {unit}", 2)])


def render_name(number: int, name: str, remark: str = "") -> str:
    """A method's name as a table cell, with the colour it has in the figures."""
    swatch = f'<span class="swatch" style="background:var(--series{number % len(SERIES)})"></span>'
    return f'{swatch}{escape(name)}<span class="ci">{escape(remark)}</span>'


def _render_bins(methods: Mapping[str, Mapping[str, Any]], task: TaskSpec) -> str:
    """Successes by distance and, where the task has them, by kind of goal."""
    tested, unit = next(iter(methods.values())), escape(task.distance_unit)
    heads = {
        "by_distance": [f"{group['from']:g} to {group['to']:g} {unit}" for group in tested["by_distance"]],
        "by_kind": [escape(group["kind"]) for group in tested["by_kind"]],
        "by_motion": [f"{group['motion']} start" for group in tested["by_motion"]],
    }
    html = ""
    captions = {
        "by_distance": "Successes, of episodes in the bin",
        "by_kind": "The same by kind of goal",
        "by_motion": f"The same by motion at the start (resting: no velocity above {REST_SPEED} m/s or rad/s)",
    }
    for key, caption in captions.items():
        rows = [
            [render_name(number, name), *map(_render_count, row[key])]
            for number, (name, row) in enumerate(methods.items())
        ]
        html += page.render_table(["method", *heads[key]], rows, caption) if heads[key] else ""
    outside = tested["episodes"] - sum(group["episodes"] for group in tested["by_distance"])
    return html + (page.render_note(f"{outside} episodes lie outside of the bins.") if outside else "")


def _render_count(group: Mapping[str, int]) -> str:
    if not group["episodes"]:
        return '<span class="ci">no episode</span>'
    return f"{group['successes']} of {group['episodes']}"


def _render_energies(tested: Rollouts) -> str:
    """The section on the planner's imagined cost; empty for a planner that recorded none."""
    if not tested.energies:
        return ""
    text = (
        "Mean over episodes of the imagined cost (the planner's distance and reduction, no unit). All candidates near "
        "the best: the search has converged. All far above it at the last iteration: more iterations would help."
    )
    return page.render_section("Energy over iterations", page.render_drawing(draw_energies(tested.energies), text))


def _render_videos(videos: Sequence[Path], run: Rollouts, cases: Cases, task: TaskSpec) -> str:
    if not videos:
        return page.render_note("No videos were recorded.")
    text = (
        f"The first {len(videos)} of {len(run.distances)} episodes, not picked, in real time. Left: the episode. "
        "Right: the goal image. The bar fills with time and is green where the distance is within "
        f"{task.thresholds[0]} {task.distance_unit}."
    )
    captions = [_describe_episode(number, run, cases, task) for number in range(len(videos))]
    return page.render_note(text) + page.render_videos(videos, captions)


def _describe_episode(number: int, run: Rollouts, cases: Cases, task: TaskSpec) -> str:
    """The source of an episode and how it ended."""
    distances, unit, limit = run.played_distances[number], task.distance_unit, task.thresholds[0]
    inside = (distances[1:] <= limit).nonzero()[0]
    ending = "not reached"
    if len(inside):
        held = detect_success(distances[None], limit, task.held_steps)[0]
        ending = f"reached after {(inside[0] + 1) * task.control_step_s:.1f} s, {'held' if held else 'not held'}"
    return (
        f"Episode {cases.episodes[number]} from step {cases.starts[number]}: {distances[0]:.2f} {unit} away, "
        f"{ending}; {run.distances[number, -1]:.2f} {unit} at the end."
    )


def _render_extra(title: str, content: str | Path) -> str:
    """An image by its path, else html as it is."""
    if isinstance(content, Path) or ("<" not in content and Path(content).suffix in page.MEDIA):
        return page.render_picture(content, title)
    return content


def render_settings(results: Mapping[str, Any]) -> str:
    """Planner, model and data, folded away."""
    html = ""
    for title in ("planner", "model", "data"):
        if title in results:
            rows = [(key, _format_value(value)) for key, value in flatten(to_json_value(results[title])).items()]
            html += f"<details><summary>{title.capitalize()}</summary>{page.render_facts(rows)}</details>"
    return html


def _format_value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_format_value, value))
    return "none" if value is None else str(value)
