"""Mask samplers."""

from __future__ import annotations

import pytest
import torch

from world_model.objectives.masking import BlockMask, FutureMask, RandomMask

GRID = (4, 16, 16)
SMALL, LARGE = BlockMask(8, (0.15, 0.15)), BlockMask(2, (0.7, 0.7))
FAMILY = {
    "small blocks": SMALL,
    "large blocks": LARGE,
    "short blocks": BlockMask(8, (0.15, 0.15), time=0.5),
    "ijepa": BlockMask(4, (0.15, 0.2), separate=True, context=(0.85, 1.0)),
    "random": RandomMask(0.6),
    "tubes": RandomMask(0.9, tube=True),
}


@pytest.mark.parametrize("name", FAMILY)
def test_context_and_target_never_share_a_token_and_are_sorted(name):
    masks = FAMILY[name].sample(6, GRID, (0, 1))
    assert len(masks.targets_BP) == (4 if name == "ijepa" else 1)
    for target in masks.targets_BP:
        for row in range(6):
            assert not set(masks.context_BM[row].tolist()) & set(target[row].tolist())
            for indices in (masks.context_BM[row], target[row]):
                assert (indices.diff() > 0).all() and 0 <= indices[0] and indices[-1] < 1024


@pytest.mark.parametrize(("config", "low", "high"), [(SMALL, 0.55, 0.70), (LARGE, 0.74, 0.90)])
def test_the_released_generators_hide_the_published_shares_and_waste_almost_nothing(config, low, high):
    drawn = [config.sample(24, (8, 16, 16), (0, seed)) for seed in range(12)]
    hidden = sum(masks.targets_BP[0].shape[1] for masks in drawn) / (12 * 2048)
    assert low < hidden < high
    assert sum(masks.unused for masks in drawn) / 12 < 0.02  # the reference wastes 0.29 and 0.23


def test_every_time_step_keeps_its_context():
    steps = torch.cat([FAMILY["short blocks"].sample(24, GRID, (0, s)).context_BM.flatten() // 256 for s in range(9)])
    shares = torch.bincount(steps, minlength=4) / len(steps)
    assert shares.min() > 0.15, shares  # dropping from the end would starve the last step
    steps = torch.cat([SMALL.sample(24, GRID, (0, s)).context_BM.flatten() // 256 for s in range(9)])
    assert (torch.bincount(steps, minlength=4) / len(steps) - 0.25).abs().max() < 0.01


def test_tubes_hide_the_same_places_at_every_step():
    target = FAMILY["tubes"].sample(3, GRID, (1,)).targets_BP[0].reshape(3, 4, -1)
    assert torch.equal(target[:, 1:] - 256 * torch.arange(1, 4)[:, None], target[:, :1].expand(-1, 3, -1))


def test_masks_are_a_function_of_their_seed_and_of_the_sample():
    first, again, other = (SMALL.sample(3, GRID, (0, s)) for s in (5, 5, 6))
    assert torch.equal(first.context_BM, again.context_BM) and torch.equal(first.targets_BP[0], again.targets_BP[0])
    assert not torch.equal(first.context_BM, other.context_BM)
    assert not torch.equal(first.context_BM[0], first.context_BM[1])


def test_future_hides_all_later_steps():
    masks = FutureMask(1).sample(2, (3, 2, 2), (0,))
    assert masks.context_BM.tolist() == [[0, 1, 2, 3]] * 2
    assert masks.targets_BP[0].tolist() == [list(range(4, 12))] * 2


def test_masks_that_leave_no_context_are_refused():
    with pytest.raises(ValueError, match=r"blocks=.* of area=.* leave a sample without a visible token"):
        BlockMask(1, (1.0, 1.0), aspect=(1.0, 1.0)).sample(2, GRID, (0,))
    with pytest.raises(ValueError, match=r"area=\[0.5, 0.2\] must be least and most"):
        BlockMask(area=(0.5, 0.2))
    with pytest.raises(ValueError, match="visible_steps=4 hide nothing of a clip of 4 steps"):
        FutureMask(4).sample(1, GRID, (0,))
