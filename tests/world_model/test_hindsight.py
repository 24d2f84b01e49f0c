"""Goals in hindsight: which frames they are, how often, and where they are reached."""

from __future__ import annotations

import pytest
import torch

from world_model.hindsight import Goals, draw_goals

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
