"""The summary of a sweep: evaluations pooled over seeds and beside each other, training curves in one figure.

Evaluations that differ in their seed alone (of training, or of the protocol) become one result: successes and episodes
are added up. Its interval is over the seeds (`seed_intervals`), and the rate of each seed stands beside it. Where other
keys differ, one table has a line for each setting; searches, and acting without one, also have a page.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from commands.config.compose import Composed
from commands.evaluation.protocol import SCHEMA
from commands.report.plots import draw_setting_curves, draw_sweep_curves
from commands.shared.console import METRICS, Console, format_table
from commands.shared.errors import RunError
from commands.shared.runs import get_identity, read_json, write_atomic, write_json
from commands.statistics.curves import KINDS, collect_curves, format_areas
from commands.statistics.searches import format_search_page, judge_searches, make_row
from commands.statistics.seed_intervals import estimate_rate

RESULTS = "results.json"
SEEDS = ("seed", "protocol.seed")  # keys in which runs of one setting may differ
SEARCH_KEYS = ("planner", "planner.proposal.source")  # whose values are compared on a page of their own
CURVES = {
    "prediction loss on val": "prediction",
    "spread of features": "feature_std",
    "effective rank": "effective_rank",
    "near-pair rank correlation": "near_pair_correlation",
}


def pool_runs(folders: Mapping[Path, Composed], free: Sequence[str], console: Console) -> None:
    """Pool evaluations (tables, and `pool-HASH.json` next to the folders), compare those of several settings (a table,
    and the curve over numbers of one key, `settings-HASH.png` and `.json`), and draw the training curves of several
    runs into one `sweep-HASH.png`. HASH identifies the runs."""
    alike = _group_evaluations(folders, free)
    _pool_seeds(alike, console)
    _compare_settings(alike, folders, console)
    trained = [path for path in folders if (path / METRICS).exists()]
    if len(trained) > 1:
        target = trained[0].parent / f"sweep-{_short_hash(sorted(path.name for path in trained))}.png"
        draw_sweep_curves({path.name: path / METRICS for path in trained}, target, CURVES)
        console.say(f"training curves of {len(trained)} runs: {target}")


def _group_evaluations(folders: Mapping[Path, Composed], free: Sequence[str]) -> dict[str, dict[Path, Any]]:
    """The results of finished evaluations by folder, those together that differ in SEEDS alone."""
    alike: dict[str, dict[Path, Any]] = {}
    for path, composed in folders.items():
        result = read_json(path / RESULTS) if (path / RESULTS).exists() else {}
        if "success_rate" in result:
            key = _short_hash(get_identity(composed.config, (*free, *SEEDS)))
            alike.setdefault(key, {})[path] = result
    evaluations = {path: result for group in alike.values() for path, result in group.items()}
    for path, result in evaluations.items():
        if result.get("schema") != SCHEMA and len(evaluations) > 1:
            raise RunError(
                f"{path / RESULTS} has schema {result.get('schema')}, this version reads {SCHEMA}: move that "
                "folder away and run again"
            )
    return alike


def _pool_seeds(alike: Mapping[str, Mapping[Path, Any]], console: Console) -> None:
    """Pool the evaluations of each group that has several."""
    for key, group in alike.items():
        if len(group) < 2:
            continue
        paths = list(group)
        pooled = {"runs": [path.name for path in paths], **pool_results(list(group.values()))}
        target = paths[0].parent / f"pool-{key}.json"
        write_json(target, pooled)
        console.say(f"{pooled['task']}: {len(paths)} runs pooled, in {target}\n{_format_table(pooled)}")


def _compare_settings(
    alike: Mapping[str, Mapping[Path, Any]], folders: Mapping[Path, Composed], console: Console
) -> None:
    """Success of each setting of a sweep in one table, and over the values of the key that differs beside `seed`, where
    it is one and they are numbers."""
    from commands.evaluation.methods import MODEL_METHOD, ORACLE_METHOD, RANDOM_METHOD  # imports torch, so only now

    if len(alike) < 2:
        return
    lines = [folders[next(iter(group))].overrides for group in alike.values()]
    settings = [{key: value for key, _, value in (word.partition("=") for word in line)} for line in lines]
    keys = [key for key in settings[0] if key not in SEEDS and len({setting.get(key) for setting in settings}) > 1]
    pooled = [pool_results(list(group.values())) for group in alike.values()]
    head = [*keys, "episodes", "within", "success", "held", "random", "oracle"]
    rows: list[list[Any]] = []
    for setting, result in zip(settings, pooled, strict=True):
        methods, limit = result["methods"], str(result["thresholds"][0])
        model = methods[MODEL_METHOD]
        rates = [_format_rate(model[kind][limit], model[f"{kind}_ci95"][limit]) for kind in KINDS]
        others = [
            f"{methods[name]['any'][limit]:.1%}" if name in methods else "" for name in (RANDOM_METHOD, ORACLE_METHOD)
        ]
        rows.append(
            [*(setting.get(key, "") for key in keys), model["episodes"], f"{limit} {result['unit']}", *rates, *others]
        )
    console.say(f"{len(rows)} settings, success at any time and held:\n{format_table(rows, head)}")
    if set(keys) & set(SEARCH_KEYS) and len({result["task"] for result in pooled}) == 1:
        labels = [" ".join(f"{key}={setting.get(key, '')}" for key in keys) for setting in settings]
        groups = [list(group.values()) for group in alike.values()]
        searches = [make_row(*row, MODEL_METHOD) for row in zip(labels, pooled, groups, strict=True)]
        within = f"{pooled[0]['thresholds'][0]} {pooled[0]['unit']}"
        target = next(iter(folders)).parent / f"searches-{_short_hash(sorted(alike))}.md"
        write_atomic(target, format_search_page(searches, pooled[0]["task"], within))
        console.say(f"{judge_searches(searches)}\nsuccess against operations: {target}".strip())
    numbers = [number for row in rows if (number := _read_number(str(row[0]))) is not None]
    tasks = {(result["task"], str(result["thresholds"])) for result in pooled}
    if len(keys) == 1 and len(numbers) == len(rows) and len(tasks) == 1:
        target = next(iter(folders)).parent / f"settings-{_short_hash(sorted(alike))}.png"
        _report_curve(keys[0], numbers, pooled, target, console)


def _report_curve(
    key: str, numbers: Sequence[float], pooled: Sequence[Mapping[str, Any]], target: Path, console: Console
) -> None:
    """Draw success over the numbers of a key, and write it with the area under the curve."""
    curves, first = collect_curves(numbers, pooled), pooled[0]
    title = f"{first['task']}: within {first['thresholds'][0]} {first['unit']} at any time"
    draw_setting_curves(key, sorted(numbers), curves, title, target)
    about = {"task": first["task"], "within": first["thresholds"][0], "unit": first["unit"], "key": key}
    write_json(target.with_suffix(".json"), {**about, "values": sorted(numbers), "methods": curves})
    console.say(f"{format_areas(numbers, curves)}\nsuccess over {key}: {target}")


def _read_number(text: str) -> float | None:
    """The number that a value of a key is, or None."""
    try:
        return float(text)
    except ValueError:
        return None


def _short_hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def pool_results(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Pool several results.json of one task: the methods that all of them have, counts added up."""
    first = results[0]
    shared = [name for name in first["methods"] if all(name in other["methods"] for other in results)]
    return {
        "task": first["task"],
        "unit": first["unit"],
        "thresholds": first["thresholds"],
        "success_rate_of_each": [result["success_rate"] for result in results],
        "held_rate_of_each": [result["held_rate"] for result in results],
        "methods": {name: _pool_method([result["methods"][name] for result in results]) for name in shared},
    }


