"""Probes and collapse diagnostics on features whose answer is known."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import spearmanr

from world_model.probing.probes import (
    cross_episode_correlation,
    find_collapse,
    find_constant_episodes,
    find_shrunken_views,
    measure_spread,
    measure_within_share,
    near_pair_correlation,
    probe_r2,
    rank_correlation,
    rank_correlations,
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


def test_rank_correlations_of_rows_are_spearmans():
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(6, 40, generator=generator), torch.randint(0, 9, (6, 40), generator=generator)  # with ties
    a[2, 3], b[4] = math.inf, 5
    expected = [spearmanr(x, y).statistic for x, y in zip(a[:4], b[:4], strict=True)]
    found = rank_correlations(a, b)
    assert found[:4].tolist() == pytest.approx(expected, abs=1e-12) and math.isnan(found[4])
    assert found.tolist() == pytest.approx([rank_correlation(x, y) for x, y in zip(a, b, strict=True)], nan_ok=True)


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


def test_a_few_pairs_that_are_drawn_often_give_no_rank_correlation():
    """Two frames in each of four scenes: thousands of draws of four pairs."""
    scenes = torch.arange(8) // 2
    assert math.isnan(near_pair_correlation(TRUTH[:8], TRUTH[:8], distance, near=math.inf, scenes_N=scenes))
    assert not math.isnan(near_pair_correlation(TRUTH[:8], TRUTH[:8], distance, near=math.inf))  # 28 pairs


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


MOVES = torch.randn(400, 2, generator=GENERATOR)
MOVES -= torch.stack([MOVES[GROUPS == e].mean(0) for e in range(20)])[GROUPS]  # mean 0 in every episode
SCENE = torch.randn(20, 2, generator=GENERATOR)[GROUPS]  # constant within an episode


def test_the_share_within_episodes_is_the_variance_of_what_moves_over_that_of_all():
    both = torch.cat((MOVES, SCENE), 1)
    want = MOVES.var(0).sum() / (MOVES.var(0).sum() + SCENE.var(0).sum())
    assert measure_within_share(both, GROUPS) == pytest.approx(want.item(), rel=1e-5)
    assert measure_within_share(7 * both - 3, 5 * GROUPS + 1) == pytest.approx(want.item(), rel=1e-5)
    assert measure_within_share(MOVES, GROUPS) == pytest.approx(1)
    assert measure_within_share(SCENE, GROUPS) == pytest.approx(0, abs=1e-12)


def test_the_share_within_episodes_counts_every_frame_once():
    values, episodes = torch.tensor([[0.0], [2], [4], [6], [8]]), torch.tensor([0, 0, 1, 1, 1])
    # Means 1 and 6; within: 1 + 1 + 4 + 0 + 4; of all, about 4: 16 + 4 + 0 + 4 + 16.
    assert measure_within_share(values, episodes) == pytest.approx(10 / 40)
    assert measure_within_share(values.byte(), episodes) == pytest.approx(10 / 40)


def test_the_share_within_episodes_is_unknown_for_one_episode_or_without_variance():
    assert math.isnan(measure_within_share(TRUTH, torch.zeros(400)))
    assert math.isnan(measure_within_share(torch.ones(400, 3), GROUPS))


def test_cross_episode_correlation_is_one_for_the_state_and_falls_with_what_tells_scenes_apart():
    def correlate(features):
        return cross_episode_correlation(features, TRUTH, distance, GROUPS)

    assert correlate(3 * TRUTH + 1) > 0.999
    assert abs(correlate(torch.randn(20, 2, generator=GENERATOR)[GROUPS])) < 0.1
    mixed = torch.cat((TRUTH, 3 * SCENE), 1)
    within = near_pair_correlation(mixed, TRUTH, distance, math.inf, GROUPS)
    assert within > 0.999, "pairs of one scene do not show it"
    assert 0 < correlate(mixed) < 0.5
    assert math.isnan(cross_episode_correlation(TRUTH, TRUTH, distance, torch.zeros(400)))


def test_cross_episode_correlation_takes_pairs_of_different_episodes_alone():
    pairs = []

    def record(a, b):
        pairs.append((a, b))
        return (a - b).norm(dim=-1)

    numbered = torch.cat((TRUTH, GROUPS[:, None]), 1)
    cross_episode_correlation(TRUTH, numbered, record, GROUPS)
    [(first, second)] = pairs
    assert (first[:, -1] != second[:, -1]).all() and len(first) > 37_000


def test_features_that_are_constant_within_episodes_are_warned_of_after_the_first_evaluation():
    def evaluate(share, pixels=0.05):
        return {"within_share": share, "within_share_pixels": pixels}

    untrained = evaluate(0.001)
    assert find_constant_episodes([untrained], "pooled", centred=False) is None
    warning = find_constant_episodes([untrained, evaluate(0.013)], "pooled", centred=False)
    assert "1.3 % of their variance" in warning and "set objective.terms.centred=true" in warning
    assert "terms are centred already" in find_constant_episodes([untrained, evaluate(0.013)], "pooled", centred=True)
    assert find_constant_episodes([untrained, evaluate(0.0, pixels=0.0)], "pooled", centred=False) is None, "all still"
    assert find_constant_episodes([untrained, evaluate(math.nan)], "pooled", centred=False) is None, "one episode"


@pytest.mark.parametrize(("space", "share", "is_warned_of"), [
    ("pooled", 0.124, True),  # `reacher` with four factors, 200 steps of the tiny encoder without centred terms
    ("pooled", 0.394, False),  # the small encoder, 200 steps with centred terms
    ("pooled", 0.922, False),  # a plain scene without centred terms
    ("tokens", 0.025, False),  # tokens of the first: they hold the still background, too
    ("tokens", 0.002, True),
])  # fmt: skip
def test_the_least_share_within_episodes_tells_measured_trainings_with_centred_terms_from_those_without(
    space, share, is_warned_of
):
    evaluations = [{"within_share": value, "within_share_pixels": 0.051} for value in (0.085, share)]
    assert (find_constant_episodes(evaluations, space, centred=False) is not None) == is_warned_of


@pytest.mark.parametrize(("first", "last", "is_warned_of"), [
    (1.43, 0.209, True),  # `push_t` on varied scenes, 800 steps, errors not centred: 2 % of goals
    (1.285, 0.287, True),  # `two_rooms`, 600 steps: 77 %, effective rank 2
    (1.18, 0.404, False),  # `reacher`, 1200 steps: 94 %
    (1.285, 0.601, False),  # `two_rooms`, errors centred: 92 %
])  # fmt: skip
def test_features_that_shrink_between_two_views_are_warned_of(first, last, is_warned_of):
    evaluations = [{"feature_std": value} for value in (first, last)]
    assert find_shrunken_views(evaluations[:1]) is None
    warning = find_shrunken_views(evaluations)
    assert (warning is not None) == is_warned_of
    assert not is_warned_of or f"spread is {last:.2g}, at the start it was {first:.2g}" in warning
