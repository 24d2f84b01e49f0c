"""The true simulator planned with the cost of a method: which cells measure it, and how a table shows it."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest

from commands.cli.main import main
from commands.comparison.cells import Cell
from commands.comparison.table_keys import make_cell_keys
from commands.config.compose import load_config
from commands.shared.runs import write_json
from commands.tables.task_page import format_task_page
from commands.tables.tidy import format_episodes_csv
from tests.commands.tables.made_records import add_outcomes, make_record
from tests.commands.tables.test_task_page import find_row

WORDS = ("protocol.oracle_cost.episodes=4",)


def make_crossed(objective, plan, oracle_cost):
    """A record of an arm whose method, and the true simulator with its cost, took so many steps to success."""
    record = make_record("future", words=WORDS) | {"objective": objective}
    made = add_outcomes(record, plan=plan, random=[None] * len(plan))
    few = add_outcomes(record, oracle_cost=oracle_cost)
    made["outcomes"]["oracle_cost"] = few["outcomes"]["oracle_cost"]
    return made | {"oracle_cost": few["oracle_cost"]}


def test_the_true_simulator_with_a_cost_is_a_row_of_its_own_and_is_compared_on_the_goals_of_both():
    records = [
        make_crossed("P-P", plan=[None] * 4 + [3] * 8, oracle_cost=[5, 6, 7, 8]),
        make_crossed("F-F", plan=[4] * 12, oracle_cost=[5, None, 7, 8]),
        make_record("oracle", rate=1.0),
    ]
    text = format_task_page(records, ["steps"], main="P-P")
    row = find_row(text, "`O-P`: true simulator, cost of `P-P`")
    assert row[1:5] == ["0", "4", "–", ""] and row[5].startswith("100% (")
    assert find_row(text, "`O-F`: true simulator, cost of `F-F`")[5].startswith("75% (")
    apart = find_row(text, "`O-P`: true simulator, cost of `P-P`", "### Cost and dynamics apart")
    assert apart[1] == "4" and apart[2].startswith("100% (") and apart[3].startswith("0% (")  # of its first four goals
    assert apart[4].startswith("+100 (") and apart[5] == "better (one seed)"
    assert find_row(text, "`O-F`: true simulator, cost of `F-F`", "### Cost and dynamics apart")[5] == (
        "no difference shown"
    )
    assert "48 candidates, 3 iterations" in text
    assert "true simulator" not in text.partition("### Differences")[2].partition("###")[0]
    lines = list(csv.DictReader(format_episodes_csv(records).splitlines()))
    assert [line["part"] for line in lines if line["objective"] == "P-P"].count("oracle_cost") == 4


def test_a_method_that_is_no_crossed_arm_is_named_alone():
    record = make_crossed("P-P", [3] * 4, [3]) | {"objective": "future"}
    assert find_row(format_task_page([record], ["steps"]), "true simulator, cost of `future`")[2] == "1"


def test_the_suite_plans_in_the_simulator_with_the_costs_it_names_alone():
    table = load_config("compare", ["suite=controlled"])
    episodes = {
        name: make_cell_keys(table, name, 0).protocol.oracle_cost.episodes for name in ("oracle", "F-F", "P-P", "F-P")
    }
    assert episodes["F-F"] == episodes["P-P"] > 0 and episodes["oracle"] == episodes["F-P"] == 0
    everyone = replace(table, oracle_costs=None)
    assert make_cell_keys(everyone, "F-P", 0).protocol.oracle_cost.episodes > 0
    assert make_cell_keys(replace(table, oracle_costs=[]), "F-F", 0).protocol.oracle_cost.episodes == 0


@pytest.mark.parametrize(("measured", "asked", "found"), [(4, 0, True), (0, 4, False), (4, 4, True), (4, 8, False)])
def test_a_cell_with_this_measurement_also_serves_a_table_without(measured, asked, found, tmp_path):
    def make_cell(episodes):
        keys = make_cell_keys(load_config("compare", [f"protocol.oracle_cost.episodes={episodes}"]), "future", 0)
        return Cell("future", "steps", 0, keys)

    write_json(tmp_path / f"{make_cell(measured).name}.json", {"config": make_cell(measured).config})
    assert (make_cell(asked).find_record(tmp_path) is not None) == found


def test_a_method_that_the_table_lacks_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "suite=controlled", "oracle_costs=[F-G]"]) == 2
    assert "oracle_costs: F-G is no method of this table; did you mean F-" in capsys.readouterr().err
