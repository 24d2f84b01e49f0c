"""Random crops against the definition, one pixel at a time and over many draws."""

from __future__ import annotations

import math

import pytest
import torch

from world_model.training.augment import ATTEMPTS, CropConfig, crop_randomly, cut_boxes, draw_boxes, draw_uniform

WIDE = 16 / 9


def boxes(aspect: float, config: CropConfig, count: int = 4000) -> torch.Tensor:
    draws = draw_uniform(torch.arange(count), 3, 2 * ATTEMPTS + 2)
    return draw_boxes(draws, torch.full((count,), aspect), config)


def test_draws_are_uniform_unrelated_and_functions_of_seed_key_and_place():
    draws = draw_uniform(torch.arange(4000), 7, 5)
    assert torch.equal(draw_uniform(torch.arange(1000, 2000), 7, 5), draws[1000:2000])
    assert torch.equal(draw_uniform(torch.tensor([3]), 7, 3), draws[3:4, :3])
    assert not torch.isclose(draw_uniform(torch.arange(4000), 8, 5), draws).all(1).any()
    assert draws.min() >= 0 and draws.max() < 1
    counts = torch.histc(draws.flatten(), 20, 0, 1) / draws.numel()
    assert (counts - 0.05).abs().max() < 0.005
    assert (torch.corrcoef(draws.T) - torch.eye(5)).abs().max() < 0.06
    assert abs(torch.corrcoef(torch.stack((draws[:-1, 0], draws[1:, 0])))[0, 1]) < 0.06


@pytest.mark.parametrize("aspect", [1.0, WIDE, 0.5])
def test_boxes_lie_within_the_picture_and_have_the_asked_areas_and_proportions(aspect):
    left, top, width, height = boxes(aspect, CropConfig()).double().unbind(1)
    assert left.min() >= 0 and top.min() >= 0
    assert (left + width).max() <= 1 + 1e-6 and (top + height).max() <= 1 + 1e-6
    area, ratio = width * height, width / height * aspect
    assert area.min() >= 0.3 - 1e-4 and area.max() <= 1 and ratio.min() >= 0.75 - 1e-4 and ratio.max() <= 1.35 + 1e-4
    assert area.std() > 0.08 and ratio.log().std() > 0.1 and left.std() > 0.05


def test_small_boxes_have_uniform_areas_and_log_uniform_proportions():
    _, _, width, height = boxes(1.0, CropConfig(area=(0.1, 0.3))).double().unbind(1)  # these always fit
    area, ratio = width * height, (width / height).log()
    assert area.mean().item() == pytest.approx(0.2, abs=0.005)
    assert ratio.mean().item() == pytest.approx((math.log(0.75) + math.log(1.35)) / 2, abs=0.01)
    assert ratio.std().item() == pytest.approx((math.log(1.35) - math.log(0.75)) / math.sqrt(12), abs=0.01)


def test_where_no_box_fits_the_largest_allowed_middle_is_taken():
    box = boxes(3.0, CropConfig(area=(1.0, 1.0)), 4)
    width = 1.35 / 3
    torch.testing.assert_close(box, torch.tensor([[(1 - width) / 2, 0, width, 1]]).expand(4, 4))
    tall = boxes(0.25, CropConfig(area=(1.0, 1.0)), 4)
    height = 0.25 / 0.75
    torch.testing.assert_close(tall, torch.tensor([[0, (1 - height) / 2, 1, height]]).expand(4, 4))


def test_a_whole_box_gives_the_picture_back_and_a_flip_mirrors_it():
    frames = torch.randint(0, 256, (2, 3, 8, 10, 3), dtype=torch.uint8)
    whole = torch.tensor([[0.0, 0, 1, 1]]).expand(2, 4)
    got = cut_boxes(frames, whole, torch.tensor([False, True]), (8, 10))
    torch.testing.assert_close(got[0], frames[0].float(), atol=1e-2, rtol=0)
    torch.testing.assert_close(got[1], frames[1].float().flip(2), atol=1e-2, rtol=0)


def test_a_box_is_cut_where_it_lies_and_is_the_same_for_all_frames():
    frames = torch.randint(0, 256, (1, 4, 16, 16, 3), dtype=torch.uint8)
    box = torch.tensor([[4 / 16, 2 / 16, 8 / 16, 4 / 16]])
    got = cut_boxes(frames, box, torch.tensor([False]), (4, 8))
    torch.testing.assert_close(got, frames[:, :, 2:6, 4:12].float(), atol=1e-2, rtol=0)


def test_a_squeezed_picture_gives_the_crop_of_the_true_one():
    """A horizontal ramp over a picture twice as wide as high, squeezed into a square: a crop spans, in the true
    picture's width, what its box says."""
    ramp = (torch.arange(64) + 0.5) / 64 * 255
    frames = ramp[None, None, None, :, None].expand(64, 1, 64, 64, 3)
    config, draw = CropConfig(area=(0.2, 0.4), flip=0.0), torch.arange(64)
    got = crop_randomly(frames, torch.full((64,), 2.0), draw, 5, config, (16, 16))
    box = draw_boxes(draw_uniform(draw, 5, 2 * ATTEMPTS + 3)[:, :-1], torch.full((64,), 2.0), config)
    inner = slice(4, 12)  # away from the border, where values are held
    slope = (got[:, 0, 8, 11, 0] - got[:, 0, 8, 4, 0]) / 7
    torch.testing.assert_close(slope, box[:, 2] * 255 / 16, atol=0.05, rtol=0)
    assert got[:, :, inner].std(2).max() < 1e-3


def test_crops_are_functions_of_the_draw_and_not_of_the_batch():
    frames = torch.randint(0, 256, (6, 2, 24, 24, 3), dtype=torch.uint8)
    aspect, draw = torch.full((6,), WIDE), torch.arange(100, 106)
    together = crop_randomly(frames, aspect, draw, 1, CropConfig(), (16, 16))
    apart = torch.cat(
        [crop_randomly(frames[i : i + 1], aspect[:1], draw[i : i + 1], 1, CropConfig(), (16, 16)) for i in range(6)]
    )
    torch.testing.assert_close(together, apart)
    assert together.shape == (6, 2, 16, 16, 3) and together.dtype == torch.float32
    other = crop_randomly(frames, aspect, draw + 6, 1, CropConfig(), (16, 16))
    assert ((together - other).abs().flatten(1).mean(1) > 1).all()


@pytest.mark.parametrize("key", ["area", "aspect"])
def test_ranges_of_crops_begin_with_the_least(key):
    with pytest.raises(ValueError, match=rf"{key}=\[0.9,0.5\]: give least and most in this order, as \[0.5,0.9\]"):
        CropConfig(**{key: (0.9, 0.5)})
