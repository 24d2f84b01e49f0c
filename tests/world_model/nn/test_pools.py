"""Pools: one embedding a frame from its tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.world_model.small import FUTURE, SIZES, encoder, frames
from world_model.encoder import VideoEncoder
from world_model.nn.pools import POSITIONS_AT_ONCE, KeypointPool, KeypointPoolConfig, LearnedPoolConfig
from world_model.objectives.pretrain_model import PretrainModel

KEYPOINTS = replace(SIZES, pool=KeypointPoolConfig(12, 16))
SIDE = SIZES.image_px[0]


def bars(places_N2: Tensor, angles_N: Tensor) -> Tensor:
    """Pictures [N, H, W, 3] of a bar with one coloured end, by its middle (down, right; pixels) and its angle (rad)."""
    down, right = torch.meshgrid(*[torch.arange(side, dtype=torch.float) for side in SIZES.image_px], indexing="ij")
    y, x = down - places_N2[:, 0, None, None], right - places_N2[:, 1, None, None]
    sin, cos = angles_N.sin()[:, None, None], angles_N.cos()[:, None, None]
    along, across = x * cos + y * sin, y * cos - x * sin
    inside = ((along.abs() < 7) & (across.abs() < 2)).float()
    end = inside * (along > 2).float()
    return torch.stack((255 * inside, 255 * (inside - end), 255 * end), -1).to(torch.uint8)


def read_linearly(model: VideoEncoder, seen: Tensor, wanted: Tensor) -> Tensor:
    """R2 on the last quarter of a ridge regression from pooled embeddings fitted on the rest, of every number."""
    with torch.no_grad():
        x = torch.cat([model.embed_frames(chunk[None])[0] for chunk in seen.split(50)]).double()
    y, rest = wanted.double(), len(seen) // 4
    x = torch.cat(((x - x.mean(0)) / x.std(0), torch.ones(len(x), 1)), 1)
    fit = torch.linalg.solve(x[:-rest].T @ x[:-rest] + torch.eye(x.shape[1]), x[:-rest].T @ y[:-rest])
    error = (y[-rest:] - x[-rest:] @ fit).square().sum(0)
    return 1 - error / (y[-rest:] - y[-rest:].mean(0)).square().sum(0)


@pytest.mark.slow
def test_untrained_keypoints_say_where_a_thing_is_and_how_it_is_turned():
    draw = torch.Generator().manual_seed(0)
    places = 10 + (SIDE - 20) * torch.rand(1200, 2, generator=draw)
    angles = 2 * torch.pi * torch.rand(1200, generator=draw)
    pose = torch.cat((places, torch.stack((angles.sin(), angles.cos()), -1)), 1)
    seen = bars(places, angles)
    keypoints = read_linearly(encoder(config=replace(SIZES, pool=KeypointPoolConfig(64, 64))), seen, pose)
    learned = read_linearly(encoder(config=replace(SIZES, pool=LearnedPoolConfig(64, 64, 128))), seen, pose)
    assert keypoints[:2].min() > 0.95 and keypoints[2:].min() > 0.4
    assert (keypoints > learned).all()


@pytest.mark.parametrize("stride", [2, 4])
def test_keypoints_are_mean_places_of_the_heat(stride):
    model = encoder(config=replace(KEYPOINTS, pool=KeypointPoolConfig(12, 16, stride)))
    pool = model.pool
    assert isinstance(pool, KeypointPool)
    heat = pool.heat(pool.maps(model.normalise(frames(1, 3)).movedim(2, 1).flatten(0, 1)))
    assert heat.shape[2:] == (SIDE // stride, SIDE // stride)
    places = torch.cartesian_prod(torch.linspace(-1, 1, heat.shape[2]), torch.linspace(-1, 1, heat.shape[3]))
    points = (heat.flatten(2).softmax(-1) @ places).flatten(1)
    torch.testing.assert_close(model.read_pool_inputs(frames(1, 3))[0], points, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.embed_frames(frames(1, 3))[0], pool.out(points), atol=1e-5, rtol=1e-5)


def test_many_pictures_have_the_keypoints_that_each_has_alone():
    at_once = POSITIONS_AT_ONCE // (SIDE // KEYPOINTS.pool.stride) ** 2
    model, seen = encoder(config=KEYPOINTS), frames(1, 3 * at_once + 1)
    together = model.read_pool_inputs(seen)
    with torch.no_grad():
        torch.testing.assert_close(model.read_pool_inputs(seen), together, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="encoder.pool.stride=3: keypoints are found at every 2nd or 4th pixel"):
        KeypointPoolConfig(stride=3)


def test_keypoints_learn_what_an_objective_asks_and_train_nothing_else():
    model = PretrainModel(encoder(config=KEYPOINTS), FUTURE, 1)
    loss, _ = model.loss({"pixels": frames(4, 5)}, 0)
    loss.backward()
    trained = {name for name, value in model.encoder.named_parameters() if value.grad is not None}
    assert trained == {name for name, _ in model.encoder.named_parameters() if name.startswith("pool.")}


@pytest.mark.parametrize(("levels", "wide"), [(0, False), (2, True)])
def test_heat_maps_of_a_pyramid_depend_on_the_picture_far_around_each_position(levels, wide):
    pool = encoder(config=replace(SIZES, pool=KeypointPoolConfig(12, 16, pyramid=levels))).pool
    assert isinstance(pool, KeypointPool)
    x = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).requires_grad_()
    maps = pool.maps(x) if pool.pyramid is None else pool.pyramid(pool.maps(x))
    middle = maps[0, :, SIDE // 8, SIDE // 8]
    gradient = torch.autograd.grad(middle.square().sum(), x)[0].abs().amax((0, 1))
    rows = (gradient > 0.02 * gradient.max()).any(1).nonzero()  # norms read full maps, with far smaller gradients
    assert (rows.max() - rows.min() > SIDE // 2) == wide


def test_keypoints_refuse_tokens_without_their_pictures():
    model = encoder(config=KEYPOINTS)
    with pytest.raises(ValueError, match="encoder.pool.kind=keypoints reads pictures"):
        model.pool_tokens(model.encode_frames(frames(1, 2)))
