"""What the rows of a table share, and in what they differ: their cells' configurations compared key by key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from commands.comparison.cells import FREE
from commands.comparison.rows import Record
from commands.config.schema import fill_defaults
from commands.pipeline import PipelineKeys

# Parts of a configuration that a table speaks of; the objective is what it compares.
PARTS = ("env", "data", "encoder", "metric", "pretrain", "dynamics", "posttrain", "planner", "protocol")
EQUAL = ("env", "data", "protocol")  # parts that every cell of a table has in common
# Keys that are set for each seed, or that say which other methods are played beside the one of the row.
APART = (*FREE, "pretrain.seed", "posttrain.seed", "protocol.oracle", "protocol.oracle_cost", "protocol.note")
ORACLE_APART = ("planner.cost",)  # the oracle's cost is the true distance
QUOTE = '"'


def list_settings(record: Record) -> dict[str, Any]:
    """The configuration of a record as {"part.key": value}, defaults filled in; `metric` is that of the objective, of
    kind "none" without one. The oracle has the parts alone that matter for it."""
    recorded = record["config"]
    complete = fill_defaults(PipelineKeys, recorded)
    names = _join_and([f"`{part}`" for part in shared])
    start = f"All rows share {names}" if shared else "The rows share no part of their configuration"
    return f"{start}, compared key by key{'; they differ in' if lines else ''}", lines


def _join_and(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
