"""Receding horizon on a point mass: what it looks at, when it plans, what it returns."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from planners.cem import CEM, CEMConfig
from planners.costs import GoalCost
from planners.mpc import MPC, MPCConfig
from planners.protocol import Plan

from .point_mass import PointMass, draw, read

COST = GoalCost(reduce="sum", metric="l2")
PLAIN = {"std_init": 0.5, "noise_beta": 0.0, "return_best": True, "momentum_mean": 0.1, "momentum_std": 0.1}
SMALL = CEMConfig(samples=64, iterations=4, horizon=4, elites=8, std_warm=0.0, **PLAIN)


class Scripted:
    """A planner that returns counted actions and remembers what it was given."""

    def __init__(self, horizon=4):
        self.horizon = horizon
        self.calls = []

    def plan(self, dynamics, context, goal, cost, *, seeds, warm_start=None, replan=0):
        self.calls.append({"warm_start": warm_start, "replan": replan, "seeds": seeds, "goal": goal})
        shape = (len(seeds), self.horizon, dynamics.spec.block_dim)
        count = torch.arange(float(np.prod(shape))).reshape(shape) + 1000 * replan
        return Plan(count, torch.zeros(len(seeds)))


def run(config=None, steps=8, dynamics=None, planner=None, start=None, goal=None, agent=None):
    """Positions [steps + 1, B, 2] and actions [steps, B, 2] of an episode."""
    dynamics = dynamics or PointMass()
    position = torch.tensor([[0.0, 0.0], [1.0, -2.0]]) if start is None else start
    goal = torch.tensor([[2.0, -2.5], [-1.0, 1.0]]) if goal is None else goal
    agent = agent or MPC(dynamics, planner or CEM(SMALL), COST, config)
    frames = draw(goal.reshape(-1, 2)).reshape(*goal.shape[:-1], 4, 4, 3)
    agent.reset(frames, seeds=range(len(goal)))
    positions, actions = [position], []
    for _ in range(steps):
        actions.append(torch.as_tensor(agent.act(draw(position))))
        position = dynamics.move(position, actions[-1])
        positions.append(position)
    return torch.stack(positions), torch.stack(actions), agent


def test_the_goal_is_reached_and_held():
    positions, _, agent = run(
        planner=CEM(CEMConfig(samples=200, iterations=5, elites=20, std_warm=0.2, **PLAIN)), steps=10
    )
    goal = torch.tensor([[2.0, -2.5], [-1.0, 1.0]])
    assert (positions[5:] - goal).abs().max() < 0.1
    assert len(agent.plan_ms) == len(agent.energies) == 10
    best, elites, everyone = agent.energies[0].unbind(1)
    assert (best.diff() <= 0).all() and (best <= elites + 1e-6).all() and (elites <= everyone + 1e-6).all()
    assert all(ms > 0 for ms in agent.plan_ms)


CHANGES = {
    "receding_steps": 2,
    "warm_start": False,
    "tail": "zero",
    "reached_cost": 0.8,
    "subgoal_steps": 3,
}


@pytest.mark.parametrize("key", [field.name for field in fields(MPCConfig)])
def test_every_parameter_changes_what_is_done(key):
    two = torch.tensor([[[2.0, -2.5], [0.0, 0.0]], [[-1.0, 1.0], [2.0, 2.0]]])
    goals = two if key in ("reached_cost", "subgoal_steps") else None
    _, first, _ = run(MPCConfig(subgoal_steps=4) if goals is not None else None, goal=goals)
    change = {"subgoal_steps": 4} | {key: CHANGES[key]} if goals is not None else {key: CHANGES[key]}
    _, second, _ = run(MPCConfig(**change), goal=goals)
    assert not torch.allclose(first, second)


def test_an_episode_repeats_after_a_reset():
    _, first, agent = run(MPCConfig(receding_steps=3), steps=4)
    _, second, _ = run(steps=4, agent=agent)
    assert torch.equal(first, second)
    assert len(agent.plan_ms) == 2


def test_a_plan_is_made_when_the_last_one_is_used_up_and_starts_from_its_shifted_rest():
    planner = Scripted()
    _, _, agent = run(MPCConfig(receding_steps=3), steps=7, planner=planner)
    assert [call["replan"] for call in planner.calls] == [0, 1, 2]
    assert planner.calls[0]["warm_start"] is None
    first = torch.arange(16.0).reshape(2, 4, 2)
    want = torch.stack([first[:, 3]] * 4, dim=1)
    assert torch.equal(planner.calls[1]["warm_start"], want)
    assert planner.calls[0]["seeds"] == (0, 1)
    assert torch.equal(agent.last_plan.actions_BKA, first + 2000)


def test_warm_starts_can_end_in_zeros_or_be_left_out():
    zero, cold = Scripted(), Scripted()
    run(MPCConfig(receding_steps=3, tail="zero"), steps=4, planner=zero)
    assert zero.calls[1]["warm_start"][:, 1:].abs().sum() == 0
    run(MPCConfig(receding_steps=3, warm_start=False), steps=4, planner=cold)
    assert cold.calls[1]["warm_start"] is None


def test_a_block_of_actions_is_executed_one_environment_step_at_a_time():
    dynamics, planner = PointMass(frame_skip=3), Scripted(horizon=2)
    _, actions, _ = run(MPCConfig(receding_steps=2), dynamics=dynamics, planner=planner, steps=6)
    blocks = torch.arange(24.0).reshape(2, 6, 2)  # [B, K x frame_skip, a]
    assert torch.equal(actions, blocks.transpose(0, 1))
    assert len(planner.calls) == 1


def test_dynamics_observe_the_last_frames_a_model_step_apart_and_the_actions_between():
    dynamics, planner = PointMass(frame_skip=2, history=3, speed=0.001), Scripted()
    positions, actions, _ = run(MPCConfig(receding_steps=1), dynamics=dynamics, planner=planner, steps=8)
    blocks = actions.reshape(4, 2, 2, 2).transpose(1, 2).flatten(2)  # [model step, B, A]
    none = torch.zeros(2, 4)
    expected = [
        ([0, 0, 0], [none, none], [False, False, True]),
        ([0, 0, 2], [none, blocks[0]], [False, True, True]),
        ([0, 2, 4], [blocks[0], blocks[1]], [True, True, True]),
        ([2, 4, 6], [blocks[1], blocks[2]], [True, True, True]),
    ]
    assert len(dynamics.observed) == 4
    for seen, (steps, past, valid) in zip(dynamics.observed, expected, strict=True):
        assert seen.frames_BTHWC.dtype == torch.uint8
        assert torch.allclose(read(seen.frames_BTHWC), positions[steps].transpose(0, 1), atol=1e-3)
        assert torch.equal(seen.past_actions_BtA, torch.stack(past, dim=1))
        assert seen.valid_BT.tolist() == [valid, valid]


def test_frames_between_two_plans_are_remembered():
    dynamics = PointMass(history=3, speed=0.001)
    positions, actions, _ = run(MPCConfig(receding_steps=2), dynamics=dynamics, planner=Scripted(), steps=5)
    seen = dynamics.observed[2]
    assert torch.allclose(read(seen.frames_BTHWC), positions[[2, 3, 4]].transpose(0, 1), atol=1e-3)
    assert torch.equal(seen.past_actions_BtA, actions[[2, 3]].transpose(0, 1))


def test_a_history_of_one_frame_has_no_past_actions():
    dynamics = PointMass()
    run(dynamics=dynamics, steps=2)
    assert dynamics.observed[1].past_actions_BtA.shape == (2, 0, 2)


SUBGOALS = torch.tensor([[[1.0, 0.0], [1.0, 1.0], [3.0, 1.0]], [[1.0, -2.0], [-1.0, -2.0], [-1.0, 1.0]]])


def test_every_environment_goes_on_to_its_next_subgoal_when_it_has_reached_one():
    positions, _, agent = run(
        MPCConfig(reached_cost=0.1),
        steps=14,
        goal=SUBGOALS,
        planner=CEM(CEMConfig(samples=200, iterations=5, elites=20, std_warm=0.2, **PLAIN)),
    )
    for env in range(2):
        seen = (positions[:, env, None] - SUBGOALS[env]).square().mean(-1).sqrt() < 0.1
        first = [int(seen[:, number].float().argmax()) for number in range(3)]
        assert seen.any(0).all() and first == sorted(first), first
        assert first[1] <= first[0] + 4, "it goes on as soon as it is there"
    assert agent.subgoal_B.tolist() == [2, 2]
    assert (positions[-1] - SUBGOALS[:, -1]).abs().max() < 0.15


def test_time_that_is_up_switches_too_and_the_last_subgoal_stays():
    planner = Scripted()
    agent = MPC(PointMass(speed=0.0), planner, COST, MPCConfig(subgoal_steps=2))
    run(agent=agent, steps=8, goal=SUBGOALS, dynamics=PointMass(speed=0.0))
    asked = [call["goal"].view("pooled") for call in planner.calls]
    for step, number in enumerate([0, 0, 1, 1, 2, 2, 2, 2]):
        assert torch.allclose(asked[step], SUBGOALS[:, number], atol=1e-3)


def test_a_refused_goal_leaves_the_episode_as_it_was():
    start, goal = draw(torch.zeros(1, 2)).numpy(), draw(torch.ones(1, 2)).numpy()
    found = []
    for refused in ([], [np.zeros((1, 3, 4, 4, 3), np.uint8), np.zeros((1, 8, 8, 3), np.uint8)]):
        agent = MPC(PointMass(), CEM(SMALL), COST)
        agent.reset(goal, seeds=[3])
        for wrong in refused:
            with pytest.raises(ValueError):
                agent.reset(wrong, seeds=[4])
        found.append(agent.act(start))
    np.testing.assert_array_equal(*found)


def test_a_sequence_of_one_subgoal_is_a_goal():
    _, first, _ = run(goal=SUBGOALS[:, 0])
    _, second, _ = run(goal=SUBGOALS[:, :1])
    assert torch.equal(first, second)


def test_subgoals_that_nothing_would_switch_are_refused():
    with pytest.raises(ValueError, match=r"3 sub-goals.*reached_cost"):
        run(goal=SUBGOALS)


def test_elites_that_come_with_a_plan_go_shifted_into_the_next_search():
    class Carrying(Scripted):
        def plan(self, *args, **kwargs):
            made = super().plan(*args, **kwargs)
            return Plan(made.actions_BKA, made.cost_B, elites_BEKA=made.actions_BKA[:, None] + 0.5)

    planner = Carrying()
    run(steps=2, planner=planner)
    given = planner.calls[1]["warm_start"]
    assert given.shape == (2, 2, 4, 2)
    first = torch.arange(16.0).reshape(2, 4, 2)
    assert torch.equal(given[:, 0], torch.cat((first[:, 1:], first[:, 3:]), 1))
    assert torch.equal(given[:, 1], given[:, 0] + 0.5)


def test_a_cost_that_compares_some_tokens_is_told_which_before_every_plan():
    class Watching(Scripted):
        def plan(self, dynamics, context, goal, cost, **kwargs):
            assert goal.view("focus").tolist() == [[0], [0]]  # the only token there is
            return super().plan(dynamics, context, goal, cost, **kwargs)

    planner = Watching()
    agent = MPC(PointMass(), planner, GoalCost(view="tokens", token_keep=0.5), MPCConfig(subgoal_steps=2))
    run(agent=agent, steps=3)
    run(agent=agent, steps=3, goal=SUBGOALS)
    assert len(planner.calls) == 6


def test_numpy_in_gives_numpy_out_and_frames_are_copied():
    dynamics = PointMass(history=2)
    agent = MPC(dynamics, Scripted(), COST)
    frames = draw(torch.zeros(2, 2)).numpy()
    agent.reset(frames, seeds=np.array([5, 6]))
    actions = agent.act(frames)
    assert isinstance(actions, np.ndarray)
    assert (actions.shape, actions.dtype) == ((2, 2), np.float32)
    frames[:] = draw(torch.ones(2, 2)).numpy()  # an environment that draws into the same memory
    agent.act(frames)
    assert torch.equal(read(dynamics.observed[1].frames_BTHWC)[0], torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    assert isinstance(agent.act(torch.from_numpy(frames)), torch.Tensor)


def test_a_picture_of_the_wrong_size_or_type_is_refused_in_a_sentence():
    agent = MPC(PointMass(), Scripted(), COST)
    with pytest.raises(ValueError, match=r"goal image is uint8 \(1, 8, 8, 3\).*4, 4"):
        agent.reset(np.zeros((1, 8, 8, 3), np.uint8), seeds=[0])
    agent.reset(np.zeros((1, 4, 4, 3), np.uint8), seeds=[0])
    with pytest.raises(ValueError, match=r"frame is float32"):
        agent.act(np.zeros((1, 4, 4, 3), np.float32))
    with pytest.raises(ValueError, match=r"frame is torch.float32"):
        agent.act(torch.zeros(1, 4, 4, 3))


class Feeling(PointMass):
    """A point mass whose model also knows two numbers of the robot's state."""

    def __init__(self, **facts):
        super().__init__(**facts)
        self.spec = replace(self.spec, proprio="predicted", proprio_dim=2)


