"""Rows of policies: learned on the model of their own pipeline, and compared beside searches."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from torch import nn

from commands import compare
from commands.cli.main import main
from commands.comparison.budgets import count_training_flops, fit_steps
from commands.comparison.cells import make_cells
from commands.comparison.phases import name_shared_model
from commands.comparison.table_keys import make_cell_keys
from commands.config.compose import load_config
from commands.shared.errors import UsageError
from commands.training.cloning import PolicyTraining, make_random_policy
from commands.training.policy_folders import check_policy
from commands.training.posttraining import make_dynamics
from world_model.training.gcivl import GcivlConfig
from world_model.training.loop import TrainerConfig, make_optimizer, train_step

POLICIES = ("cloning", "inverse", "gcivl", "search_from_inverse", "search_from_segments")
SMALL = (
    *("data=debug", "data.episodes=10", "data.frames=31", "encoder=tiny", "pretrain.batch_size=2"),
    *("posttrain.batch_size=2", "budgets=[steps]", "metric=null"),
)


def make_keys(name):
    return make_cell_keys(load_config("compare", SMALL), name, 0)


def test_all_policies_act_on_one_model_and_say_what_they_do_with_it():
    table = load_config("compare", [*SMALL, f"objectives=[{','.join(POLICIES)}]"])
    cells = {cell.objective: cell for cell in make_cells(table)}
    assert len({name_shared_model(cell) for cell in cells.values()}) == 1
    assert [name for name in POLICIES if cells[name].keys.planner.name == "direct"] == list(POLICIES[:3])
    assert {cells[name].keys.planner.proposal.source for name in POLICIES} == {"own", "retrieval"}
    assert [name for name in POLICIES if cells[name].keys.clone is None] == ["search_from_segments"]


def test_the_rows_have_the_settings_of_jepa_clone():
    given = {
        "cloning": load_config("clone", ["model=m", "data=d", "policy.steps_left=false"]),
        "inverse": load_config("clone", ["model=m", "data=d"]),
        "gcivl": load_config("clone", ["model=m", "data=d", "method=gcivl"]),
    }
    watched = {"evaluate_every": 200, "checkpoint_every": 200}  # change no number
    for name, alone in given.items():
        row = make_keys(name).clone
        assert (row.method, row.policy, row.source) == (alone.method, alone.policy, alone.source), name
        assert replace(row.trainer, **watched) == replace(alone.trainer, **watched), name


def test_a_policy_costs_its_layers_forward_and_twice_back_but_for_its_inputs():
    keys = make_keys("cloning")
    policy, trainer = keys.clone.policy, keys.clone.trainer
    made = make_random_policy(keys.clone, make_dynamics(keys.encoder, keys.dynamics, keys.env.name))[0].policy
    layers = [module.weight for module in made.layers if isinstance(module, nn.Linear)]
    assert len(layers) == policy.depth + 1
    products = [weight.numel() for weight in layers]
    step = trainer.batch_size * 2 * (3 * sum(products) - products[0])
    flops = count_training_flops(keys)
    assert flops.clone == pytest.approx(trainer.steps * step)
    assert flops.total == pytest.approx(count_training_flops(make_keys("future")).total + flops.clone)


def test_equal_arithmetic_of_all_stages_takes_the_policys_from_stage_1():
    limit, keys = count_training_flops(make_keys("future")), make_keys("gcivl")
    own = count_training_flops(keys)
    longer = replace(limit, pretrain=limit.pretrain + own.clone - 10 * own.step)
    assert fit_steps(keys, "total", longer).pretrain.steps == keys.pretrain.steps - 10
    assert fit_steps(keys, "flops", limit).pretrain.steps == keys.pretrain.steps
    with pytest.raises(UsageError, match=r"budgets=\[total\]: -.* TFLOP are left for stage 1, and one step takes"):
        fit_steps(keys, "total", limit)


def test_a_policy_acts_alike_under_every_effort_and_none_is_scaled_to_it():
    efforts = (*SMALL, "efforts=[candidates,flops]")
    table = load_config("compare", [*efforts, "objectives=[oracle,future,cloning,search_from_inverse]"])
    compare.check(table)
    assert [(cell.objective, cell.effort) for cell in make_cells(table)] == [
        *(("oracle", "all"), ("future", "all"), ("cloning", "all")),
        *(("search_from_inverse", "candidates"), ("search_from_inverse", "flops")),
    ]
    with pytest.raises(UsageError, match="scales planner.samples, which planner=direct does not have"):
        compare.check(load_config("compare", [*efforts, "objectives=[oracle,cloning,future]"]))


@pytest.mark.parametrize("source", ["features", "pixels"])
@pytest.mark.parametrize("method", ["cloning", "gcivl"])
def test_operations_are_counted_on_a_batch_that_can_be_trained_on(source, method):
    keys, given = make_keys("future"), {"trainer": TrainerConfig(steps=1, batch_size=2), "source": source}
    policy = {"steps_left": method == "cloning"}
    training = replace(PolicyTraining(**given), policy=replace(PolicyTraining().policy, **policy))
    if method == "gcivl":
        training = replace(training, method=GcivlConfig(width=8))
    model, batch = make_random_policy(training, make_dynamics(keys.encoder, keys.dynamics, keys.env.name))
    loss = train_step(model, batch, make_optimizer(model, training.trainer), training.trainer, 0)
    assert loss is not None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["planner.proposal.source=own"], "planner.proposal.source=own is the policy of clone, and clone is null"),
        (["planner.value=own"], "planner.value=own is the policy of clone, and clone is null"),
        (["planner.value=runs/clone/x"], "planner.value=runs/clone/x holds a policy for another model"),
        (["planner.proposal.source=runs/clone/x"], "source=runs/clone/x holds a policy for another model"),
        (["clone={}"], "clone trains a policy that the planner does not use: give planner.proposal.source=own"),
        (
            ["clone={}", "planner.value=own"],
            "planner.value=own needs a value of features: give clone.method.name=",
        ),
        (
            ["clone={policy: {blocks: 2}}", "planner.proposal.source=own"],
            "planner.horizon=6 is longer than what the policy proposes, clone.policy.blocks=2",
        ),
        (
            ["clone={}", "planner.proposal.source=own", "objective=dreamerv3", "planner.cost.view=pixels"],
            "clone trains a policy on the model of stage 2, which objective.family=rssm does not have",
        ),
        (["clone={method: {name: gcivl}}", "planner.proposal.source=own"], "policy.steps_left=true: method=gcivl"),
    ],
)
def test_a_policy_without_a_model_or_a_use_is_refused(words, message):
    with pytest.raises((UsageError, ValueError)) as error:
        load_config("demo", [*words, "env=reacher"]).check()
    assert message in str(error.value)


@pytest.mark.parametrize("key", ["planner.proposal.source", "planner.value"])
def test_a_policy_of_a_whole_pipeline_is_refused_where_there_is_none(key):
    with pytest.raises(UsageError, match=f"{key}=own is the policy that jepa demo and jepa compare train"):
        check_policy("own", key)


TINY = (
    *(
        "env=reacher",
        "data=debug",
        "data.episodes=8",
        "data.frames=31",
        "workers=1",
        "encoder=tiny",
        "trainer@pretrain=debug",
    ),
    *(
        "trainer@posttrain=debug",
        "pretrain.steps=2",
        "posttrain.steps=2",
        "planner.samples=8",
        "planner.iterations=1",
        "planner.elites=2",
    ),
    *("protocol.episodes=2", "protocol.budget=4", "videos=0", "metric=null"),
)


@pytest.mark.slow
def test_policies_are_rows_of_a_table_and_are_found_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    direct, few = "'planner={name: direct, proposal: {source: own}}'", "trainer: {steps: 2, batch_size: 4}"
    arms = {
        "cloning": f"{direct},'clone={{policy: {{steps_left: false}}, {few}}}'",
        "gcivl": f"{direct},'clone={{method: {{name: gcivl}}, policy: {{steps_left: false}}, {few}}}'",
        "search_from_inverse": f"'planner.proposal.source=own','clone={{{few}}}'",
    }
    policies = [f"arms.{name}=['objective=future',{words}]" for name, words in arms.items()]
    rows = ("objectives=[oracle,future,cloning,gcivl,search_from_inverse]", "budgets=[steps]", "published=null")
    words = ["compare", *TINY[:-2], *rows, "metric=null", *policies, "cells=cells", "name=table"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert out.count("posttrain: trained by") == 2, "policies share one model"
    records = {record["objective"]: record for record in map(read, (tmp_path / "cells").glob("*.json"))}
    assert {name for name, record in records.items() if "clone" in record} == {
        "cloning",
        "gcivl",
        "search_from_inverse",
    }
    assert records["gcivl"]["clone"]["value_rank"] is not None
    assert {name for name, record in records.items() if "rank_reach" in record} == {"future", "search_from_inverse"}
    plans = {name: record["planning"]["flops"] for name, record in records.items() if "planning" in record}
    assert plans["cloning"] < plans["future"] < plans["search_from_inverse"], "a policy searches nothing"
    assert records["gcivl"]["flops"]["total"] > records["future"]["flops"]["total"]
    page = (tmp_path / "cells/reacher.md").read_text()
    assert "of the policy |" in page and "`planner.name`: direct in `cloning`, `gcivl`, cem in all others" in page
    assert "- `clone.method.name`: gcivl in `gcivl`, cloning in" in page and "both stages of the model that is" in page
    assert (
        main([*words, "table_only=true", "name=again"]) == 0 and "5 of them finished before" in capsys.readouterr().out
    )


@pytest.mark.slow
def test_the_demo_acts_by_a_policy(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    policy = ("planner=direct", "planner.proposal.source=own", "clone={trainer: {steps: 2, batch_size: 4}}")
    words = [word for word in TINY if not word.startswith(("planner.", "metric"))]
    assert main(["demo", *words, "objective.metric=null", *policy, "name=demo"]) == 0
    assert "clone: error of the recorded actions" in capsys.readouterr().out
    assert (tmp_path / "runs/demo/demo/clone/model").is_dir()


def read(path):
    return json.loads(path.read_text())
