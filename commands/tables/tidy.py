"""The numbers of a task's page as two tidy CSV files, which `pandas.read_csv` reads as they are.

`TASK.csv` has one line a method, seed and threshold; `TASK_episodes.csv` one line a method, seed and episode, of those
cells that keep the outcome of every episode. Both call a method by `row`, `objective`, `metric` and `part` (plan: with
the shared dynamics, plan_own: with its own, oracle_cost: the true simulator with its cost).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from commands.evaluation.judging import summarise_steps
from commands.tables.rows import KINDS, Record, Row, get_effort, make_rows
from commands.tables.statistics import TIMED, count_successes, read_steps

# Columns that name a cell or its episodes: no axis of a table may have such a name (`metric` is an axis itself).
RESERVED = (
    *("task", "budget", "effort", "row", "objective", "part", "seed", "threshold", "unit", "episodes", "steps"),
    *("episode", "start", "start_distance", "final_distance", "least_distance"),
)
MEASURES = ("probe", "near_pair_correlation", "over_copy_1", "over_copy_last")  # of a model, on val
Line = dict[str, Any]


def format_seeds_csv(records: Sequence[Record]) -> str:
    """One line a method, seed and threshold: episodes, successes, steps to success, FLOPs, measures of the model."""
    return _format_csv(
        _make_seed_line(row, record, threshold)
        for row, record in _list_cells(records)
        for threshold in map(str, record["thresholds"])
    )


def format_episodes_csv(records: Sequence[Record]) -> str:
    """One line a method, seed and episode: its goal, distances, and by threshold environment steps to success (empty
    where never) and success at the last step (0 or 1). Empty where no cell has outcomes."""
    cells = [(row, record) for row, record in _list_cells(records) if "outcomes" in record]
    return _format_csv(line for row, record in cells for line in _make_episode_lines(row, record))


def _list_cells(records: Sequence[Record]) -> Iterator[tuple[Row, Record]]:
    """Every row of every budget and effort with each of its cells; a cell of several comes once."""
    kinds = dict.fromkeys((record["budget"], get_effort(record)) for record in records)
    for kind in kinds:
        for row in make_rows([record for record in records if (record["budget"], get_effort(record)) == kind]):
            for record in row.records:
                yield row, record


def _name_cell(row: Row, record: Record) -> Line:
    return {
        "task": record["task"],
        "budget": record["budget"],
        "effort": get_effort(record),
        "row": row.label.replace("`", ""),
        "objective": row.key.objective,
        **dict(row.key.variant),
        "metric": row.key.metric,
        "part": row.key.part,
        "seed": record["seed"],
    }


def _make_seed_line(row: Row, record: Record, threshold: str) -> Line:
    result, costs = record[row.key.part], record.get("flops", dict.fromkeys(("pretrain", "metric", "posttrain"), 0.0))
    line = _name_cell(row, record) | {"threshold": threshold, "unit": record["unit"], "episodes": result["episodes"]}
    line |= {kind: count_successes(result, kind, threshold) if kind in result else None for kind in KINDS}
    known = "outcomes" in record
    for kind in TIMED:
        steps = read_steps(record, row, kind, threshold) if known else None
        found = {} if steps is None else summarise_steps(steps, record["outcomes"]["budget"])
        line |= {f"{kind}_{name}_steps": found.get(name) for name in ("median", "restricted_mean")}
    trained = row.key.part in ("plan", "plan_own")
    line |= {
        "steps": record.get("steps") if trained else None,
        "stage1_flops": costs["pretrain"] if trained else 0.0,
        "metric_flops": costs["metric"] if row.key.part == "plan" else 0.0,
        "stage2_flops": costs["posttrain"] if row.key.part == "plan" else 0.0,
        "policy_flops": costs.get("clone", 0.0) if row.key.part == "plan" else 0.0,
    }
    measures = record.get("pretrain", {}) | record.get("posttrain", {}) if row.key.part == "plan" else {}
    return line | {key: measures.get(key) for key in MEASURES}


def _make_episode_lines(row: Row, record: Record) -> Iterator[Line]:
    outcomes, method = record["outcomes"], record["outcomes"][row.key.part]
    played = len(method["final_distance"])  # fewer than goals where the true simulator plays the first ones
    columns: dict[str, Sequence[Any]] = {
        "episode": outcomes["goals"]["episode"][:played],
        "start": outcomes["goals"]["start"][:played],
        "start_distance": outcomes["goals"]["distance"][:played],
        "final_distance": method["final_distance"],
        "least_distance": method["least_distance"],
        **{f"{kind}_{threshold}": column for kind in KINDS for threshold, column in method[kind].items()},
    }
    for values in zip(*columns.values(), strict=True):
        yield _name_cell(row, record) | dict(zip(columns, values, strict=True))


def _format_csv(lines: Iterable[Mapping[str, Any]]) -> str:
    """The lines below their keys; empty without lines."""
    rows, text = list(lines), io.StringIO()
    columns = list(dict.fromkeys(key for row in rows for key in row))  # rows of axes have columns that others lack
    if rows:
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()
