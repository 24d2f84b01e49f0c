"""Cells of a table: which record belongs to which, and which budgets a cell serves."""

from __future__ import annotations

from commands.comparison.cells import make_cells
from commands.config.compose import load_config
from commands.shared.runs import write_json


def make_oracle(*words):
    return make_cells(load_config("compare", ["objectives=[oracle]", *words]))[0]


def write_record(cell, folder):
    write_json(folder / f"{cell.name}.json", {"config": cell.config})


def test_the_oracle_is_found_under_budgets_of_equal_arithmetic(tmp_path):
    cell = make_oracle("budgets=[total]")
    assert cell.find_record(tmp_path) is None
    write_record(cell, tmp_path)
    assert cell.find_record(tmp_path) is not None


def test_an_oracle_of_another_model_step_is_another_cell(tmp_path):
    own, longer = make_oracle(), make_oracle("dynamics.frame_skip=5")
    assert own.name != longer.name and "dynamics" not in own.config
    write_record(own, tmp_path)
    assert longer.find_record(tmp_path) is None and own.find_record(tmp_path) is not None
    write_record(longer, tmp_path)
    assert longer.find_record(tmp_path).stem == longer.name


def test_a_tuned_row_has_trials_for_each_budget():
    words = ("objectives=[future,lewm]", "budgets=[steps,flops]")
    budgets = [cell.budget for cell in make_cells(load_config("compare", list(words)))]
    assert budgets[0] == "both", "the first row sets the budget"
    tuned = [cell.budget for cell in make_cells(load_config("compare", [*words, "trials=2"]))]
    assert tuned == ["steps", "flops"] * 2
