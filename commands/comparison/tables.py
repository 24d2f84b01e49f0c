"""The tables of `jepa compare`: finished cells -> one Markdown page a task and one of all tasks, seeds joined."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from commands.comparison.axes import name_row
from commands.evaluation.intervals import wilson_interval
from commands.evaluation.scenes import name_scenes

Record = Mapping[str, Any]

ORACLE = "oracle"  # the method that plans in the true simulator

WIDTH = 120  # columns of a paragraph

BUDGET_TITLES = {
    "steps": "Equal steps of stage 1",
    "flops": "Equal arithmetic in stage 1",
    "total": "Equal arithmetic in both stages together",
}


def format_task_page(records: Sequence[Record], budgets: Sequence[str]) -> str:
    """Markdown: a table per budget, the most successful objective first, with the random and pixel baselines."""
    first = records[0]
    threshold, unit = str(first["thresholds"][0]), first["unit"]
    oracles = _find_oracles(records)
    lines = [f"# Objectives on {first['task']}", "", _format_introduction(records), ""]
    for budget in budgets:
        rows = _make_rows([record for record in records if record["budget"] in (budget, "both")], threshold, oracles)
        head = (
            "objective",
            "seeds",
            "steps",
            "TFLOP, both stages",
            "probe R2",
            "near-pair rank correlation",
            "error over copying: 1 step, last",
            f"within {threshold} {unit}",
            "held",
            "normalised",
            "with its own dynamics",
            "trials",
        )
        lines += [f"## {BUDGET_TITLES[budget]}", "", *_format_table(head, rows), ""]
    return "\n".join(lines)


def _format_introduction(records: Sequence[Record]) -> str:
    first = records[0]
    baselines, threshold = [record["random"] for record in records], str(first["thresholds"][0])
    random = fmean(baseline["any"][threshold] for baseline in baselines)
    stage1 = next((record["pretrain"] for record in records if "pretrain" in record), None)
    pixels = {
        key: "–" if stage1 is None else _format_number(stage1[f"{key}_pixels"])
        for key in ("probe", "near_pair_correlation")
    }
    spaces = sorted({record["space"] for record in records if "space" in record})
    planned = f", planned in {' and '.join(spaces)} features" if spaces else ""
    scenes = name_scenes(first["config"]["protocol"])
    made = (
        f"Made by `jepa compare`; {baselines[0]['episodes']} episodes a seed{scenes}{planned}. "
        f"Random actions: {random:.1%}. "
        f"Raw pixels: probe {pixels['probe']}, near-pair rank correlation {pixels['near_pair_correlation']}. "
        "Probe, near-pair rank correlation and errors are of val; intervals are Wilson's of 95 %."
    )
    shared = (
        "All methods share data, encoder, dynamics, planner and metric; `untrained` is an encoder before it learns, "
        "embedding by principal components of its tokens, or by its keypoints; `oracle` plans in the true simulator "
        "with the true distance. Normalised: (success - random) / (oracle - random)."
    )
    return f"{_wrap(made)}\n\n{_wrap(shared)}"


def format_overview(records: Sequence[Record]) -> str:
    """Markdown: normalised success of every objective at equal steps on every task, and of its own dynamics."""
    tasks = sorted({record["task"] for record in records})
    steps = [record for record in records if record["budget"] != "flops"]
    success: dict[str, dict[str, str]] = {}
    for task in tasks:
        here = [record for record in steps if record["task"] == task]
        oracles = _find_oracles(here)
        for name, group in _group_by_row(here).items():
            for title, key in ((name, "plan"), (f"{name}, its own dynamics", "plan_own")):
                if all(key in record for record in group):
                    success.setdefault(title, {})[task] = _format_seeds(group, oracles, key)
    rows = [[f"`{title}`", *(row.get(task, "") for task in tasks)] for title, row in sorted(success.items())]
    lines = [
        "# Objectives over tasks",
        "",
        _wrap(
            "Made by `jepa compare` from the finished cells of this folder, equal steps of stage 1: (success - random) "
            "/ (oracle - random), at any time within the task's headline threshold; in brackets the number of seeds "
            "where it is not one."
        ),
        "",
        *_format_table(["objective", *tasks], rows),
    ]
    return "\n".join(lines) + "\n"


def _format_seeds(group: Sequence[Record], oracles: Mapping[int, Record], key: str) -> str:
    """Normalised success, and of how many seeds; cells of one seed twice, as of two planners, are not averaged."""
    if len({record["seed"] for record in group}) < len(group):
        return "several settings"
    return _normalise_success(group, oracles, key) + (f" ({len(group)})" if len(group) > 1 else "")


def _group_by_row(records: Sequence[Record]) -> dict[str, list[Record]]:
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(name_row(record), []).append(record)
    return groups


def _find_oracles(records: Sequence[Record]) -> dict[int, Record]:
    """The oracle's cell of every seed that has one."""
    return {record["seed"]: record for record in records if record["objective"] == ORACLE}


