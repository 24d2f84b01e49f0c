"""Planners on another device: every planner with every cost plans there what it plans on the CPU."""

from __future__ import annotations

import importlib.util
from typing import get_args

import numpy as np
import pytest
import torch

from commands.config.groups import PLANNERS as CLASSES
from planners.costs import RETURN, GoalCost, Metric, Reduce
from planners.mpc import MPC, MPCConfig
from planners.noise import Draws
from planners.protocol import Keep
from tests.world_model.small import dynamics, frames

PLANNERS = {
    keys().name: {}
    for keys in CLASSES
    if keys().name != "nevergrad" or importlib.util.find_spec("nevergrad") is not None
}
PLANNERS["cem"] = {"noise_beta": 2.0, "early_stop_std": 0.9, "return_best": False}
PLANNERS["icem"] = {"keep_elites": 2}
SMALL = {"samples": 8, "iterations": 2, "horizon": 2, "elites": 4, "refined": 2, "chunk_elements": 12}


def planner(name: str):
    """A planner of the registry with a small search."""
    (keys,) = (keys for keys in CLASSES if keys().name == name)
    small = {key: value for key, value in SMALL.items() if key in keys.__dataclass_fields__}
    return CLASSES[keys](keys(**{**small, **PLANNERS[name]}))


def actions(model, planner, cost, config=None, state_dim=0, goals=1):
    """Two actions of an agent that sees numpy frames, and where its plan is."""
    agent = MPC(model, planner, cost, config or MPCConfig())
    seen, goal = frames(2, 2).numpy(), frames(2, goals, seed=3).numpy()
    agent.reset(goal[:, 0] if goals == 1 else goal, seeds=[3, 4])
    state = np.random.default_rng(0).random((2, state_dim)) if state_dim else None
    found = np.stack([agent.act(one, state) for one in seen])
    assert agent.last_plan.actions_BKA.device == agent.last_plan.cost_B.device == model.spec.device
    assert all(energy.device == model.spec.device for energy in agent.energies)
    return found


@pytest.mark.parametrize("name", PLANNERS)
def test_every_planner_plans_there_what_it_plans_on_the_cpu(name, cuda):
    model, one = dynamics(frame_skip=2), planner(name)
    here = actions(model, one, GoalCost())
    np.testing.assert_allclose(actions(model.to(cuda), one, GoalCost()), here, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [{}, {"space": "tokens"}, {"target": "pixels"}])
def test_every_cost_judges_there_as_on_the_cpu(kind, cuda):
    model, found = dynamics(**kind), []
    costs = [
        GoalCost(view=view, metric=metric, reduce=reduce, change_penalty=0.1, action_penalty=0.1)
        for view in model.spec.views
        for metric in get_args(Metric)
        for reduce in get_args(Reduce)
        if (metric == "l2" or reduce == "closest") and reduce != RETURN
    ]
    plans = torch.rand(2, 3, 4, 2)
    for device in (torch.device("cpu"), cuda):
        model.to(device)
        context = model.observe(
            frames(2, 3).to(device), torch.zeros(2, 2, 2, device=device), torch.ones(2, 3, device=device).bool()
        )
        paths = {keep: model.imagine(context, plans.to(device), keep=keep) for keep in get_args(Keep)}
        goal = model.encode_goal(frames(2, seed=3).to(device))
        judged = [cost.bind_spec(model.spec)(paths[cost.keep], goal, plans.to(device)) for cost in costs]
        assert {value.device for value in judged} == {device}
        found.append(torch.stack(judged).cpu())
    torch.testing.assert_close(found[1], found[0])


@pytest.mark.parametrize(
    ("kind", "cost", "config", "state_dim", "goals"),
    [
        ({"space": "tokens"}, GoalCost(view="tokens", token_keep=0.5), MPCConfig(reached_cost=0.8), 0, 2),
        ({}, GoalCost(), MPCConfig(subgoal_steps=1, tail="zero"), 0, 3),
        ({"proprio": "predicted", "proprio_dim": 4}, GoalCost(), MPCConfig(), 4, 1),
        ({"proprio": "integrate", "proprio_dim": 7}, GoalCost(), MPCConfig(warm_start=False), 7, 1),
        ({"scene": True}, GoalCost(), MPCConfig(), 0, 1),
    ],
)
def test_sub_goals_chosen_tokens_and_the_robots_state_follow_the_model(kind, cost, config, state_dim, goals, cuda):
    model, one = dynamics(**kind), planner("icem")
    here = actions(model, one, cost, config, state_dim, goals)
    np.testing.assert_allclose(actions(model.to(cuda), one, cost, config, state_dim, goals), here, rtol=1e-4, atol=1e-5)


def test_draws_are_those_of_the_cpu_for_the_same_seed_replan_and_iteration(cuda):
    here, there = (Draws((7, 8), 3, torch.device(device)).at(2) for device in ("cpu", cuda))
    assert there.normal((4, 2)).device == cuda
    assert torch.equal(there.normal((4, 2)).cpu(), here.normal((4, 2)))
    assert torch.equal(there.select(torch.tensor([1], device=cuda)).normal((4, 2))[0].cpu(), here.normal((4, 2))[1])
    assert not torch.equal(there.at(1).normal((4, 2)), there.normal((4, 2)))


def test_draws_made_on_a_device_are_those_made_on_the_cpu_up_to_rounding(cuda):
    here, there = (Draws((7, 8), 3, torch.device(device), source="device") for device in ("cpu", cuda))
    assert there.normal((400,)).device == cuda
    torch.testing.assert_close(there.normal((400,)).cpu(), here.normal((400,)), rtol=1e-5, atol=1e-6)


def test_an_agent_that_sees_frames_of_a_device_acts_there(cuda):
    model = dynamics()
    agent = MPC(model.to(cuda), planner("cem"), GoalCost())
    agent.reset(frames(2), seeds=[1, 2])
    assert agent.act(frames(2).to(cuda)).device == cuda
    assert agent.act(frames(2)).device.type == "cpu"
