"""The robot's state along an imagined path: as arithmetic has it, as it was learned, and never from the future."""

from __future__ import annotations

import pytest
import torch

from tests.world_model.small import dynamics, frames
from world_model.nn.poses import integrate_actions
from world_model.nn.states import PoseIntegration, StatePredictor
from world_model.training.posttrain import PosttrainConfig, PosttrainModel

GENERATOR = torch.Generator().manual_seed(2)


def poses(*shape):
    return torch.rand(*shape, 7, generator=GENERATOR) * torch.tensor([0.5, 0.5, 0.5, 1, 1, 1, 1])


def test_integrated_states_are_the_poses_that_actions_add_up_to():
    states = PoseIntegration(7, 7)
    states.set_statistics(poses(50))
    first, actions = poses(3), 0.1 * poses(3, 2, 4, 2).flatten(-2)  # blocks of two actions
    path = states(states.normalise(first), actions)
    assert path.shape == (3, 2, 4, 7)
    pose = first[:, None].expand(-1, 2, -1)
    for k in range(4):
        assert torch.allclose(path[:, :, k], states.normalise(pose), atol=1e-4)
        for action in actions[:, :, k].split(7, -1):
            pose = integrate_actions(pose, action)


def test_integration_is_refused_for_what_is_no_pose():
    with pytest.raises(ValueError, match="use predicted"):
        PoseIntegration(4, 2)


@pytest.mark.slow
def test_a_learned_state_follows_its_actions():
    torch.manual_seed(0)
    states = StatePredictor(2, torch.zeros(1), torch.ones(1))
    path, blocks = torch.zeros(64, 5, 2), torch.rand(64, 4, 1, generator=GENERATOR) * 2 - 1
    for t in range(4):  # a point that is pushed
        path[:, t + 1, 1] = path[:, t, 1] + 0.5 * blocks[:, t, 0]
        path[:, t + 1, 0] = path[:, t, 0] + path[:, t, 1]
    states.set_statistics(path.flatten(0, 1))
    optimizer = torch.optim.Adam(states.parameters(), 3e-3)
    for _ in range(300):
        optimizer.zero_grad()
        loss = states.compute_losses(states.normalise(path), blocks)["state"]
        loss.backward()
        optimizer.step()
    assert loss < 1e-3
    made = states(states.normalise(path[:, 0]), blocks[:, None])[:, 0]
    assert torch.allclose(made, states.normalise(path[:, :4]), atol=0.2)


@pytest.mark.parametrize(("proprio", "size", "block"), [("integrate", 7, 7), ("predicted", 3, 2)])
def test_the_state_moves_predictions_and_is_asked_for(proprio, size, block):
    model = dynamics("tokens", proprio=proprio, proprio_dim=size)
    seen, valid = frames(2, 3), torch.ones(2, 3, dtype=torch.bool)
    past, plans = torch.zeros(2, 2, block), torch.zeros(2, 5, 4, block)
    states = torch.rand(2, 3, size, generator=GENERATOR)
    path = model.imagine(model.observe(seen, past, valid, states), plans).view("tokens")
    other = model.imagine(model.observe(seen, past, valid, states + 0.3), plans).view("tokens")
    assert model.spec.proprio == proprio and not torch.allclose(path, other, atol=1e-3)
    with pytest.raises(ValueError, match="robot's state"):
        model.observe(seen, past, valid)


def test_training_sees_states_of_the_history_alone():
    model = PosttrainModel(dynamics("pooled", proprio="predicted", proprio_dim=3), PosttrainConfig(rollout_steps=3))
    features = model.dynamics.read(frames(4, 6))["features"]
    batch = {
        "features": features,
        "action": torch.rand(4, 5, 2, generator=GENERATOR),
        "proprio": torch.rand(4, 6, 3, generator=GENERATOR),
    }
    later = {**batch, "proprio": batch["proprio"].clone()}
    later["proprio"][:, 3:] += 1  # after the full history of three
    _, terms = model.loss(batch, step=2)
    _, changed = model.loss(later, step=2)
    assert torch.equal(terms["rollout"], changed["rollout"]) and terms["state"] != changed["state"]
    assert set(terms) == {"teacher_forcing", "rollout", "state"}


def test_a_state_needs_a_size_and_a_rule():
    with pytest.raises(ValueError, match="proprio_dim"):
        dynamics(proprio="predicted")
