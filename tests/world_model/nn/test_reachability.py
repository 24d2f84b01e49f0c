"""Distances that count model steps, learned from time differences alone."""

from __future__ import annotations

import pytest
import torch

from world_model.nn.reachability import ReachConfig, ReachHead, fit_reach, make_pair_source, reach_loss

CONFIG = ReachConfig(dim=8, hidden=64, far=12, expectile=0.1, steps=150, batch_size=256)


def wandering_walks(walks: int, length: int) -> tuple[torch.Tensor, list[tuple[int, int]]]:
    """Places on a line of 0..20 (in fifths), one step at most a time, and where each walk lies."""
    generator = torch.Generator().manual_seed(0)
    moves = torch.randint(-1, 2, (walks, length), generator=generator).cumsum(1)
    places = (10 + moves).clamp(0, 20).float()
    return places.flatten()[:, None] / 5, [(i * length, length) for i in range(walks)]


@pytest.mark.slow
def test_distances_are_in_proportion_to_the_fewest_steps_although_recorded_ways_wander():
    features, episodes = wandering_walks(60, 60)
    torch.manual_seed(0)
    head = ReachHead(1, CONFIG.dim, CONFIG.hidden)
    head.set_statistics(features)
    fit_reach(head, make_pair_source(features, episodes, 1, CONFIG), CONFIG, seed=0)
    line = torch.arange(0, 21)[:, None] / 5
    embedded = head(line)
    learned = (embedded[:, None] - embedded[None]).norm(dim=-1)
    fewest = (torch.arange(21)[:, None] - torch.arange(21)).abs().clamp_max(CONFIG.far).float()
    ratio = (learned / fewest)[(fewest > 0) & (fewest <= 6)]
    assert 1 < ratio.mean() < 3 and ratio.std() < 0.2 * ratio.mean(), (ratio.mean(), ratio.std())


def test_a_low_expectile_reads_the_shorter_of_two_recorded_times():
    config = ReachConfig(dim=1, expectile=0.1)
    times = torch.tensor([4.0, 10.0])  # the same pair of frames, reached twice
    distances = torch.linspace(3, 11, 801)
    losses = torch.stack([reach_loss(d.expand(2), times, config) for d in distances])
    best = float(distances[losses.argmin()])
    assert best == pytest.approx((0.9 * 4 + 0.1 * 10) / 1.0, abs=0.05)  # where the weighted errors balance


def test_pairs_that_are_far_or_of_other_episodes_are_pushed_apart_and_never_drawn_together():
    config = ReachConfig(dim=1, far=5)
    steps = torch.tensor([torch.inf, 9.0])
    assert reach_loss(torch.tensor([7.0, 5.0]), steps, config) == 0
    assert reach_loss(torch.tensor([1.0, 1.0]), steps, config) > 0


def test_pairs_lie_in_one_episode_as_many_model_steps_apart_as_they_say():
    features, episodes = torch.arange(50.0)[:, None], [(0, 2), (2, 20), (22, 28)]
    draw = make_pair_source(features, episodes, 3, ReachConfig(dim=1, far=3, other_episodes=0.25))
    one, other, steps = draw(torch.Generator().manual_seed(1), 400)
    within = steps[100:]
    assert torch.equal((other - one)[100:, 0], 3 * within) and within.min() == 1 and within.max() == 6
    assert one.min() >= 2  # no episode shorter than a model step
    strange = steps[:100].isinf()
    assert strange.any() and (((one < 22) != (other < 22))[:100, 0] == strange).all()
    with pytest.raises(ValueError, match="no episode of train is longer than one model step of 3"):
        make_pair_source(features, [(0, 2)], 3, ReachConfig(dim=1))
