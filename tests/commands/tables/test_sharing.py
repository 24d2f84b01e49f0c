"""What a table says it shares, it shares: the cells are compared key by key, here by another way than there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from commands.tables.rows import make_rows
from commands.tables.sharing import APART, EQUAL, PARTS, check_equal, describe_sharing, list_shared_parts
from tests.commands.tables.made_records import make_record

DOCS = Path(__file__).parents[3] / "docs"
TABLES = [
    (folder, task)
    for folder, tasks in {
        "recipes": ("reacher", "two_rooms", "point_maze", "push_t"),
        "varied": ("reacher", "two_rooms", "push_t"),
        "objectives": ("reacher",),
    }.items()
    for task in tasks
]


def list_leaves(value, name=""):
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from list_leaves(item, f"{name}.{key}" if name else key)
    else:
        yield name, json.dumps(value, sort_keys=True)


@pytest.mark.parametrize(("folder", "task"), TABLES)
@pytest.mark.parametrize("budget", ["steps", "flops"])
def test_the_published_tables_share_what_they_say(folder, task, budget):
    everything = [json.loads(path.read_text()) for path in sorted((DOCS / folder).glob(f"{task}-*.json"))]
    records = [record for record in everything if record["budget"] in (budget, "both")]
    rows = make_rows(records)
    check_equal(rows)
    shared, (sentence, lines) = list_shared_parts(rows), describe_sharing(rows)
    for part in shared:
        assert f"`{part}`" in sentence
        if part == "metric":
            objectives = [record["config"]["objective"] for record in records if "objective" in record["config"]]
            kinds = {(objective.get("metric") or {}).get("kind") for objective in objectives}
            assert len(kinds) <= 1
            continue
        values: dict[str, set[str]] = {}
        for record in records:
            for key, value in list_leaves(record["config"].get(part, {}), part):
                is_cost = key.startswith("planner.cost") and record["objective"] == "oracle"
                if not is_cost and not any(key == name or key.startswith(f"{name}.") for name in APART):
                    values.setdefault(key, set()).add(value)
        differ = {key: found for key, found in values.items() if len(found) > 1}
        assert not differ, f"{part} is said to be shared"
    assert set(EQUAL) <= set(shared)
    told = {line.partition("`: ")[0].strip("`").partition(".")[0] for line in lines}
    known = {part for record in records for part in record["config"]} | {"metric"}
    assert told == known & set(PARTS) - set(shared)


def test_a_key_in_which_one_row_differs_is_told_with_its_value_and_its_row():
    words = ("small.lewm=['dynamics.history=2','pretrain.lr=0.1']",)
    others = [make_record(name) for name in ("future", "pldm", "nepa")]
    sentence, lines = describe_sharing(make_rows([*others, make_record("lewm", words=words)]))
    assert "`dynamics`" not in sentence and "`pretrain`" not in sentence and "`posttrain`" in sentence
    assert "`dynamics.history`: 2 in `lewm`, 3 in all others" in lines
    assert any(line.startswith("`pretrain.lr`: ") and "0.1 in `lewm`" in line for line in lines)


def test_the_oracle_differs_in_nothing_that_it_lacks():
    sentence, lines = describe_sharing(make_rows([make_record("oracle"), make_record("future")]))
    assert not lines and "`encoder`" in sentence and "`planner`" in sentence
