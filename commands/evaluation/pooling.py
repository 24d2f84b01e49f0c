"""The summary of a sweep: evaluations pooled over seeds, training curves in one figure.

Evaluations that differ in their seed alone become one result: successes and episodes are added up. A rate over n
training seeds x m episodes has the Wilson interval of n * m episodes. The rate of each seed stands next to it, because
that interval does not show how much training runs differ.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from commands.config.compose import Composed
from commands.evaluation.protocol import SCHEMA, wilson_interval
from commands.report.plots import draw_sweep_curves
from commands.shared.console import Console, format_table
from commands.shared.errors import RunError
from commands.shared.runs import get_identity, read_json, write_json

RESULTS = "results.json"
METRICS = "metrics.jsonl"
CURVES = {
    "prediction loss on val": "prediction",
    "spread of features": "feature_std",
    "effective rank": "effective_rank",
    "near-pair rank correlation": "near_pair_correlation",
}


def pool_runs(folders: Mapping[Path, Composed], free: Sequence[str], console: Console) -> None:
    """Pool evaluations (tables, and `pool-HASH.json` next to the folders), and draw the training curves of several runs
    into one `sweep-HASH.png`. HASH identifies the runs."""
    _pool_seeds(folders, free, console)
    trained = [path for path in folders if (path / METRICS).exists()]
    if len(trained) > 1:
        target = trained[0].parent / f"sweep-{_short_hash(sorted(path.name for path in trained))}.png"
        draw_sweep_curves({path.name: path / METRICS for path in trained}, target, CURVES)
        console.say(f"training curves of {len(trained)} runs: {target}")


def _pool_seeds(folders: Mapping[Path, Composed], free: Sequence[str], console: Console) -> None:
    """Pool the finished evaluations that differ in `seed` alone."""
    alike: dict[str, list[Path]] = {}
    for path, composed in folders.items():
        if (path / RESULTS).exists():
            alike.setdefault(_short_hash(get_identity(composed.config, (*free, "seed"))), []).append(path)
    for key, paths in alike.items():
        results = [read_json(path / RESULTS) for path in paths]
        if len(paths) < 2 or any("success_rate" not in result for result in results):
            continue
        for path, result in zip(paths, results, strict=True):
            if result.get("schema") != SCHEMA:
                raise RunError(
                    f"{path / RESULTS} has schema {result.get('schema')}, this version reads {SCHEMA}: move that "
                    "folder away and run again"
                )
        pooled = {"runs": [path.name for path in paths], **pool_results(results)}
        target = paths[0].parent / f"pool-{key}.json"
        write_json(target, pooled)
        console.say(f"{pooled['task']}: {len(paths)} runs pooled, in {target}\n{_format_table(pooled)}")


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
    episodes = sum(row["episodes"] for row in rows)
    pooled: dict[str, Any] = {"episodes": episodes}
    for kind in ("any", "held"):
        hits = {t: sum(round(row[kind][t] * row["episodes"]) for row in rows) for t in rows[0][kind]}
        pooled[kind] = {threshold: count / episodes for threshold, count in hits.items()}
        pooled[f"{kind}_ci95"] = {threshold: wilson_interval(count, episodes) for threshold, count in hits.items()}
    for kind in ("by_distance", "by_kind"):
        pooled[kind] = _pool_groups([group for row in rows for group in row[kind]])
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