def _normalise_success(group: Sequence[Record], oracles: Mapping[int, Record], key: str = "plan") -> str:
    """(success - random) / (oracle - random), of means over the seeds; empty without the oracle of one."""
    threshold = str(group[0]["thresholds"][0])
    if any(record["seed"] not in oracles for record in group):
        return ""

    def mean(records: Sequence[Record], row: str) -> float:
        return fmean(record[row]["any"][threshold] for record in records)

    random, oracle = mean(group, "random"), mean([oracles[record["seed"]] for record in group], "plan")
    return _format_number((mean(group, key) - random) / (oracle - random)) if oracle > random else "–"


def _make_rows(records: Sequence[Record], threshold: str, oracles: Mapping[int, Record]) -> list[list[str]]:
    """One row an objective and variant, the most successful first."""
    groups = _group_by_row(records)

    def success(group: Sequence[Record]) -> float:
        return fmean(record["plan"]["any"][threshold] for record in group)

    order = sorted(groups, key=lambda name: -success(groups[name]))
    return [_make_row(name, groups[name], threshold, oracles) for name in order]


def _make_row(name: str, group: Sequence[Record], threshold: str, oracles: Mapping[int, Record]) -> list[str]:
    def mean(stage: str, key: str) -> str:
        values = [record.get(stage, {}).get(key) for record in group]
        return "–" if None in values else _format_number(fmean(values))

    flops = group[0].get("flops")
    own = [record["plan_own"] for record in group if "plan_own" in record]
    return [
        f"`{name}`",
        ", ".join(str(seed) for seed in sorted(record["seed"] for record in group)),
        str(group[0].get("steps", 0)),
        "–" if flops is None else f"{flops['total'] / 1e12:.1f}",
        mean("pretrain", "probe"),
        mean("pretrain", "near_pair_correlation"),
        f"{mean('posttrain', 'over_copy_1')}, {mean('posttrain', 'over_copy_last')}",
        _format_rate([record["plan"] for record in group], "any", threshold),
        _format_rate([record["plan"] for record in group], "held", threshold),
        _normalise_success(group, oracles),
        _format_rate(own, "any", threshold) if own else "",
        str(group[0].get("tuning", {"tried": "" if name == ORACLE else 1})["tried"]),
    ]


def _format_rate(rows: Sequence[Mapping[str, Any]], kind: str, threshold: str) -> str:
    episodes = sum(row["episodes"] for row in rows)
    hits = sum(round(row[kind][threshold] * row["episodes"]) for row in rows)
    low, high = wilson_interval(hits, episodes)
    return f"{hits / episodes:.0%} ({low:.0%} to {high:.0%})"


def _format_number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"  # null: too few episodes to measure it


def _wrap(paragraph: str) -> str:
    return textwrap.fill(paragraph, WIDTH, break_long_words=False, break_on_hyphens=False)


def _format_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
