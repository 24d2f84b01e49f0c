"""Probes and collapse diagnostics on features whose answer is known."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import spearmanr

from world_model.probing.probes import (
    find_collapse,
    measure_spread,
    near_pair_correlation,
    probe_r2,
    rank_correlation,
)

GENERATOR = torch.Generator().manual_seed(0)
TRUTH = torch.randn(400, 2, generator=GENERATOR)
GROUPS = torch.arange(400) // 20


def distance(a, b):
    return (a - b).norm(dim=-1)


def test_effective_rank_counts_the_directions_that_vary():
    flat = torch.randn(500, 3, generator=GENERATOR) @ torch.randn(3, 20, generator=GENERATOR)
    assert 1.5 < measure_spread(flat)["effective_rank"] <= 3.0
    assert measure_spread(torch.eye(64))["effective_rank"] > 60
    assert measure_spread(torch.ones(10, 4))["feature_std"] == 0.0


def test_a_linear_probe_reads_linear_features_and_nothing_from_noise():
    features = TRUTH @ torch.randn(2, 8, generator=GENERATOR)
    assert probe_r2(features, TRUTH, GROUPS) > 0.999
    assert probe_r2(torch.randn(400, 8, generator=GENERATOR), TRUTH, GROUPS) < 0.1


def test_the_probe_is_reported_on_episodes_it_never_saw():
    memory = torch.eye(20)[GROUPS]  # names the episode and nothing else
    constant_per_episode = torch.randn(20, 1, generator=GENERATOR)[GROUPS]
    assert probe_r2(memory, constant_per_episode, GROUPS) < 0.2


def test_more_dimensions_than_samples_change_nothing():
    narrow = TRUTH @ torch.randn(2, 6, generator=GENERATOR) + 0.5 * torch.randn(400, 6, generator=GENERATOR)
    rotation = torch.linalg.qr(torch.randn(600, 600, generator=GENERATOR)).Q[:6]
    a, b = probe_r2(narrow, TRUTH, GROUPS), probe_r2(narrow @ rotation, TRUTH, GROUPS)
    assert 0.5 < a < 0.99 and abs(a - b) < 0.01, (a, b)


def test_rank_correlation_sees_order_alone():
    values = torch.linspace(0, 1, 50)
    assert rank_correlation(values, values.exp()) > 0.999999
    assert rank_correlation(values, -values) < -0.999999
    assert abs(rank_correlation(torch.randn(5000, generator=GENERATOR), torch.randn(5000, generator=GENERATOR))) < 0.05


def test_tied_values_share_their_mean_rank():
    a, b = torch.tensor([1.0, 2, 2, 3, 3, 3]), torch.tensor([2.0, 1, 4, 4, 9, 6])
    assert rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)
    assert math.isnan(rank_correlation(torch.ones(6), b)), "a constant has no order"


def test_near_pair_correlation_is_one_for_an_isometry_and_about_zero_for_noise():
    assert near_pair_correlation(5 * TRUTH + 3, TRUTH, distance, near=1.0) > 0.999
    assert abs(near_pair_correlation(torch.randn(400, 2, generator=GENERATOR), TRUTH, distance, near=1.0)) < 0.1
    assert math.isnan(near_pair_correlation(TRUTH[:1], TRUTH[:1], distance, near=0.0))


def test_near_pair_correlation_takes_the_nearest_pairs_where_none_is_near():
    far = distance(TRUTH[:, None], TRUTH).quantile(0.2)
    bent = torch.where(TRUTH.norm(dim=-1, keepdim=True) > far, -TRUTH, TRUTH)  # true of near pairs alone
    assert near_pair_correlation(TRUTH, TRUTH, distance, near=0.0) > 0.999
    assert (
        near_pair_correlation(bent, TRUTH, distance, near=0.0)
        > near_pair_correlation(bent, TRUTH, distance, near=math.inf) + 0.1
    )


def test_near_pair_correlation_compares_only_within_a_scene():
    scenes = torch.arange(len(TRUTH)) % 7
    shifted = TRUTH + 100 * scenes[:, None]  # each scene lies elsewhere: between scenes distance means nothing
    assert near_pair_correlation(shifted, TRUTH, distance, near=1.0, scenes_N=scenes) > 0.999
    assert near_pair_correlation(shifted, TRUTH, distance, near=1.0) < 0.9


def numbers(feature_std: float, effective_rank: float, prediction: float) -> dict[str, float]:
    return {"feature_std": feature_std, "effective_rank": effective_rank, "prediction": prediction}


def test_collapse_is_warned_of_and_health_is_not():
    start = numbers(1.0, 30.0, 2.0)
    assert find_collapse([start]) is None
    # A trained embedding has fewer dimensions than a random one: no reason to warn.
    assert find_collapse([start, numbers(2.0, 8.0, 1.0), numbers(2.0, 9.0, 0.5)]) is None
    assert "have collapsed" in find_collapse([start, numbers(0.01, 3.0, 0.1)])
    assert "in part" in find_collapse([start, numbers(1.0, 12.0, 1.0), numbers(0.9, 4.0, 0.5)])
    assert find_collapse([start, numbers(1.0, 12.0, 1.0), numbers(0.9, 4.0, 1.5)]) is None