def _pool_method(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Pool the results of one method, as `protocol.summarise` gives them."""
    counts = [row["episodes"] for row in rows]
    pooled: dict[str, Any] = {"episodes": sum(counts)}
    for kind in KINDS:
        hits = {t: [round(row[kind][t] * row["episodes"]) for row in rows] for t in rows[0][kind]}
        rates = {threshold: estimate_rate(successes, counts) for threshold, successes in hits.items()}
        pooled[kind] = {threshold: rate.mean for threshold, rate in rates.items()}
        pooled[f"{kind}_ci95"] = {threshold: (rate.low, rate.high) for threshold, rate in rates.items()}
    for kind in ("by_distance", "by_kind", "by_motion"):
        pooled[kind] = _pool_groups([group for row in rows for group in row.get(kind, [])])
    return pooled


def _pool_groups(groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Add up the groups of episodes that have the same label."""
    counts = ("episodes", "successes")
    added: dict[tuple[Any, ...], dict[str, Any]] = {}
    for group in groups:
        label = {name: value for name, value in group.items() if name not in counts}
        row = added.setdefault(tuple(label.values()), {**label, **dict.fromkeys(counts, 0)})
        for name in counts:
            row[name] += group[name]
    return list(added.values())


def _format_table(pooled: Mapping[str, Any]) -> str:
    """Methods by thresholds, with intervals; then kinds of goals."""
    thresholds, unit = [str(t) for t in pooled["thresholds"]], pooled["unit"]
    head = ["", "episodes", *(f"within {t} {unit}" for t in thresholds), f"held {thresholds[0]}"]
    rows = []
    for name, row in pooled["methods"].items():
        cells = [_format_rate(row["any"][t], row["any_ci95"][t]) for t in thresholds]
        held = _format_rate(row["held"][thresholds[0]], row["held_ci95"][thresholds[0]])
        kinds = [f"{group['kind']} {group['successes']} of {group['episodes']}" for group in row["by_kind"]]
        rows.append([name, row["episodes"], *cells, held, *kinds])
    return format_table(rows, head)


def _format_rate(rate: float, interval: Sequence[float]) -> str:
    return f"{rate:.1%} ({interval[0]:.1%} to {interval[1]:.1%})"
