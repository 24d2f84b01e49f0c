"""Implicit V-learning of goals: its equations by hand, and what it converges to where that is known."""

from __future__ import annotations

import math

import pytest
import torch

from world_model.actions import ActionSpec
from world_model.goal_value import GoalValue, ValueConfig
from world_model.policy import GoalPolicy, PolicyConfig
from world_model.training.gcivl import (
    GcivlConfig,
    GcivlModel,
    compute_targets,
    draw_goal_frames,
    measure_log_prob,
    show_next,
    weigh_actions,
    weigh_expectile,
)

ACTIONS = ActionSpec((-1.0,), (1.0,))


def make(history: int = 1, blocks: int = 1, states: int = 3, **keys) -> GcivlModel:
    torch.manual_seed(0)
    config = GcivlConfig(**{"width": 32, "depth": 1, "discount": 0.5, "target_rate": 0.1, "alpha": 1.0, **keys})
    value = GoalValue(ValueConfig(config.width, config.depth, config.discount), history, states)
    sizes = PolicyConfig(16, 1, history, blocks, dropout=0.0, steps_left=False)
    return GcivlModel(config, GoalPolicy(sizes, states, ACTIONS, value=value))


def make_steps(*rows: tuple[int, int, int, float], states: int = 3) -> dict[str, torch.Tensor]:
    """Transitions (state, next state, goal, action) of states that are told apart by one number each."""
    number, following, goal = torch.tensor([row[:3] for row in rows]).unbind(1)
    frames = torch.stack((number, following, goal, goal), 1)
    return {
        "features": torch.nn.functional.one_hot(frames, states).float(),
        "valid": torch.ones(len(rows), 2, dtype=torch.bool),
        "reached": number == goal,
        "action": torch.tensor([row[3] for row in rows])[:, None, None],
        "recorded": torch.ones(len(rows), 1, dtype=torch.bool),
    }


