"""The rows of a table: finished cells that differ in their seed alone, and how a row is called."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

Record = Mapping[str, Any]
Part = Literal["plan", "plan_own", "oracle_cost", "random"]  # of a record: which method was played

ORACLE = "oracle"  # method: the true simulator with the task's true distance
RANDOM = "random"  # the baseline of random actions, of which every record has the episodes
Effort = Literal["candidates", "flops", "time"]  # of a plan, that all rows have in common
CANDIDATES, FLOPS, TIME = get_args(Effort)
ALL = "all"  # effort of a cell that is the same under every one
ALL_BUDGETS = "both"  # budget of a cell that is the same under every one
KINDS = ("any", "held", "final")  # success at any time, for consecutive steps, at the last step
BASELINES = (ORACLE, RANDOM)  # rows that no other is compared with
PARTS: tuple[Part, ...] = get_args(Part)
CROSSED = re.compile(r"[A-Z]-([A-Z])")  # an arm of a controlled suite: what is predicted, what the planner compares


@dataclass(frozen=True, order=True)
class RowKey:
    """What tells rows apart. variant: of each axis that the table varies; metric: kind of the embedding's metric, or
    none."""

    objective: str
    variant: tuple[tuple[str, str], ...]
    metric: str
    part: Part


@dataclass(frozen=True)
class Row:
    """One line of a table: a method on every seed that has a finished cell of it. records: in the order of the seeds.
    label: its name in Markdown."""

    key: RowKey
    records: tuple[Record, ...]
    label: str

    @property
    def seeds(self) -> list[int]:
        """Training seeds of the cells."""
        return [record["seed"] for record in self.records]

    @property
    def results(self) -> list[Mapping[str, Any]]:
        """The results of each seed, as `judging.summarise` gives them."""
        return [record[self.key.part] for record in self.records]

    @property
    def is_baseline(self) -> bool:
        """Whether it is the oracle, the true simulator with the cost of a method, or random actions."""
        return self.key.objective in BASELINES or self.key.part == "oracle_cost"

    def select_seeds(self, seeds: Sequence[int]) -> Row:
        """The same row of these seeds alone."""
        return Row(self.key, tuple(record for record in self.records if record["seed"] in seeds), self.label)


def get_effort(record: Record) -> str:
    """The effort that a record's plans have in common with those of other rows; cells of earlier versions had equal
    candidates."""
    return record.get("effort", CANDIDATES)


def select_records(records: Iterable[Record], budget: str, effort: str = CANDIDATES) -> list[Record]:
    """The records of a budget of training and an effort of planning."""
    return [each for each in records if each["budget"] in (budget, ALL_BUDGETS) and get_effort(each) in (effort, ALL)]


def get_headline(record: Record) -> str:
    """The threshold of the headline, as results name it."""
    return str(record["thresholds"][0])


def get_judge(record: Record) -> str:
    """The kind of success that the protocol of a record counts; at any time where a record of an earlier version lacks
    it."""
    judge = record["config"]["protocol"].get("judge", "any")
    return judge if judge in record.get("outcomes", record)["plan"] else "any"


def identify_row(record: Record, part: Part) -> RowKey:
    """The row that a part of a record belongs to."""
    metric = (record["config"].get("objective") or {}).get("metric")
    kind = "none" if metric is None else metric["kind"]
    if part == "random":
        return RowKey(RANDOM, (), "none", part)
    return RowKey(record["objective"], tuple(record.get("variant", {}).items()), kind, part)


def make_rows(records: Sequence[Record]) -> list[Row]:
    """The rows of these records, in the order of their first cells: every method with the shared dynamics, with its own
    where it has them, the true simulator with its cost where that was measured, and random actions. The episodes of
    random actions are the same in all cells of a seed, so one counts."""
    groups: dict[RowKey, list[Record]] = {}
    for part in PARTS:
        for record in records:
            if part not in record:
                continue
            group = groups.setdefault(identify_row(record, part), [])
            if part != "random" or all(record["seed"] != other["seed"] for other in group):
                group.append(record)
    keys = list(groups)
    return [
        Row(key, tuple(sorted(group, key=lambda record: record["seed"])), _label(key, keys))
        for key, group in groups.items()
    ]


def find_main_row(rows: Iterable[Row], main: str | None) -> Row | None:
    """The row that others are compared with: the objective `main` with the shared dynamics; None where it is not
    there."""
    return next((row for row in rows if row.key.objective == main and row.key.part == "plan"), None)


def format_row(objective: str, variant: Mapping[str, str]) -> str:
    """Name of a row, as "lewm metric=none"."""
    return " ".join((objective, *(f"{axis}={name}" for axis, name in variant.items())))


def _label(key: RowKey, keys: Sequence[RowKey]) -> str:
    """The name of a row; its metric where one variant of the objective has rows of several."""
    name = format_row(key.objective, dict(key.variant))
    metrics = {other.metric for other in keys if format_row(other.objective, dict(other.variant)) == name}
    label = f"`{name}`" + (f", metric {key.metric}" if len(metrics) > 1 else "")
    if key.part == "oracle_cost":
        crossed = CROSSED.fullmatch(key.objective)
        return f"{f'`O-{crossed[1]}`: ' if crossed else ''}true simulator, cost of {label}"
    return label + (", its own dynamics" if key.part == "plan_own" else "")
