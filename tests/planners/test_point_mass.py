"""The point with inertia against its equations, step by step."""

import pytest
import torch

from planners.point_mass import DoubleIntegrator, PointCost, State
from planners.protocol import Dynamics, Views

DISCS = ((0.0, 0.0, 0.8), (0.5, 0.2, 0.6))


def paths(horizon=4):
    generator = torch.Generator().manual_seed(0)
    state = torch.randn(2, 4, generator=generator)
    return state, torch.randn(2, 3, horizon, 2, generator=generator)


def test_a_path_is_the_recursion():
    state, actions = paths()
    dynamics = DoubleIntegrator(dt=0.3)
    seen = dynamics.imagine(State(state), actions).view("pooled")
    for b in range(2):
        for s in range(3):
            p, v = state[b, :2].clone(), state[b, 2:].clone()
            for k in range(4):
                v = v + 0.3 * actions[b, s, k]
                p = p + 0.3 * v
                assert torch.allclose(seen[b, s, k], torch.cat((p, v)), atol=1e-5)
    assert isinstance(dynamics, Dynamics)
    last = dynamics.imagine(State(state), actions, keep="last").view("pooled")
    assert torch.equal(last, seen[:, :, -1:])


def test_work_is_counted_and_gradients_count_twice():
    state, actions = paths()
    dynamics = DoubleIntegrator()
    dynamics.imagine(State(state), actions)
    assert dynamics.work == 24
    dynamics.imagine(State(state), actions.requires_grad_())
    assert dynamics.work == 24 + 48


@pytest.mark.parametrize("cost", [PointCost(), PointCost(discs=DISCS), PointCost(discs=DISCS, wall=True)])
def test_a_cost_is_its_equation(cost):
    state, actions = paths()
    goal = torch.tensor([[1.0, 0.5, 0.0, 0.0], [0.0, -1.0, 0.0, 0.0]])
    imagined = DoubleIntegrator().imagine(State(0.1 * state), actions)
    got = cost(imagined, Views({"pooled": goal}), actions)
    for b in range(2):
        for s in range(3):
            total = 0.0
            for k in range(4):
                p = imagined.view("pooled")[b, s, k, :2]
                total += ((p - goal[b, :2]) ** 2).sum() / 4 + cost.effort * (actions[b, s, k] ** 2).sum() / 4
                for x, y, radius in cost.discs:
                    apart = (p - torch.tensor([x, y])).norm()
                    if apart < radius:
                        total += 8 * (1.0 if cost.wall else (1 - apart / radius) ** 2) / 4
            total += cost.stop * (imagined.view("pooled")[b, s, -1, 2:] ** 2).sum()
            assert got[b, s] == pytest.approx(float(total), rel=1e-4)


def test_frames_are_states():
    frames = torch.randn(3, 2, 1, 1, 4)
    dynamics = DoubleIntegrator()
    assert torch.equal(dynamics.observe(frames, torch.zeros(3, 1, 2), torch.ones(3, 2)).state_B4, frames[:, 1, 0, 0])
    assert torch.equal(dynamics.encode_goal(frames[:, 0]).view("pooled"), frames[:, 0, 0, 0])
