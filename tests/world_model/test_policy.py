"""Goal-conditioned policies where the right action is known, and what a loss looks at."""

from __future__ import annotations

import pytest
import torch

from world_model.actions import ActionSpec
from world_model.policy import GoalPolicy, PolicyConfig, PolicyProposer
from world_model.training.cloning import CloningModel, hide_older, measure_error

ACTIONS = ActionSpec((-2.0, 0.0), (2.0, 4.0))


def constant_speeds(count=4096, seed=0):
    """Points that move by the same action every step: after L steps they are L actions further."""
    generator = torch.Generator().manual_seed(seed)
    action = torch.rand(count, 2, generator=generator) * torch.tensor([2.0, 2.0]) + torch.tensor([-1.0, 1.0])
    steps = torch.randint(1, 6, (count,), generator=generator)
    now = torch.randn(count, 2, generator=generator)
    return {
        "features": torch.stack((now, now + steps[:, None] * action), 1),
        "valid": torch.ones(count, 1, dtype=torch.bool),
        "steps": steps,
        "action": action[:, None].expand(-1, 2, -1),
        "recorded": torch.ones(count, 2, dtype=torch.bool),
    }


def least_error(way, low, high, half):
    """Mean squared error of the best guess of an action from the way gone in 1 to 5 steps of it, all equally likely.

    Actions are uniform in a box, so the way w has the density of w / L there, over L^2, for every L that is possible.
    """
    steps = torch.arange(1.0, 6.0)[:, None, None]
    guesses = way / steps
    possible = ((guesses >= low) & (guesses <= high)).all(-1, keepdim=True)
    weight = possible / steps**2
    weight = weight / weight.sum(0)
    mean = (weight * guesses).sum(0)
    return float((weight * ((guesses - mean) / half).square()).sum(0).mean())


@pytest.mark.parametrize("steps_left", [True, False])
def test_a_policy_finds_the_speed_as_far_as_what_it_is_told_allows(steps_left):
    torch.manual_seed(0)
    model = CloningModel(GoalPolicy(PolicyConfig(64, 2, 1, 2, 0.0, steps_left), 2, ACTIONS))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batch = constant_speeds()
    for step in range(300):
        rows = torch.arange(256) + 256 * (step % 16)
        loss, _ = model.loss({name: value[rows] for name, value in batch.items()}, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    unseen = constant_speeds(seed=1)
    with torch.no_grad():
        error = float(measure_error(model.policy.eval(), unseen, 1))
    way = unseen["features"][:, 1] - unseen["features"][:, 0]
    least = least_error(way, torch.tensor([-1.0, 1.0]), torch.tensor([1.0, 3.0]), 2.0)
    assert least > 0.015
    assert error < 0.004 if steps_left else 0.9 * least < error < 1.6 * least


def test_blocks_beyond_the_episode_and_frames_that_are_hidden_change_no_loss():
    torch.manual_seed(0)
    model = GoalPolicy(PolicyConfig(8, 1, 3, 2, 0.0), 2, ACTIONS).eval()
    batch = constant_speeds(6)
    history = torch.randn(6, 2, 2)
    batch |= {"features": torch.cat((history, batch["features"]), 1), "valid": torch.ones(6, 3, dtype=torch.bool)}
    batch["recorded"] = torch.tensor([[True, False]]).expand(6, -1)
    error = measure_error(model, batch, 2)
    other = {**batch, "action": batch["action"] + torch.tensor([0.0, 9.0])[:, None]}
    assert torch.equal(measure_error(model, other, 2), error)
    other = {**batch, "features": batch["features"] + torch.tensor([9.0, 0.0, 0.0, 0.0])[:, None]}
    assert torch.equal(measure_error(model, other, 2), error) and measure_error(model, other, 3) != error
    seen, valid = hide_older(batch["features"][:, :3], batch["valid"], 2)
    assert torch.equal(seen[:, 0], seen[:, 1]) and valid[0].tolist() == [False, True, True]


def test_a_proposal_lies_within_the_bounds_and_is_as_long_as_asked():
    torch.manual_seed(0)
    policy = GoalPolicy(PolicyConfig(8, 1, 1, 3), 2, ACTIONS).eval()
    policy.layers[-1].bias.data[:4] = torch.tensor([50.0, -50.0, 0.0, 0.5])
    policy.layers[-1].weight.data.zero_()
    proposer = PolicyProposer(policy, None)
    features, valid, steps = torch.randn(5, 2), torch.ones(5, 1, dtype=torch.bool), torch.full((5,), 3)
    got = proposer.propose(features[:, None], valid, features, steps, 2)
    assert got.shape == (5, 1, 2, 2) and proposer.horizon == 3
    assert torch.equal(got[0, 0], torch.tensor([[2.0, 0.0], [0.0, 3.0]]))  # 0 and 0.5 of the half range of 2
