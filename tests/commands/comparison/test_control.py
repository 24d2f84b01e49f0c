"""Arms, methods of a table's own, and what a controlled table refuses before it trains."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from commands import compare
from commands.cli.main import main
from commands.comparison.cells import make_cells
from commands.comparison.control import count_parameters
from commands.comparison.phases import name_shared_model, name_shared_training
from commands.comparison.table_keys import make_cell_keys, make_search_space
from commands.config.compose import load_config
from commands.shared.errors import UsageError
from world_model.objectives.masked import FeatureTargets, PixelTargets

CONTROLLED = load_config("compare", ["suite=controlled"])
ARMS = ("F-F", "P-P", "P-F", "F-P", "F+R", "V-V", "R", "G-F", "G-P")


def test_arms_cross_the_target_of_training_with_the_cost_of_planning():
    keys = {name: make_cell_keys(CONTROLLED, name, 0) for name in ARMS}
    for name, each in keys.items():
        predicts_pixels = name.startswith("P") or name == "G-P"
        assert (each.dynamics.flow is not None) == name.startswith("G"), name
        if name != "V-V":
            assert type(each.objective.targets) is (PixelTargets if predicts_pixels else FeatureTargets), name
        assert (each.dynamics.pixels is not None) == predicts_pixels, name
        assert each.planner.cost.view == ("pixels" if name.endswith("-P") else "tokens"), name
        assert each.objective.metric is None and getattr(each.objective, "reconstruction", 0) == (name == "F+R"), name
    assert [name for name, each in keys.items() if each.pretrain.steps == 0] == ["R"]


def test_arms_that_plan_with_the_same_model_train_it_once():
    cells = {cell.objective: cell for cell in make_cells(load_config("compare", ["suite=smoke"]))}
    assert all(cells[name].is_arm for name in ARMS) and not cells["oracle"].is_arm
    models = {name: name_shared_model(cells[name]) for name in ARMS}
    assert models["F-F"] == models["F-P"] and models["P-P"] == models["P-F"]
    assert len(set(models.values())) == 7
    trainings = {name: name_shared_training(cells[name]) for name in ARMS}
    assert trainings["F-F"] == trainings["F-P"] != trainings["R"]
    assert len({cell.name for cell in cells.values()}) == 10, "each is a cell of its own"
    assert trainings["G-F"] == trainings["F-F"] and trainings["G-P"] == trainings["P-P"]


def test_an_arm_is_tuned_in_the_space_of_its_objective_unless_it_has_its_own():
    assert make_search_space(CONTROLLED, "P-F") == make_search_space(CONTROLLED, "videomae") != {}
    own = replace(CONTROLLED, search={**CONTROLLED.search, "P-F": {"pretrain.lr": {"log": [1e-4, 1e-3]}}})
    assert list(make_search_space(own, "P-F")) == ["pretrain.lr"]


def test_the_arms_of_the_suite_are_of_one_size():
    sizes = {name: count_parameters(make_cell_keys(CONTROLLED, name, 0)) for name in ARMS}
    assert len({each["encoder"] for each in sizes.values()}) == 1
    smallest, largest = (pick(each["dynamics"] for each in sizes.values()) for pick in (min, max))
    assert smallest < largest < 1.05 * smallest, "a head of pixels or of samples, and nothing else"
    assert all(sizes[name]["dynamics"] > smallest for name in ("P-P", "G-F", "G-P")), "heads are counted"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["arms.P-P=['dynamics.predictor.depth=3']"], "arms.P-P names no objective: give objective=NAME"),
        (["objectives=[oracle,F-G]"], "objectives: F-G is none"),
        (["arms.P-P=['objective=videomae','encoder.depth=3']"], "P-P differs from F-F in encoder.depth=3 for 4"),
        (["arms.F-P=['objective=vjepa2','pretrain.lr=0.1']"], "F-P differs from F-F in pretrain.lr=0.1 for 0.0005"),
        (
            ["arms.F-P=['objective=vjepa2','dynamics.predictor.width=160']", "may_differ=null"],
            "more than same_size=0.05 apart: change the sizes under arms.F-P",
        ),
        (["suite=control"], "did you mean controlled"),
        (["planner.flow_steps=2"], "planner.flow_steps=2 is for a model with dynamics.flow, and dynamics.flow is null"),
        (["arms.future=['objective=vjepa2']"], "arms.future: a method of this name is there already"),
        (["+arms={a/b: ['objective=vjepa2']}"], "arms.a/b: files are named by it"),
    ],
)
def test_what_is_not_equal_is_refused_by_key_or_by_count(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "suite=controlled", *words]) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_controlled_table_of_the_oracle_alone_has_nothing_to_compare():
    compare.check(load_config("compare", ["suite=controlled", "objectives=[oracle]"]))


def test_without_limits_methods_may_differ_in_anything():
    words = ["arms.F-P=['objective=vjepa2','dynamics.predictor.width=160']", "may_differ=null", "same_size=null"]
    compare.check(load_config("compare", ["suite=controlled", *words]))
    with pytest.raises(UsageError, match="F-P has"):
        compare.check(load_config("compare", ["suite=controlled", *words[:2]]))


def test_arms_of_other_euler_steps_share_one_model():
    words = ["suite=controlled", "arms.G-F1=['objective=vjepa2',*]", "objectives=[F-F,G-F,G-F1]", "budgets=[steps]"]
    flow = "'dynamics.flow={width: 80, depth: 2, steps: 4}','dynamics.losses.loss=l2','planner.flow_steps=1'"
    words[1] = words[1].replace("*", flow)
    table = load_config("compare", words)
    compare.check(table)
    cells = {cell.objective: cell for cell in make_cells(table)}
    assert name_shared_model(cells["G-F"]) == name_shared_model(cells["G-F1"]) != name_shared_model(cells["F-F"])
    assert cells["G-F1"].keys.planner.flow_steps == 1 and cells["G-F"].keys.planner.flow_steps is None


@pytest.mark.slow
def test_every_arm_runs_for_a_few_steps(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "suite=smoke", "name=smoke", "cells=cells"]) == 0
    out = capsys.readouterr().out
    records = {
        record["objective"]: record
        for record in map(json.loads, (p.read_text() for p in tmp_path.glob("cells/*.json")))
    }
    assert records.keys() == {"oracle", *ARMS}
    assert out.count("posttrain: trained by") == 2, "of two arms each with one model"
    assert all(records[name]["flops"]["posttrain"] > records["F-F"]["flops"]["posttrain"] for name in ("G-F", "G-P"))
    for one, other in (("F-F", "F-P"), ("P-P", "P-F")):
        assert records[one]["posttrain"] == records[other]["posttrain"]
    page = (tmp_path / "cells/reacher.md").read_text()
    assert "`planner.cost.view`: pixels in `P-P`, `F-P`, `G-P`, tokens in all others" in page
    assert {name for name, record in records.items() if "oracle_cost" in record} == {"F-F", "P-P"}
    assert all(f"| `O-{arm[-1]}`: true simulator, cost of `{arm}` |" in page for arm in ("F-F", "P-P"))
    assert all(len(records[arm]["open_loop"]["predicted"]) > 1 and records[arm]["planning"]["flops"] for arm in ARMS)
    figures = ("reacher_success", "reacher_open_loop", "reacher_rank_reach")
    assert all(f"]({name}.png)" in page and (tmp_path / f"cells/{name}.png").exists() for name in figures)
    run = tmp_path / "runs/compare/smoke"
    assert len(list(run.glob("imagined/*.npz"))) == len(ARMS) and (run / "imagined/reacher.png").exists()
    assert [path.suffix for path in run.glob("imagined/reacher.*") if path.suffix in (".mp4", ".gif")]
    report = (run / "report.html").read_text()
    assert "What the models imagine" in report and report.count("data:image/png") >= 4
    assert not list(run.glob("stage*"))
