"""The table of `jepa compare`: finished cells -> one Markdown page, seeds joined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from commands.evaluation import wilson

Record = Mapping[str, Any]

BUDGET_TITLES = {
    "steps": "Equal steps of stage 1",
    "flops": "Equal arithmetic in stage 1",
}


def page(records: Sequence[Record], budgets: Sequence[str]) -> str:
    """Markdown: one table for every budget, rows by success, with the floors and what stage 1 is measured against."""
    first = records[0]
    threshold, unit = str(first["thresholds"][0]), first["unit"]
    lines = [f"# Objectives on {first['task']}", "", _about(records), ""]
    for budget in budgets:
        rows = _rows([record for record in records if record["budget"] in (budget, "both")], threshold)
        head = (
            "objective",
            "steps",
            "TFLOP",
            "probe R2",
            "near rank",
            "error over copying: 1 step, last",
            f"within {threshold} {unit}",
            "held",
            "with its own dynamics",
        )
        lines += [f"## {BUDGET_TITLES[budget]}", "", _line(head), _line(["---"] * len(head)), *map(_line, rows), ""]
    return "\n".join(lines)


def _about(records: Sequence[Record]) -> str:
    first = records[0]
    floors, threshold = [record["random"] for record in records], str(first["thresholds"][0])
    random = fmean(floor["any"][threshold] for floor in floors)
    pixels = {key: _number(first["pretrain"][f"{key}_pixels"]) for key in ("probe", "near_rank")}
    seeds = sorted({record["seed"] for record in records})
    return (
        f"Made by `jepa compare`; seeds {', '.join(map(str, seeds))}, {floors[0]['episodes']} episodes each, planned "
        f"in {first['space']} features. Random actions: {random:.1%}. Raw pixels: probe {pixels['probe']}, near rank "
        f"{pixels['near_rank']}. Probe, near rank and errors are of val; intervals are Wilson's of 95 %.\n\nAll rows "
        "share data, encoder, dynamics, planner and metric; `untrained` is the encoder of `vjepa2` before it learns."
    )


def _rows(records: Sequence[Record], threshold: str) -> list[list[str]]:
    """One row an objective, the most successful first."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record["objective"], []).append(record)

    def success(group: Sequence[Record]) -> float:
        return fmean(record["plan"]["any"][threshold] for record in group)

    return [_row(name, groups[name], threshold) for name in sorted(groups, key=lambda name: -success(groups[name]))]


def _row(name: str, group: Sequence[Record], threshold: str) -> list[str]:
    def mean(stage: str, key: str) -> str:
        values = [record[stage][key] for record in group]
        return "–" if None in values else _number(fmean(values))

    steps, per_step = group[0]["steps"], group[0]["flops_per_step"]
    own = [record["plan_own"] for record in group if "plan_own" in record]
    return [
        f"`{name}`",
        str(steps),
        f"{steps * per_step / 1e12:.1f}",
        mean("pretrain", "probe"),
        mean("pretrain", "near_rank"),
        f"{mean('posttrain', 'over_copy_1')}, {mean('posttrain', 'over_copy_last')}",
        _rate([record["plan"] for record in group], "any", threshold),
        _rate([record["plan"] for record in group], "held", threshold),
        _rate(own, "any", threshold) if own else "",
    ]


def _rate(rows: Sequence[Mapping[str, Any]], kind: str, threshold: str) -> str:
    episodes = sum(row["episodes"] for row in rows)
    hits = sum(round(row[kind][threshold] * row["episodes"]) for row in rows)
    low, high = wilson(hits, episodes)
    return f"{hits / episodes:.0%} ({low:.0%} to {high:.0%})"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"  # null: too few episodes to measure it


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
