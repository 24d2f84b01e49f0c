"""Values of frames and goals: their inputs, and the steps that they stand for."""

from __future__ import annotations

import math

import torch

from world_model.goal_value import GoalValue, ValueConfig, count_relations, init_xavier, relate_frames


def test_inputs_are_relative_to_the_newest_frame():
    seen = torch.tensor([[[1.0, 2.0], [3.0, 5.0]]])
    got = relate_frames(seen, torch.tensor([[False, True]]), torch.tensor([[4.0, 4.0]]))
    assert got.tolist() == [[3.0, 5.0, 1.0, -1.0, -2.0, -3.0, 0.0, 1.0]] and count_relations(2, 2) == 8


def test_steps_are_those_whose_discounted_number_is_minus_the_value():
    value = GoalValue(ValueConfig(8, 1, 0.9), 1, 2)
    want = torch.tensor([0.0, 1.0, 7.5, 40.0])
    value.forward = lambda *_: (-(1 - 0.9**want) / 0.1).expand(2, -1)
    steps = value.estimate_steps(torch.zeros(4, 1, 2), torch.ones(4, 1, dtype=torch.bool), torch.zeros(4, 2))
    torch.testing.assert_close(steps, want, rtol=1e-3, atol=1e-4)
    value.forward = lambda *_: torch.tensor([[0.4, -30.0]] * 2)  # above 0, and below -1 / (1 - 0.9)
    steps = value.estimate_steps(torch.zeros(2, 1, 2), torch.ones(2, 1, dtype=torch.bool), torch.zeros(2, 2))
    assert steps[0] == 0 and 100 < steps[1] < math.inf


def test_two_networks_of_three_layers_have_the_published_layout():
    value = GoalValue(ValueConfig(width=16), 2, 5)
    kinds = [type(layer).__name__ for layer in value.members[0]]
    assert kinds == ["Linear", "GELU", "LayerNorm"] * 3 + ["Linear"] and len(value.members) == 2
    assert not torch.equal(value.members[0][0].weight, value.members[1][0].weight)


def test_weights_begin_uniform_with_the_variance_of_inputs_and_outputs():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(300, 100), torch.nn.Linear(100, 300))
    init_xavier(network, 0.1)
    for layer, gain in zip(network, (1.0, 0.1), strict=True):
        bound = gain * math.sqrt(6 / 400)
        assert 0.98 * bound < layer.weight.abs().max() <= bound and not layer.bias.any()
        assert abs(layer.weight.var().item() / (bound**2 / 3) - 1) < 0.05
