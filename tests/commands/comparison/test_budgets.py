"""The arithmetic of a row's training, and the steps that a budget allows."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from commands.comparison.budgets import count_training_flops, fit_steps
from commands.comparison.cells import make_cells
from commands.comparison.table_keys import make_cell_keys
from commands.config.compose import load_config
from world_model.nn.flow import TIMES

SMALL = ("encoder=tiny", "pretrain.batch_size=2", "posttrain.batch_size=2", "data.episodes=10", "data.frames=11")


@cache
def make_keys(name, *words):
    return make_cell_keys(load_config("compare", [*SMALL, *words]), name, 0)


def test_stage_2_is_its_steps_and_every_frame_encoded_once():
    """By differences: one step more, one episode more; a frame's encoding by hand, for an encoder of one linear map."""
    keys = make_keys("future", "metric=null")
    whole = count_training_flops(keys).posttrain
    longer = replace(keys, posttrain=replace(keys.posttrain, steps=2 * keys.posttrain.steps))
    more = replace(keys, data=replace(keys.data, episodes=20))
    frames = count_training_flops(more).posttrain - whole
    assert count_training_flops(longer).posttrain == pytest.approx(2 * whole - frames)
    sizes = keys.encoder
    width, tokens, hidden = sizes.width, sizes.num_patches, round(sizes.mlp_ratio * sizes.width)
    embed = 2 * tokens * 3 * sizes.patch_px**2 * width
    block = tokens * (8 * width**2 + 4 * tokens * width + 4 * width * hidden)
    pool = sizes.pool
    head = 2 * tokens * width * pool.channels + 2 * tokens * pool.channels * pool.hidden + 2 * pool.hidden * pool.dim
    assert frames / (10 * 11) == pytest.approx(embed + sizes.depth * block + head)


@pytest.mark.parametrize("target", ["features", "pixels"])
def test_a_flow_costs_its_euler_steps_in_training_too(target):
    """A rollout of two steps draws one sample a window: its further Euler steps, and no other operation, differ."""
    words = ["dynamics=tokens", "dynamics.losses.loss=l2", "metric=null"]
    words += ["dynamics.pixels={channels: null}"] if target == "pixels" else []
    made = [make_keys("vjepa2", *words, f"dynamics.flow={{steps: {steps}, width: 8, depth: 1}}") for steps in (2, 6)]
    few, many = (count_training_flops(keys).posttrain for keys in made)
    keys = made[0]
    size = keys.encoder.width if target == "features" else 3 * keys.encoder.patch_px**2
    rows = keys.posttrain.batch_size * keys.encoder.num_patches
    one = 2 * rows * 2 * size * 8 + 2 * TIMES * 8
    assert many - few == pytest.approx(4 * one * keys.posttrain.steps)


def test_a_metric_costs_the_frames_that_it_is_fitted_on_and_no_step():
    without, fitted = (count_training_flops(make_keys("future", f"metric={kind}")) for kind in ("null", "biharmonic"))
    assert (without.step, without.posttrain, without.metric) == (fitted.step, fitted.posttrain, 0)
    few = make_keys("future", "metric=biharmonic", "small.future=['objective.metric.episodes=4']")
    assert fitted.metric > 0
    assert fitted.metric == pytest.approx(8 / 4 * count_training_flops(few).metric)  # 8 of 10 episodes are of train
    assert fitted.total == fitted.pretrain + fitted.metric + fitted.posttrain


def test_budgets_give_the_arithmetic_of_the_first_row():
    future, lewm = make_keys("future"), make_keys("lewm")
    limit = count_training_flops(future)
    assert fit_steps(lewm, "steps", limit) == lewm
    stage1 = count_training_flops(fit_steps(lewm, "flops", limit))
    assert stage1.pretrain == pytest.approx(limit.pretrain, abs=stage1.step)
    both = count_training_flops(fit_steps(lewm, "total", limit))
    assert both.total - both.metric == pytest.approx(limit.total - limit.metric, abs=both.step)
    assert fit_steps(future, "total", limit) == future


def test_a_world_model_of_one_stage_counts_its_training_alone():
    """A layer more of the prior costs its product, forward and twice back, for every frame and step."""
    small = "objective.frames=4','objective.deter=16','objective.hidden=8','objective.depth=2"
    made = [
        make_keys("dreamerv3", f"small.dreamerv3=['{small}','objective.prior_layers={layers}','pretrain.batch_size=2']")
        for layers in (2, 3)
    ]
    few, many = map(count_training_flops, made)
    assert few.posttrain == few.metric == 0 and few.total == few.pretrain == 400 * few.step > 0
    assert many.step - few.step == 3 * 2 * 8 * 8 * (2 * 4)
    limit = count_training_flops(make_keys("future"))
    for budget, allowed in (("flops", limit.pretrain), ("total", limit.pretrain + limit.posttrain)):
        fitted = count_training_flops(fit_steps(made[0], budget, limit))
        assert fitted.total == pytest.approx(allowed, abs=fitted.step)
    assert fit_steps(made[0], "steps", limit) == made[0]


def test_rows_that_differ_in_the_metric_alone_have_the_same_steps():
    words = ("objectives=[untrained,future,lewm]", "budgets=[steps,flops,total]", "vary.metric=[none,biharmonic]")
    cells = make_cells(load_config("compare", [*SMALL, *words]))
    steps = {(cell.row.name, cell.budget): cell.keys.pretrain.steps for cell in cells}
    for budget in ("steps", "flops", "total"):
        assert steps["lewm metric=none", budget] == steps["lewm metric=biharmonic", budget]
    assert steps["lewm metric=none", "flops"] < steps["lewm metric=none", "steps"] == 400
    assert {budget for name, budget in steps if name.startswith(("future", "untrained"))} == {"both"}


def test_a_trial_whose_steps_cost_more_takes_fewer_at_equal_flops():
    words = ("objectives=[future,lewm]", "budgets=[steps,total]", "trials=2", "search.lewm.encoder.depth={choice: [4]}")
    cells = {
        cell.budget: cell for cell in make_cells(load_config("compare", [*SMALL, *words])) if cell.objective == "lewm"
    }
    trials = {budget: cells[budget].make_trial(1) for budget in ("steps", "total")}
    assert all(trial.keys.encoder.depth == 4 and trial.tuning is None for trial in trials.values())
    assert trials["steps"].keys.pretrain.steps == 400 > cells["total"].keys.pretrain.steps
    before, after = cells["total"].flops, trials["total"].flops
    assert after.step > before.step and after.posttrain > before.posttrain
    assert after.total == pytest.approx(before.total, abs=before.step + after.step)
    assert cells["total"].make_trial(0).keys == cells["total"].keys
