"""The protocol: views, specs, and a dynamics that speaks it."""

import pytest
import torch

from planners.protocol import Dynamics, DynamicsSpec, Views, view_first_draw

from .point_mass import PointMass, draw, read


def spec(**changes):
    facts = {"frame_hw": (4, 4), "max_horizon": 4, "views": ("pooled",)}
    return DynamicsSpec(**{"action_low": (-1.0, -2.0), "action_high": (1.0, 2.0), **facts, **changes})


def test_a_view_is_computed_when_first_asked_for_and_only_once():
    calls = []
    views = Views({"pooled": lambda: calls.append(1) or torch.ones(2, 3)})
    assert calls == []
    assert views.view("pooled") is views.view("pooled")
    assert calls == [1]


def test_a_view_that_is_not_offered_is_named_with_the_choices():
    with pytest.raises(ValueError, match=r"'pixels'.*pooled.*tokens"):
        Views({"tokens": torch.ones(1), "pooled": torch.ones(1)}).view("pixels")


@pytest.mark.parametrize("rows", [slice(1, 3), torch.tensor([1, 2])])
def test_selecting_goals_takes_environments_and_leaves_draws(rows):
    pooled, tokens, other = torch.randn(4, 5), torch.randn(3, 4, 2, 5), torch.randn(4, 7, 7)
    goal = Views({"pooled": pooled, "tokens": lambda: tokens, "heat": other}).select(rows)
    assert torch.equal(goal.view("pooled"), pooled[1:3])
    assert torch.equal(goal.view("tokens"), tokens[:, 1:3])
    assert torch.equal(goal.view("heat"), other[1:3])


def test_a_spec_knows_the_size_of_a_block_and_of_an_action():
    blocks = spec(action_low=(-1.0,) * 6, action_high=(1.0,) * 6, frame_skip=3)
    assert (blocks.block_dim, blocks.action_dim) == (6, 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"action_low": (0.0,)},
        {"action_low": (1.0, 2.0)},
        {"frame_skip": 3},
        {"history": 0},
        {"max_horizon": 0},
    ],
)
def test_a_spec_that_contradicts_itself_is_refused(changes):
    with pytest.raises(AssertionError):
        spec(**changes)


def test_the_point_mass_speaks_the_protocol_and_its_frames_show_its_position():
    assert isinstance(PointMass(), Dynamics)
    position = torch.tensor([[0.0, -3.25], [7.5, 1.125]])
    assert torch.equal(read(draw(position)), position)


def test_the_first_draw_of_a_view_has_no_axis_of_draws():
    drawn = torch.arange(2 * 3 * 4).view(2, 1, 3, 1, 4)  # E B S K D
    assert torch.equal(view_first_draw(Views({"pooled": drawn}), "pooled"), drawn[0])
    assert torch.equal(view_first_draw(Views({"pooled": drawn[1]}), "pooled"), drawn[1])
