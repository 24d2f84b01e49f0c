"""Tables of plans: equal candidates for every model, operations, what the simulator renders, and wrong words."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from commands.benchmarks.plan_cases import allow_steps, choose_parts, estimate_plan_flops, make_case
from commands.benchmarks.plan_tables import RENDERED, list_models, list_simulator_plans, set_sizes
from commands.cli.main import main
from commands.config.compose import load_config
from commands.shared.errors import UsageError
from commands.shared.flops import count_flops
from envs.goal_env import GoalEnv

CPU = torch.device("cpu")
DREAMER = ("objective=dreamerv3", "objective.deter=16", "objective.hidden=8", "objective.depth=2", "objective.draws=2")
DIAMOND = (
    "objective=diamond",
    "objective.widths=[8,8]",
    "objective.condition_dim=16",
    "objective.sampling_steps=1",
    "planner.cost.view=pixels",
)
TDMPC2 = ("objective=tdmpc2", "objective.channels=2", "objective.hidden=8", "planner.cost.reduce=return")


def define(name: str, *words: str) -> str:
    """The word that adds a model to the tables."""
    return f"models.{name}=[{','.join(repr(word) for word in words)}]"


SMALL = (
    "encoder=tiny",
    define("dreamer", *DREAMER, "planner.cost.view=state"),
    define("painter", *DREAMER, "planner.cost.view=pixels"),
    define("diffusion", *DIAMOND),
    define("rewards", *TDMPC2),
    define("patches", "dynamics=tokens", "planner.cost.view=tokens"),
)
ROWS = ("future", "patches", "pixels", "flow", "dreamer", "painter", "diffusion", "rewards")
FEW = ("candidates=4", "planner.elites=2", "steps=2", "seconds=0.001")


def load(*words: str):
    """Keys of `jepa bench plan` with small models."""
    return load_config("bench", ["what=plan", *SMALL, *words])


@pytest.mark.parametrize("name", ROWS)
def test_every_model_imagines_as_many_candidates_and_steps_in_a_plan(name, monkeypatch):
    keys = list_models(load("table=models", f"rows=[{name}]", *FEW, "iterations=3"))[name]
    case = make_case(keys, 1, CPU)
    seen, imagine = [], case.model.imagine

    def watch(context, actions, **given):
        seen.append(actions.shape[:3])
        return imagine(context, actions, **given)

    monkeypatch.setattr(case.model, "imagine", watch)
    plan = case.plan(0)
    assert plan.actions_BKA.shape[:2] == (1, 2) and torch.isfinite(plan.cost_B).all()
    assert sum(envs * samples * steps for envs, samples, steps in seen) == 4 * 2 * 3


@pytest.mark.parametrize("name", ROWS)
def test_operations_that_are_estimated_are_those_of_the_plan(name):
    keys = list_models(load("table=models", f"rows=[{name}]", *FEW, "iterations=2"))[name]
    case = make_case(keys, 1, CPU)
    assert estimate_plan_flops(case) == pytest.approx(count_flops(lambda: case.plan(0)), rel=0.01)


def test_a_table_has_its_own_sizes_where_none_are_given():
    sizes = [
        (p.samples, p.horizon, p.iterations)
        for p in (set_sizes(load(f"table={t}")).planner for t in ("models", "rendered"))
    ]
    assert sizes == [(300, 5, 1), (50, 20, 1)]
    given = set_sizes(load("table=rendered", "candidates=30", "steps=7", "iterations=2")).planner
    assert (given.samples, given.horizon, given.iterations) == (30, 7, 2)
    own = set_sizes(load("planner.samples=40", "planner.horizon=3", "planner.iterations=9")).planner
    assert (own.samples, own.horizon, own.iterations) == (40, 3, 9)


def test_models_can_be_planned_twenty_steps_ahead():
    diamond = allow_steps(load("objective=diamond"), 20).objective
    assert diamond.frames == diamond.context_frames + 20 == diamond.horizon + diamond.context_frames
    assert allow_steps(load("objective=diamond"), 3).objective.frames == 16, "it could before"
    assert (
        allow_steps(load(), 20).dynamics.horizon == 20
        and allow_steps(load("dynamics.horizon=30"), 20).dynamics.horizon == 30
    )


def test_a_choice_of_a_group_begins_at_its_own_values_and_single_keys_come_after():
    keys = load("dynamics.history=2", "planner.samples=33")
    found = choose_parts(keys, ["dynamics=vjepa2_ac", "dynamics.predictor.depth=3"], "models.x")
    assert (found.dynamics.outputs, found.dynamics.history) == ("normed", 3)
    assert (found.dynamics.predictor.depth, found.dynamics.predictor.width) == (3, 128)
    assert found.planner.samples == 33 and found.objective == keys.objective
    assert choose_parts(keys, [], "models.x") == keys
    for word, said in (("objective=dreamer", "objective=dreamer"), ("dynamics.depth=3", "depth")):
        with pytest.raises(UsageError, match=rf"models\.x: .*{said}"):
            choose_parts(keys, [word], "models.x")


def test_keys_of_the_planner_that_a_model_cannot_follow_are_left_out_for_it():
    rows = list_models(
        load("table=models", "rows=[future,flow,diffusion,dreamer]", "planner.compile=true", "planner.flow_steps=2")
    )
    assert {name: keys.planner.compile for name, keys in rows.items()} == {
        "future": True, "flow": True, "diffusion": False, "dreamer": False,
    }  # fmt: skip
    assert {name: keys.planner.flow_steps for name, keys in rows.items()} == {
        "future": None, "flow": 2, "diffusion": 2, "dreamer": None,
    }  # fmt: skip


def test_one_run_prints_a_row_a_model_and_states_what_takes_too_long(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("commands.benchmarks.plan_tables.measure_peak_flops", lambda *given: 1e9)
    words = (*SMALL, "table=models", "rows=[future,dreamer,rewards,diffusion]", *FEW, "longest=0.5")
    assert main(["bench", "plan", *words, "name=t"]) == 0
    rows = json.loads((tmp_path / "runs/bench/t/bench.json").read_text())
    whats = ["future, by pooled", "dreamer, by state", "rewards, by return", "diffusion, by pixels"]
    assert [row["what"] for row in rows] == whats
    assert [row["timed"] for row in rows] == [True, True, True, False] and rows[0]["ratio"] == 1.0
    assert all(row["value"] > 0 and row["flops"] > 0 and row["parameters"] > 0 for row in rows)
    assert rows[-1]["value"] == pytest.approx(rows[-1]["flops"] / 1e9) and rows[-1]["unit"] == "s a plan, at least"
    said = capsys.readouterr().out
    assert "one environment of reacher, 64x64 px, 4 candidates x 2 steps, 1 iteration of cem" in said
    assert "not timed" in said


def test_a_plan_in_the_simulator_renders_every_step_of_every_candidate_and_only_where_pictures_are_compared(
    monkeypatch,
):
    keys = set_sizes(load("table=rendered", "rows=[future]", *FEW))
    cases = {name: make_case(row, 1, CPU) for name, row in list_models(keys).items()}
    plans = list_simulator_plans(keys, cases, CPU)
    rendered: list[int] = []
    render = GoalEnv.render_state
    monkeypatch.setattr(GoalEnv, "render_state", lambda env, state: rendered.append(1) or render(env, state))
    pictures = {}
    for name, plan in plans.items():
        rendered.clear()
        found = plan(0)
        pictures[name] = len(rendered)
        assert found.actions_BKA.shape[:2] == (1, 2) and torch.isfinite(found.cost_B).all()
    assert pictures == {"simulator, true state": 0, RENDERED: 4 * 2, "simulator, rendered and encoded": 4 * 2}


def test_the_rendered_table_compares_with_the_rendered_simulator(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "plan", *SMALL, "table=rendered", "rows=[future]", *FEW, "name=r"]) == 0
    rows = {row["what"]: row for row in json.loads((tmp_path / "runs/bench/r/bench.json").read_text())}
    simulated = ["simulator, true state", RENDERED, "simulator, rendered and encoded"]
    assert list(rows) == [*simulated, "future, by pooled"]
    assert rows[RENDERED]["ratio"] == 1.0 and all(row["ratio"] > 0 for row in rows.values())


def test_without_an_encoder_the_simulators_pictures_are_not_encoded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "plan", *SMALL, "table=rendered", "rows=[dreamer]", *FEW, "name=r"]) == 0
    rows = json.loads((tmp_path / "runs/bench/r/bench.json").read_text())
    assert [row["what"] for row in rows] == ["simulator, true state", RENDERED, "dreamer, by state"]


@pytest.mark.parametrize(
    "words",
    [
        TDMPC2,
        (*DREAMER, "planner.cost.view=pooled"),
        (*DREAMER, "planner.cost.view=pixels", "environments=1"),
    ],
)
def test_a_world_model_of_one_stage_is_measured_alone(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert (
        main(
            [
                "bench",
                "plan",
                *words,
                *FEW[1:2],
                "planner.samples=2",
                "planner.iterations=1",
                "environments=2",
                "seconds=0.001",
                "name=o",
            ]
        )
        == 0
    )
    said = capsys.readouterr().out
    assert "world model of one stage" in said and "ms an environment" in said
    assert "2 environments together" in said


def test_all_measurements_leave_out_stage_2_of_a_model_that_has_none():
    from commands.bench import list_benches

    assert list_benches(replace(load(), what="all")) == ["render", "load", "pretrain", "posttrain", "plan", "rollout"]
    assert list_benches(load_config("bench", ["objective=diamond"])) == [
        "render",
        "load",
        "pretrain",
        "plan",
        "rollout",
    ]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("plan", "table=models", "rows=[futur]"), "rows: futur is no model of this table; did you mean future?"),
        (("plan", "table=models", "rows=[]"), "rows=[] leaves no model"),
        (("plan", "table=models", define("x", "objective=dreamer"), "rows=[x]"), "models.x: objective=dreamer"),
        (("plan", "table=models", define("x", "dynamics.depth=1"), "rows=[x]"), "models.x: "),
        (("plan", "table=models", "candidates=4"), "planner elites is 12"),
        (("plan", "table=rendered", "planner=gradient"), "give planner=cem or another that draws candidates"),
        (("plan", "table=models", "versus=torch_world"), "are two measurements: give one of them"),
        (("render", "table=models"), "what=render: table=models is for jepa bench plan"),
        (("all", "versus=torch_world"), "what=all: versus=torch_world is for jepa bench plan"),
        (("posttrain", "objective=diamond"), "objective.family=diamond has no stage 2"),
        (("plan", "table=pixels"), "table=pixels"),
        (("plan", "objective=diamond"), "give planner.cost.view=pixels"),
        (("plan", "table=models", "rows=[future]", "longest=1e-9"), "longest=1e-09 leaves no plan to time"),
    ],
)  # fmt: skip
def test_wrong_words_are_refused(words, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", *words, "encoder=tiny", "seconds=0.001", "name=w"]) in (1, 2)
    assert says in capsys.readouterr().err
