"""What the rows of a table share, and in what they differ: their cells' configurations compared key by key."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from commands.config.schema import fill_defaults
from commands.pipeline import PipelineKeys
from commands.shared.errors import UsageError, join_names
from commands.shared.runs import get_identity
from commands.tables.rows import ORACLE, TIME, Record, Row, get_effort

# Keys that change no number of a cell.
FREE = (
    "device",
    "workers",
    "videos",
    "logger",
    *(
        f"{stage}.{key}"
        for stage in ("pretrain", "posttrain", "clone.trainer")
        for key in ("evaluate_every", "checkpoint_every", "log_every", "parallel")
    ),
)
# Keys that an effort of planning sets.
SCALED = tuple(f"planner.{key}" for key in ("samples", "elites", "keep_elites", "refined", "prior_samples"))
# Parts of a configuration that a table speaks of; the objective is what it compares.
PARTS = ("env", "data", "encoder", "metric", "pretrain", "dynamics", "posttrain", "clone", "planner", "protocol")
SOME = "clone"  # a part that some rows alone have
EQUAL = ("env", "data", "protocol")  # parts that every cell of a table has in common
# Keys that are set for each seed, or that say which other methods are played beside the one of the row.
APART = (*FREE, "pretrain.seed", "posttrain.seed", "protocol.oracle", "protocol.oracle_cost", "protocol.note")
ORACLE_APART = ("planner.cost",)  # the oracle's cost is the true distance
QUOTE = '"'  # of text in JSON


def list_settings(record: Record) -> dict[str, Any]:
    """The configuration of a record as {"part.key": value}, defaults filled in; `metric` is that of the objective, of
    kind "none" without one. The oracle has the parts alone that matter for it."""
    recorded = record["config"]
    complete = fill_defaults(PipelineKeys, recorded)
    parts = {part: complete[part] for part in PARTS if part in recorded and complete[part] is not None}
    if "objective" in recorded:
        parts["objective"] = complete["objective"]
        parts["metric"] = complete["objective"].get("metric") or {"kind": "none"}
    apart = APART
    if record["objective"] == ORACLE:
        apart = (*APART, *ORACLE_APART)
        parts |= {"dynamics": recorded["dynamics"]} if "dynamics" in recorded else {}  # the model step alone
    return get_identity(parts, apart)


def find_oracle(record: Record, records: Iterable[Record]) -> Record | None:
    """The oracle's cell of the same task, seed, data and protocol; of several, the one with the record's planner. None
    where there is none, or none of several has that planner."""
    place = (record["task"], record["seed"])
    # By identity: the row of random actions has the oracle's record, too.
    known = {id(other): other for other in records if other["objective"] == ORACLE}.values()
    oracles = [other for other in known if (other["task"], other["seed"]) == place]
    if not oracles:
        return None
    mine = list_settings(record)

    def agrees(other: Record, parts: Sequence[str]) -> bool:
        its = list_settings(other)
        return all(mine.get(key) == value for key, value in its.items() if _get_part(key) in parts)

    equal = [other for other in oracles if agrees(other, EQUAL)]
    if len(equal) > 1:
        equal = [other for other in equal if agrees(other, ("planner",))]
    return equal[0] if equal else None


def find_differences(rows: Sequence[Row]) -> dict[str, dict[str, list[str]]]:
    """Keys of PARTS in which rows differ: {key: {value as JSON: labels of rows}}. A key counts among the rows that have
    it; a row whose seeds differ stands under each of its values."""
    values: dict[str, dict[str, list[str]]] = {}
    for row in _select_methods(rows):
        for record in row.records:
            for key, value in list_settings(record).items():
                if _get_part(key) in PARTS:
                    labels = values.setdefault(key, {}).setdefault(json.dumps(value), [])
                    if row.label not in labels:
                        labels.append(row.label)
    return {key: found for key, found in values.items() if len(found) > 1}


def list_shared_parts(rows: Sequence[Row]) -> list[str]:
    """The parts of which no key differs between rows."""
    differ = {_get_part(key) for key in find_differences(rows)}
    records = [record for row in _select_methods(rows) for record in row.records]
    known = {_get_part(key) for record in records for key in list_settings(record)}
    return [part for part in PARTS if part in known and part not in (*differ, SOME)]


def describe_sharing(rows: Sequence[Row]) -> tuple[str, list[str]]:
    """A sentence on what all rows share, and one line for every key in which they differ."""
    shared, lines = list_shared_parts(rows), []
    for key, values in find_differences(rows).items():
        most = max(values, key=lambda value: len(values[value]))
        words = [
            f"{value.strip(QUOTE)} in {'all others' if value == most and len(labels) > 2 else join_names(labels, 20)}"
            for value, labels in sorted(values.items(), key=lambda item: len(item[1]))
        ]
        lines.append(f"`{key}`: {', '.join(words)}")
    names = [f"`{part}`" for part in shared]
    listed = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    start = f"All rows share {listed}" if shared else "The rows share no part of their configuration"
    return f"{start}, compared key by key{'; they differ in' if lines else ''}", lines


def check_equal(rows: Sequence[Row]) -> None:
    """Raise UsageError where the cells of a table differ in the task's settings, data or protocol, or those of one row
    in anything but their seed; it names the keys that differ."""
    differ = {key: found for key, found in find_differences(rows).items() if _get_part(key) in EQUAL}
    for key, values in differ.items():
        words = [f"{value.strip(QUOTE)} in {join_names(labels, 3)}" for value, labels in values.items()]
        raise UsageError(
            f"the cells of this table differ in {join_names(list(differ), 6)} ({key}: {join_names(words, 3)}): make a "
            "table of each, or give mixed=true"
        )
    for row in _select_methods(rows):
        if keys := list(_find_uneven_keys(row)):
            raise UsageError(
                f"the seeds of {row.label} differ in {join_names(keys, 6)}: move the cells of one setting away, or "
                "give mixed=true"
            )


def _find_uneven_keys(row: Row) -> Iterator[str]:
    """Keys in which the cells of a row differ; a row of several cells a seed is not one of seeds."""
    if len(set(row.seeds)) < len(row.seeds):
        return
    settings = [list_settings(record) for record in row.records]
    for key in sorted({key for each in settings for key in each}):
        measured = key in SCALED and get_effort(row.records[0]) == TIME
        if not measured and any(each.get(key) != settings[0].get(key) for each in settings):
            yield key


def _select_methods(rows: Sequence[Row]) -> list[Row]:
    """The rows that have a configuration of their own: neither random actions nor dynamics of another row's model."""
    return [row for row in rows if row.key.part == "plan"]


def _get_part(key: str) -> str:
    return key.partition(".")[0]