def train(model: GcivlModel, batch: dict[str, torch.Tensor], steps: int) -> GcivlModel:
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    for step in range(steps):
        loss, _ = model.loss(batch, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.after_step(step)
    return model.eval()


def test_squared_errors_are_weighted_by_the_sign_of_the_advantage():
    errors, advantage = torch.tensor([[2.0, 2.0, -1.0], [1.0, 3.0, 0.0]]), torch.tensor([0.5, -0.1, 0.0])
    want = torch.tensor([[0.9 * 4, 0.1 * 4, 0.9], [0.9, 0.1 * 9, 0.0]])
    torch.testing.assert_close(weigh_expectile(errors, advantage, 0.9), want)


def test_targets_are_of_each_member_and_the_advantage_is_of_the_lower_one():
    """The first transition is on its way, the second begins at its goal, where nothing follows."""
    next_2B, now_2B = torch.tensor([[-4.0, -9.0], [-2.0, -9.0]]), torch.tensor([[-5.0, -1.0], [-3.0, 0.0]])
    targets, advantage = compute_targets(next_2B, now_2B, torch.tensor([False, True]), 0.5)
    torch.testing.assert_close(targets, torch.tensor([[-3.0, 0.0], [-2.0, 0.0]]))
    torch.testing.assert_close(advantage, torch.tensor([-3.0 + 4.0, 0.5]))


def test_weights_of_actions_are_exponential_and_at_most_100():
    got = weigh_actions(torch.tensor([0.0, 0.2, -0.1, 0.5, 900.0]), 10.0, 100.0)
    torch.testing.assert_close(got, torch.tensor([1.0, math.exp(2), math.exp(-1), 100.0, 100.0]))  # exp(5) = 148
    assert torch.equal(weigh_actions(torch.tensor([3.0, -3.0]), 0.0, 100.0), torch.ones(2))


def test_the_probability_of_actions_is_that_of_a_normal_distribution_of_deviation_1():
    mean, actions = torch.tensor([[0.5, -1.0], [2.0, 0.0]]), torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    want = torch.distributions.Normal(mean, 1.0).log_prob(actions).sum(-1)
    torch.testing.assert_close(measure_log_prob(mean, actions), want)
    assert float(measure_log_prob(mean, actions)[1]) == pytest.approx(-math.log(2 * math.pi))


@pytest.mark.parametrize("expectile", [0.6, 0.9])
def test_the_value_of_a_chain_is_the_discounted_number_of_steps(expectile):
    """0 -> 1 -> 2, where it stays: V = -(1 - 0.5^d) / (1 - 0.5), and -2 for goals that lie behind."""
    batch = make_steps(*[(state, min(state + 1, 2), goal, 0.0) for state in range(3) for goal in range(3)])
    model = train(make(expectile=expectile), batch, 350)
    states, goals = batch["features"][:, :1], batch["features"][:, 2]
    valid = batch["valid"][:, :1]
    with torch.no_grad():
        values = model.value(states, valid, goals).mean(0).view(3, 3)
        steps = model.value.estimate_steps(states, valid, goals).view(3, 3)
    want = torch.tensor([[0.0, -1.0, -1.5], [-2.0, 0.0, -1.0], [-2.0, -2.0, 0.0]])
    assert (values - want).abs().max() < 0.06, values
    for start, goal in ((0, 0), (0, 1), (0, 2), (1, 2)):
        assert abs(steps[start, goal] - (goal - start)) < 0.2
    assert steps[1, 0] > 3


def test_the_value_is_the_expectile_of_what_recorded_actions_reach_and_the_policy_prefers_the_better():
    """At state 0 one action leads to the goal 1 and the other back to 0. The expectile of both targets is
    m = tau (-1) + (1 - tau) (-1 + gamma m); actions +1 and -1 have the weights exp(0 - m) and exp(0)."""
    batch = make_steps((0, 1, 1, 1.0), (0, 0, 1, -1.0), (1, 1, 1, 0.0), states=2)
    model = train(make(states=2, expectile=0.9), batch, 400)
    want = -1 / (1 - 0.1 * 0.5)
    start, valid, goal = batch["features"][:1, :1], batch["valid"][:1, :1], batch["features"][:1, 2]
    with torch.no_grad():
        value, mean = model.value(start, valid, goal), model.policy(start, valid, goal)[0, 0, 0]
    assert (value - want).abs().max() < 0.03  # with the expectile of 0.1 it would be -1.82
    weight = math.exp(-want)
    assert float(mean) == pytest.approx((weight - 1) / (weight + 1), abs=0.05)


def test_each_loss_moves_its_own_network_and_the_target_follows():
    model, batch = make(), make_steps((0, 1, 2, 1.0), (1, 2, 2, 0.5))
    _, terms = model.loss(batch, 0)
    values, layers = list(model.value.parameters()), list(model.policy.layers.parameters())
    assert set(torch.autograd.grad(terms["policy"], values, retain_graph=True, allow_unused=True)) == {None}
    assert set(torch.autograd.grad(terms["value"], layers, retain_graph=True, allow_unused=True)) == {None}
    assert all(g.abs().max() > 0 for g in torch.autograd.grad(terms["policy"], layers))
    assert not any(p.requires_grad for p in model.target.parameters())
    before = model.target.members[0][0].weight.clone()
    with torch.no_grad():
        model.value.members[0][0].weight.add_(1.0)
    model.after_step(0)
    torch.testing.assert_close(model.target.members[0][0].weight, before + 0.1)


def test_blocks_beyond_the_episode_change_no_loss():
    model, batch = make(blocks=2), make_steps((0, 1, 2, 1.0), (1, 2, 2, 0.5))
    batch["action"] = torch.cat((batch["action"], batch["action"]), 1)
    batch["recorded"] = torch.tensor([[True, True], [True, False]])
    loss, _ = model.loss(batch, 0)
    changed = batch["action"].clone()
    changed[1, 1] = 9.0
    assert torch.equal(model.loss({**batch, "action": changed}, 0)[0], loss)
    changed[0, 1] = 9.0
    assert model.loss({**batch, "action": changed}, 0)[0] > loss


def test_one_frame_more_is_seen_after_a_step():
    """With one known frame of three, the next state shows two; with all three it shows three."""
    frames, valid = torch.arange(3.0)[None, :, None] + 1, torch.ones(1, 4, dtype=torch.bool)
    seen, known = show_next(frames, valid, 1)
    assert seen.flatten().tolist() == [2.0, 2.0, 3.0] and known.tolist() == [[False, True, True]]
    assert show_next(frames, valid, 3)[1].all()
    young = torch.tensor([[False, False, True, True]])
    assert show_next(frames, young, 3)[1].tolist() == [[False, True, True]]


def test_goals_are_a_function_of_seed_and_step_with_shares_of_their_own():
    config, numbers = GcivlConfig(policy_random_goals=0.4), torch.arange(5000)
    value, policy = draw_goal_frames(config, numbers, torch.full((5000,), 50), 5000, 3, 7)
    again, _ = draw_goal_frames(config, numbers, torch.full((5000,), 50), 5000, 3, 7)
    other, _ = draw_goal_frames(config, numbers, torch.full((5000,), 50), 5000, 3, 8)
    assert torch.equal(value.steps_B, again.steps_B) and not torch.equal(value.steps_B, other.steps_B)
    assert value.find_reached(numbers).float().mean() == pytest.approx(0.2, abs=0.02)
    assert not policy.find_reached(numbers).float().mean() > 0.01
    for goals, share in ((value, 0.3), (policy, 0.4)):
        assert (goals.transition_B != numbers).float().mean() == pytest.approx(share, abs=0.03)


def test_shares_that_exceed_all_goals_are_refused():
    with pytest.raises(ValueError, match=r"method.present_goals=0.8 and method.random_goals=0.3 are shares"):
        GcivlConfig(present_goals=0.8)
