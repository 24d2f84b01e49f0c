"""The metric of an embedding: slow modes found, weighed as defined, and folded into the pool head."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from tests.world_model.small import SIZES, VJEPA2
from world_model.encoder import EncoderConfig, VideoEncoder
from world_model.nn.pools import KeypointPoolConfig, LearnedPoolConfig
from world_model.objectives.metric import Metric, MetricConfig, find_slow_modes, fit_metric, make_metric_map
from world_model.objectives.pretrain_model import PretrainModel
from world_model.training.appearance import AppearanceConfig


def mixed_processes(rhos, episodes=60, steps=400):
    """Independent AR(1) processes [T, D] of unit variance and known autocorrelation, and the same, mixed."""
    generator = torch.Generator().manual_seed(0)
    rho = torch.tensor(rhos)
    noise = torch.randn(episodes, steps, len(rhos), generator=generator)
    values = [noise[:, 0]]
    for step in range(1, steps):
        values.append(rho * values[-1] + (1 - rho**2).sqrt() * noise[:, step])
    sources = torch.stack(values, 1)
    mixing = torch.randn(len(rhos), len(rhos), generator=generator)
    return sources, sources @ mixing + 3.0


def test_slow_modes_are_the_sources_slowest_first_whatever_the_mixing():
    sources, mixed = mixed_processes([0.5, 0.95, 0.8])
    modes = find_slow_modes(list(mixed), lag=1)
    torch.testing.assert_close(modes.rho_K, torch.tensor([0.95, 0.8, 0.5]).double(), atol=0.02, rtol=0)
    found = ((mixed.double() - modes.mean_D) @ modes.directions_DK).flatten(0, 1)
    wanted = sources[..., [1, 2, 0]].flatten(0, 1).double()
    correlation = torch.corrcoef(torch.cat((found, wanted), 1).T)[:3, 3:].abs()
    assert (correlation.diagonal() > 0.99).all(), correlation


@pytest.mark.parametrize(
    ("kind", "weight"),
    [
        ("kinetic", lambda rho, time: rho),
        ("commute", lambda rho, time: math.sqrt(time / 2)),
        ("biharmonic", lambda rho, time: time),
    ],
)
def test_each_mode_counts_by_the_formula_of_its_distance(kind, weight):
    _, mixed = mixed_processes([0.9, 0.6])
    lag = 2
    modes = find_slow_modes(list(mixed), lag)
    made = (mixed.double() - modes.mean_D) @ make_metric_map(modes, MetricConfig(kind, lag), mixed.shape[2])
    within = (made - made.mean(1, keepdim=True)).flatten(0, 1)
    sizes = within.std(0)
    wanted = [weight(rho, -lag / math.log(rho)) for rho in modes.rho_K.tolist()]
    assert (sizes[0] / sizes[1]).item() == pytest.approx(wanted[0] / wanted[1], rel=0.02)
    assert within.square().mean().item() == pytest.approx(1.0, rel=0.02)


def test_what_never_changes_within_an_episode_is_no_mode():
    _, mixed = mixed_processes([0.9, 0.6])
    doors = torch.randn(len(mixed), 1, 1, generator=torch.Generator().manual_seed(1)).expand(-1, mixed.shape[1], -1)
    modes = find_slow_modes(list(torch.cat((mixed + doors, doors), 2)), 1)
    torch.testing.assert_close(modes.rho_K, torch.tensor([0.9, 0.6]).double(), atol=0.02, rtol=0)


def test_directions_that_do_not_vary_are_left_out():
    _, mixed = mixed_processes([0.9, 0.6])
    modes = find_slow_modes([torch.cat((episode, episode[:, :1], torch.ones(400, 1)), 1) for episode in mixed], 1)
    matrix = make_metric_map(modes, MetricConfig("biharmonic", 1), 4)
    assert len(modes.rho_K) == 2 and matrix.shape == (4, 4)
    assert torch.isfinite(matrix).all() and (matrix[:, 2:] == 0).all()


def test_a_folded_encoder_gives_the_measured_embedding():
    torch.manual_seed(0)
    encoder = VideoEncoder(EncoderConfig(patch_px=16, width=32, depth=1, heads=2, pool=LearnedPoolConfig(6)))
    frames = torch.randint(0, 256, (1, 12, 64, 64, 3), dtype=torch.uint8)
    mean, matrix = torch.randn(6, dtype=torch.float64), torch.randn(6, 6, dtype=torch.float64)
    with torch.no_grad():
        plain = encoder.pool_tokens(encoder.encode_frames(frames))
        assert encoder.pool is not None
        Metric("pooled", mean, matrix).fold_into(encoder.pool)
        folded = encoder.pool_tokens(encoder.encode_frames(frames))
    torch.testing.assert_close(folded, ((plain.double() - mean) @ matrix).float(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("pool", [LearnedPoolConfig(12, 5, 128), KeypointPoolConfig(12, 5)])
def test_a_metric_of_the_last_map_s_inputs_takes_its_place(pool):
    torch.manual_seed(0)
    encoder = VideoEncoder(replace(SIZES, pool=pool))
    frames = torch.randint(0, 256, (8, 30, 64, 64, 3), dtype=torch.uint8)
    seen = torch.cat([encoder.read_pool_inputs(clip[None])[0] for clip in frames])
    metric = fit_metric(encoder, MetricConfig("commute", 1, source="inputs", modes=3), frames)
    assert encoder.pool is not None and metric.matrix_ID.shape == (seen.shape[1], 12)
    metric.fold_into(encoder.pool)
    with torch.no_grad():
        folded = encoder.embed_frames(frames[:1])[0]
    torch.testing.assert_close(
        folded, ((seen[:30].double() - metric.mean_I) @ metric.matrix_ID).float(), atol=1e-3, rtol=1e-3
    )
    assert (folded[:, 3:] == 0).all() and folded[:, :3].std(0).min() > 0.1


class BrightnessAndPlace:
    """A stand-in for an encoder: each frame's mean brightness, and where its brightest column lies."""

    pooled_dim = 2

    def eval(self):
        return self

    def embed_chunks(self, frames_BTHWC, source):
        columns = frames_BTHWC.float().mean((2, 4))
        return torch.stack((columns.mean(-1) / 50, columns.argmax(-1).float() / 5), -1)


