"""Equal efforts of planning: how many candidates they give, which cells they make, and what the page says."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from commands.cli.main import main
from commands.compare import add_time
from commands.comparison.cells import make_cells
from commands.comparison.efforts import count_plan, equalise_flops, equalise_time, read_samples, set_samples
from commands.comparison.table_keys import make_cell_keys
from commands.config.compose import load_config
from commands.shared.errors import RunError, UsageError
from commands.shared.runs import write_json
from commands.tables.law import list_points
from commands.tables.rows import CANDIDATES
from commands.tables.task_page import format_task_page
from tests.commands.tables.made_records import make_record
from tests.commands.tables.test_task_page import find_row

SMOKE = load_config("compare", ["suite=smoke", "planner.samples=32", "objectives=[oracle,F-F,P-F]"])


def test_a_plan_of_equal_operations_costs_what_one_of_the_first_row_does():
    table = replace(SMOKE, planner=replace(SMOKE.planner, samples=96, elites=12))
    first, other = (make_cell_keys(table, name, 0) for name in ("F-F", "P-F"))
    limit, more = count_plan(first), count_plan(other)
    assert more > 1.2 * limit, "it also encodes the pixels that it imagines"
    equal = equalise_flops(other, limit)
    assert 4 < equal.planner.samples < 96 and abs(count_plan(equal) - limit) < 0.1 * limit
    assert equal.planner.elites == max(2, round(equal.planner.samples / 8))
    assert equalise_flops(first, limit) == first
    least = equalise_flops(other, 0.0).planner
    assert (least.samples, least.elites, least.keep_elites) == (4, 2, 1)


def test_candidates_of_a_policy_and_refined_ones_shrink_with_the_others():
    mppi = load_config("compare", ["planner=mppi_tdmpc2", "objectives=[tdmpc2]"])
    planner = set_samples(make_cell_keys(mppi, "tdmpc2", 0), 20).planner
    assert (planner.samples, planner.elites, planner.prior_samples) == (20, 2, 1)
    assert set_samples(make_cell_keys(mppi, "tdmpc2", 0), 2).planner.prior_samples <= 2
    keys = make_cell_keys(load_config("compare", ["planner=cem_gradient"]), "future", 0)
    few = set_samples(keys, 4).planner
    assert 1 <= few.refined <= 4 and few.refined < keys.planner.refined


def test_equal_time_is_in_proportion_to_the_measured_plans():
    keys = make_cell_keys(SMOKE, "P-F", 0)
    assert equalise_time(keys, own_ms=40.0, limit_ms=20.0).planner.samples == 16


def test_the_first_row_and_the_oracle_are_one_cell_under_every_effort(monkeypatch):
    monkeypatch.setattr("commands.comparison.efforts.count_plan", lambda keys: keys.planner.samples * 1e6)
    monkeypatch.setattr("commands.comparison.efforts.equalise_flops", lambda keys, limit: equalise_time(keys, 2, 1))
    cells = make_cells(replace(SMOKE, efforts=["candidates", "flops", "time"]))
    assert [(cell.objective, cell.effort, cell.keys.planner.samples) for cell in cells] == [
        ("oracle", "all", 32),
        ("F-F", "all", 32),
        ("P-F", "candidates", 32),
        ("P-F", "flops", 16),
        ("P-F", "time", 32),
    ]
    assert len({cell.name for cell in cells}) == 5
    assert [cell.name for cell in make_cells(SMOKE)] == [cell.name for cell in cells[:3]], "as without other efforts"


def test_candidates_of_equal_time_follow_from_finished_cells(tmp_path):
    cells = make_cells(replace(SMOKE, efforts=["candidates", "time"]))
    _, first, base, timed = cells

    def finish(cell, ms, **more):
        planning = {"ms_p50": ms, "environments": 2}
        write_json(tmp_path / f"{cell.name}.json", {"config": cell.config, "planning": planning, **more})

    with pytest.raises(RunError, match=f"plan times of {base.name}, which has none"):
        add_time(timed, cells, [tmp_path])
    finish(first, 10.0)
    finish(base, 40.0)
    found = add_time(timed, cells, [tmp_path])
    assert found.keys.planner.samples == 8 and add_time(base, cells, [tmp_path]) == base
    assert timed.find_record(tmp_path) is None, "its base is another cell"
    finish(found, 11.0, effort="time")
    assert timed.find_record(tmp_path) == tmp_path / f"{found.name}.json"


def test_the_page_has_a_section_an_effort_and_one_row_of_what_is_the_same():
    few = ("planner.samples=16",)
    records = [
        make_record("oracle", rate=1.0, effort="all"),
        make_record("future", rate=0.5, effort="all"),
        make_record("lewm", rate=0.6, effort="candidates"),
        make_record("lewm", rate=0.2, effort="flops", words=few),
    ]
    text = format_task_page(records, ["steps"])
    assert "## Equal steps of stage 1, equal operations of a plan" in text and "equal wall time" not in text
    assert find_row(text, "`lewm`", "## Equal steps of stage 1\n")[5].startswith("60%")
    assert find_row(text, "`lewm`", "## Equal steps of stage 1, equal")[5].startswith("20%")
    assert find_row(text, "`future`", "## Equal steps of stage 1, equal")[5].startswith("50%")
    assert "`planner.samples`" in text
    assert "equal operations" not in format_task_page(records[:3], ["steps"])
    assert [point["success"] for point in list_points(records)] == pytest.approx([0.4 / 0.9, 0.5 / 0.9])


def test_seeds_of_equal_time_may_have_other_candidates():
    records = [make_record("lewm", seed, effort="time", words=(f"planner.samples={16 + seed}",)) for seed in (0, 1)]
    records += [make_record("future", seed, effort="all") for seed in (0, 1)]
    assert find_row(format_task_page(records, ["steps"]), "`lewm`")[1] == "0, 1"
    with pytest.raises(UsageError, match="planner.samples"):
        format_task_page([record | {"effort": CANDIDATES} for record in records], ["steps"])


def test_efforts_that_cannot_be_equal_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "suite=controlled", "efforts=[flops]"]) == 2
    assert "efforts=[flops] lacks candidates" in capsys.readouterr().err
    assert main(["compare", "suite=controlled", "efforts=[candidates,flop]"]) == 2
    assert "did you mean flops?" in capsys.readouterr().err
    keys = SimpleNamespace(planner=SimpleNamespace(name="module"))
    with pytest.raises(UsageError, match="scales planner.samples, which planner=module does not have"):
        read_samples(keys, "flops")