@pytest.mark.parametrize("skip", [1, 2])
def test_a_refused_call_changes_nothing_and_none_passes_unchecked(skip):
    states = np.zeros((6, 1, 2), np.float32)
    frames = draw(torch.linspace(-1, 1, 6)[:, None].expand(-1, 2)).numpy()[:, None]
    bad = [
        (np.zeros((1, 8, 8, 3), np.uint8), states[0]),
        (frames[0].astype(np.float32), states[0]),
        (frames[0], None),
        (frames[0], np.zeros((1, 3), np.float32)),
        (frames[0], np.full((1, 2), np.nan, np.float32)),
    ]
    found = []
    for refused in ([], bad):
        agent = MPC(Feeling(frame_skip=skip, history=3), CEM(SMALL), COST)
        agent.reset(frames[-1], seeds=[3])
        for frame, state in zip(frames, states, strict=True):
            for wrong in refused:
                with pytest.raises(ValueError, match="this model"):
                    agent.act(*wrong)
            found.append(agent.act(frame, state))
    np.testing.assert_array_equal(found[:6], found[6:])


@pytest.mark.parametrize(
    ("key", "value"), [("receding_steps", 0), ("tail", "mirror"), ("reached_cost", -1.0), ("subgoal_steps", -1)]
)
def test_an_mpc_that_cannot_be_is_refused_by_name(key, value):
    with pytest.raises(ValueError, match=key):
        MPCConfig(**{key: value})


def test_more_steps_than_the_plan_has_are_refused():
    with pytest.raises(ValueError, match=r"receding_steps is 5.*4"):
        MPC(PointMass(), Scripted(horizon=4), COST, MPCConfig(receding_steps=5))


def test_acting_before_a_reset_says_what_to_call():
    with pytest.raises(AssertionError, match="reset"):
        MPC(PointMass(), Scripted(), COST).act(draw(torch.zeros(1, 2)))