def test_random_appearances_take_weight_from_what_appearance_changes():
    generator = torch.Generator().manual_seed(0)

    def wander(low, high):
        walk = torch.randn(200, generator=generator).cumsum(0)
        return low + (high - low) * (walk - walk.min()) / (walk.max() - walk.min())

    episodes = []
    for _ in range(20):
        frames = wander(40, 120).view(-1, 1, 1, 1).repeat(1, 8, 32, 3)
        frames[torch.arange(200), :, wander(0, 31).round().long()] += 60
        episodes.append(frames)
    views = AppearanceConfig(mix=0.0, shift=60.0, overlay=0.0, move=0.0, turn=0.0, zoom=0.0)
    plain, varied = (
        fit_metric(BrightnessAndPlace(), MetricConfig("biharmonic", 1, views=chosen), episodes)
        for chosen in (None, views)
    )
    (brightness, place), (less, place_still) = (metric.matrix_ID.norm(dim=1).tolist() for metric in (plain, varied))
    assert brightness > 0.5 * place and less < 0.1 * place_still


def test_what_cannot_be_fitted_is_said():
    with pytest.raises(ValueError, match="lag=5: no training episode"):
        find_slow_modes([torch.randn(5, 3)], 5)
    bare = VideoEncoder(replace(SIZES, pool=None))
    with pytest.raises(ValueError, match="pooled"):
        PretrainModel(bare, replace(VJEPA2, metric=MetricConfig("kinetic")), steps=1)
