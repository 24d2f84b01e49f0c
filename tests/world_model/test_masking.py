"""Mask samplers."""

from __future__ import annotations

import torch

from world_model.masking import MaskConfig, future, multi_block

GRID = (4, 16, 16)


def test_context_and_target_never_share_a_token_and_are_sorted():
    context, target = multi_block(MaskConfig(8, 0.15), 6, GRID, (0, 1))
    for row in range(6):
        assert not set(context[row].tolist()) & set(target[row].tolist())
        for indices in (context[row], target[row]):
            assert (indices.diff() > 0).all() and 0 <= indices[0] and indices[-1] < 1024


def test_the_two_released_generators_hide_the_published_shares():
    for config, low, high in ((MaskConfig(8, 0.15), 0.55, 0.80), (MaskConfig(2, 0.7), 0.80, 0.97)):
        shares = [1 - multi_block(config, 1, GRID, (0, seed))[0].shape[1] / 1024 for seed in range(30)]
        assert low < sum(shares) / 30 < high, (config, sum(shares) / 30)


def test_every_time_step_keeps_context_after_cutting_to_the_shortest_row():
    steps = torch.cat([multi_block(MaskConfig(8, 0.15), 24, GRID, (0, s))[0].flatten() // 256 for s in range(10)])
    shares = torch.bincount(steps, minlength=4) / len(steps)
    assert (shares - 0.25).abs().max() < 0.02, shares  # dropping from the end would starve the last step


def test_masks_are_a_function_of_their_seed():
    first, again, other = (multi_block(MaskConfig(), 3, GRID, (0, s)) for s in (5, 5, 6))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert first[0].shape != other[0].shape or not torch.equal(first[0], other[0])


def test_future_hides_all_later_steps():
    context, target = future(2, (3, 2, 2), 1)
    assert context.tolist() == [[0, 1, 2, 3]] * 2 and target.tolist() == [list(range(4, 12))] * 2
