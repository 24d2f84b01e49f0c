"""Goals in hindsight: which frames they are, how often, and where they are reached."""

from __future__ import annotations

import pytest
import torch

from world_model.hindsight import DistantGoals, Goals, draw_distant_goals, draw_goals, draw_later

FIRST, FRAMES = 2, 8


def draw(clips: int, present: float, random: float, seed: int = 0) -> Goals:
    return draw_goals(clips, FRAMES, FIRST, present, random, torch.Generator().manual_seed(seed))


def test_goals_are_the_present_frame_a_later_one_or_that_of_another_clip_as_often_as_asked():
    goals, numbers = draw(4000, 0.2, 0.3), torch.arange(4000)
    other = goals.clip_B != numbers
    present, later = ~other & (goals.frame_B == FIRST), ~other & (goals.frame_B > FIRST)
    shares = torch.stack((present, later, other)).float().mean(1)
    assert torch.allclose(shares, torch.tensor([0.2, 0.5, 0.3]), atol=0.03)
    assert set(goals.frame_B[later].tolist()) == set(range(FIRST + 1, FRAMES))
    assert set(goals.frame_B[other].tolist()) == set(range(FRAMES))


@pytest.mark.parametrize(("present", "random", "frames"), [(1.0, 0.0, {2}), (0.0, 0.0, {3, 4, 5, 6, 7})])
def test_without_other_clips_every_goal_is_of_its_own(present, random, frames):
    goals = draw(200, present, random)
    assert torch.equal(goals.clip_B, torch.arange(200)) and set(goals.frame_B.tolist()) == frames


def test_a_clip_alone_has_goals_of_its_own():
    assert all(draw(1, 0.0, 1.0, seed).clip_B.item() == 0 for seed in range(5))


def test_a_goal_is_reached_at_its_own_frame_alone():
    goals = Goals(torch.tensor([0, 1, 0]), torch.tensor([2, 4, 3]))  # the third is a frame of the first clip
    want = torch.tensor([[True, False, False], [False, False, True], [False, False, False]])
    assert torch.equal(goals.find_reached(FIRST, 3), want)
    frames = torch.arange(3 * FRAMES).view(3, FRAMES, 1, 1, 1)
    assert goals.read(frames).flatten().tolist() == [2, FRAMES + 4, 3]


def test_distant_goals_are_the_present_frame_a_later_one_or_any_as_often_as_asked():
    numbers, after = torch.arange(4000), torch.full((4000,), 9)
    goals = draw_distant_goals(numbers, after, 4000, 0.2, 0.3, 0.9, torch.Generator().manual_seed(0))
    own = goals.transition_B == numbers
    shares = torch.stack((own & (goals.steps_B == 0), own & (goals.steps_B > 0), ~own)).float().mean(1)
    assert torch.allclose(shares, torch.tensor([0.2, 0.5, 0.3]), atol=0.03)
    assert not goals.steps_B[~own].any() and goals.transition_B[~own].unique().numel() > 800
    assert torch.equal(goals.find_reached(numbers), own & (goals.steps_B == 0))


def test_a_goal_at_random_that_is_the_present_frame_is_reached():
    goals = DistantGoals(torch.tensor([3, 3, 5]), torch.tensor([0, 1, 0]))
    assert goals.find_reached(torch.tensor([3, 3, 3])).tolist() == [True, False, False]


def test_later_goals_are_geometric_up_to_the_end_or_uniform():
    generator, count = torch.Generator().manual_seed(0), 20000
    steps = draw_later(torch.full((count,), 4), 0.5, generator)
    shares = torch.bincount(steps, minlength=5)[1:] / count
    assert torch.allclose(shares, torch.tensor([0.5, 0.25, 0.125, 0.125]), atol=0.02)
    steps = draw_later(torch.full((count,), 4), None, generator)
    assert torch.allclose(torch.bincount(steps, minlength=5)[1:] / count, torch.full((4,), 0.25), atol=0.02)
    after = torch.tensor([1, 2, 3] * 500)
    for discount in (0.99, None):
        steps = draw_later(after, discount, generator)
        assert steps.min() == 1 and (steps <= after).all() and torch.equal(steps[::3], after[::3])
