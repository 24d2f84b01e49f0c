"""Evaluation on another device: the oracle with a model's cost, photo goals, counted operations and imagined frames."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import envs
from commands.evaluation.arithmetic import count_planning_flops
from commands.evaluation.episodes import Rollouts
from commands.evaluation.methods import make_true_distance
from commands.evaluation.oracle import OracleDynamics, OraclePolicy
from commands.evaluation.photo_goals import measure_distances, measure_novelty
from commands.offline.moments import draw_moments, find_nearest, plan_at_moments
from commands.report.imagined import imagine_episodes
from planners.cem import CEM, CEMConfig
from planners.costs import GoalCost
from planners.mpc import MPC, MPCConfig
from tests.devices.test_world_models import MODELS
from tests.world_model.small import dynamics, frames

TASK = "reacher"
SEARCH = CEMConfig(samples=4, elites=2, iterations=2, horizon=2)
CPU = torch.device("cpu")
VIEWS = {
    "pooled": ("pooled", "reach", "truth"),
    "tokens": ("tokens",),
    "pixel baseline": ("pixels", "pooled"),
    "scene of tokens": ("pooled",),
    "state predicted": ("pooled",),
}


class Recording:
    """Frames and actions of train and val, as a Reader gives them."""

    def __init__(self):
        self.frames = frames(40).numpy()

    def episodes(self, split):
        return np.array([0 if split == "train" else 1])

    def first_row(self, episode):
        return 20 * episode

    def num_frames(self, episode):
        return 20

    def lengths(self, episodes):
        return np.full(len(episodes), 20)

    def gather(self, name, rows):
        if name == "action":
            return np.stack([np.sin(rows), 2 + np.cos(rows)], -1).astype(np.float32)
        assert name == "pixels"
        return self.frames[rows]


@pytest.fixture(scope="module")
def states():
    """Two states of the task's simulator."""
    env = envs.make(TASK)
    found = []
    for seed in (0, 1):
        env.reset(seed=seed)
        found.append(env.get_state())
    env.close()
    return np.stack(found)


def oracle_actions(model, cost, states):
    """Two actions of the oracle from the two states, each being the other's goal; and the device of its plan."""
    policy = OraclePolicy(OracleDynamics(envs.make(TASK), model, 2, threads=1), CEM(SEARCH), cost, MPCConfig())
    policy.reset(frames(2).numpy(), [5, 6])
    found = []
    for seen in frames(2, 2, seed=2).numpy():
        policy.set_states(states, states[::-1])
        found.append(policy.act(seen, np.zeros((2, 4), np.float32)))
    return np.stack(found), policy.mpc.last_plan.cost_B.device


@pytest.mark.parametrize(("kind", "view"), [(kind, view) for kind, views in VIEWS.items() for view in views])
def test_the_oracle_with_a_models_cost_plans_where_the_model_is(kind, view, states, cuda):
    model = dynamics(**MODELS[kind])
    cost = GoalCost(view=view, distance=make_true_distance(envs.TASKS[TASK]) if view == "truth" else None)
    here, device = oracle_actions(model, cost, states)
    assert device == CPU
    there, device = oracle_actions(model.to(cuda), cost, states)
    assert device == cuda
    np.testing.assert_allclose(there, here, rtol=1e-4, atol=1e-5)


def test_the_oracle_without_a_model_plans_on_the_cpu(states, cuda):
    cost = GoalCost(view="truth", distance=make_true_distance(envs.TASKS[TASK]))
    assert oracle_actions(None, cost, states)[1] == CPU


@pytest.mark.parametrize("kind", MODELS)
def test_a_plan_has_as_many_operations_as_on_the_cpu(kind, cuda):
    model = dynamics(**MODELS[kind])
    cost = GoalCost(view="tokens", token_keep=0.5) if model.spec.views[0] == "tokens" else GoalCost()
    here = count_planning_flops(MPC(model, CEM(SEARCH), cost), budget=9)
    assert count_planning_flops(MPC(model.to(cuda), CEM(SEARCH), cost), budget=9) == here and here["flops"] > 0


@pytest.mark.parametrize("kind", ["pooled", "tokens", "pixel baseline"])
def test_photo_goals_are_as_far_and_as_strange_as_on_the_cpu(kind, cuda):
    model, photo = dynamics(**MODELS[kind]), frames(1, seed=3)[0].numpy()
    found = []
    for device in (CPU, cuda):
        model.to(device)
        apart = [measure_distances(model, view, frames(2, 3).numpy(), photo) for view in model.spec.views]
        found.append([*apart, measure_novelty(model, Recording(), photo)])
    for there, here in zip(*reversed(found), strict=True):
        np.testing.assert_allclose(there, here, rtol=1e-4)


def test_frames_that_a_pixel_model_imagined_are_those_of_the_cpu(cuda):
    model = dynamics(target="pixels")
    actions = np.random.default_rng(0).uniform(-1, 1, (2, 4, 2)).astype(np.float32)
    run = Rollouts(np.ones((2, 5)), actions, frames=frames(2, 5).numpy())
    here, there = (imagine_episodes(model.to(device), run)[1].astype(int) for device in (CPU, cuda))
    assert np.abs(there - here).max() <= 1  # rounded


def plan_moments(model, reader):
    """Plans at recorded moments, the costs of candidates, and the nearest moments of train."""
    moments, train = (draw_moments(reader, split, 3, 0, model.spec, 2, 1) for split in ("val", "train"))
    candidates = {"recorded": train.read_actions(reader)[None].repeat(3, 0)}
    cost = GoalCost(view="tokens", token_keep=0.5) if "tokens" in model.spec.views else GoalCost()
    planned = plan_at_moments(model, CEM(SEARCH), cost, reader, moments, candidates, 0)
    return planned, find_nearest(model, "pooled", reader, moments, train)


@pytest.mark.parametrize("space", ["pooled", "tokens"])
def test_plans_at_recorded_moments_are_those_of_the_cpu(cuda, space):
    reader, model = Recording(), dynamics(space)
    expected, nearest = plan_moments(model, reader)
    planned, found = plan_moments(copy.deepcopy(model).to(cuda), reader)
    np.testing.assert_allclose(planned.actions, expected.actions, atol=1e-5)
    np.testing.assert_allclose(planned.recorded_cost, expected.recorded_cost, rtol=1e-4)
    np.testing.assert_allclose(planned.candidate_costs["recorded"], expected.candidate_costs["recorded"], rtol=1e-4)
    assert found.tolist() == nearest.tolist()
