"""Planners as commands build them: every choice plans with a model and, as far as it can, with the simulator."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from commands.benchmarks.plan_cases import make_model
from commands.config.compose import list_choices, load_config
from commands.config.groups import make_planner
from commands.config.schema import override
from commands.evaluation.methods import make_oracle_planner
from commands.shared.errors import UsageError
from planners.mpc import MPC
from world_model.generative.tdmpc2 import Tdmpc2Config

NAMES = [name for name in list_choices("planner") if name not in ("nevergrad", "module", "direct")]


@cache
def composed(*words):
    """Composing takes a while; what comes out is not changed here."""
    return load_config("bench", words)


def parts(name, *words):
    keys = composed(f"planner={name}", *words).planner
    return make_planner(keys), keys.cost, keys.mpc


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_planner_drives_a_model_from_frames(name):
    own = parts(name)[0].config.__dict__
    small = {"samples": 16, "iterations": 2} | ({"elites": 4} if "elites" in own else {})
    guided = bool(own.get("prior_samples"))
    keys = override(composed(f"planner={name}").planner, small | ({"prior_samples": 6} if guided else {}))
    torch.manual_seed(0)
    model = make_model(composed("encoder=tiny"), torch.device("cpu"))
    if guided:  # a model with a policy
        model = Tdmpc2Config(channels=2, hidden=8).make_world_model((64, 64), model.actions).eval()
    agent = MPC(model, make_planner(keys), keys.cost, keys.mpc)
    height, width = model.spec.frame_hw
    frames = torch.randint(0, 256, (3, 2, height, width, 3), dtype=torch.uint8)
    agent.reset(frames[0], seeds=[0, 1])
    low, high = torch.tensor(model.spec.action_low), torch.tensor(model.spec.action_high)
    for seen in frames[1:]:
        for _ in range(model.spec.frame_skip):
            agent.act(seen)
    plan = agent.last_plan
    assert plan.cost_B.isfinite().all()
    assert (plan.actions_BKA >= low).all() and (plan.actions_BKA <= high).all()
    assert len(agent.plan_ms) == (2 if agent.config.receding_steps == 1 else 1)  # or one plan, executed whole
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_the_oracle_plans_without_gradients_at_the_same_horizon(name):
    planner, _, _ = parts(name)
    for less in ({}, {"samples": 20, "elites": 4, "iterations": 2}):
        stand_in = make_oracle_planner(planner, less)
        assert not stand_in.needs_gradient and stand_in.horizon == planner.horizon
        assert type(stand_in) is type(planner) or planner.needs_gradient
        assert not getattr(stand_in.config, "prior_samples", 0), "the simulator has no policy"
        assert not less or (stand_in.config.samples, stand_in.config.iterations) == (20, 2)


def test_the_preset_of_vjepa2_says_what_the_paper_and_its_code_say():
    planner, cost, mpc = parts("cem_vjepa2")
    config = planner.config
    assert (config.samples, config.iterations, config.elites, config.horizon) == (800, 10, 10, 1)
    assert (config.momentum_mean, config.momentum_std, config.std_min) == (0.15, 0.15, 0.0)
    assert not (config.include_mean or config.return_best or config.noise_beta or mpc.warm_start)
    assert (cost.metric, cost.reduce) == ("l1", "last")


@pytest.mark.parametrize(
    ("name", "word", "said"),
    [
        ("icem", "planner.shrink=0.5", "planner shrink is 0.5"),
        ("mppi", "planner.temperature=0", "planner temperature is 0.0"),
        ("mppi", "planner.prior_samples=200", "planner prior_samples is 200; choose 0 to samples - 2"),
        ("cem", "planner.cost.reduce=returns", "planner.cost.reduce=returns is no choice; did you mean return?"),
        ("gradient", "planner.bounds=wrap", "choices: clamp, tanh"),
        ("cem", "planner.cost.token_keep=0.5", "it needs view=tokens or view=pixels"),
        ("cem", "planner.mpc.reached_cost=-1", "reached_cost is -1.0"),
    ],
)
def test_a_wrong_value_gives_one_sentence(name, word, said):
    with pytest.raises(UsageError, match=said):
        parts(name, word)


def test_files_that_others_take_in_are_no_choices():
    assert "_task" not in list_choices("recipe") and "push_t" in list_choices("recipe")
