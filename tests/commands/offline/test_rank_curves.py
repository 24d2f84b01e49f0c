"""Means, reach and causes of rank correlations, on numbers made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from commands.offline.rank_curves import (
    DISTANCE,
    DYNAMICS,
    Curve,
    Ranks,
    find_causes,
    find_curve,
    find_reach,
    format_rank_reach,
    summarise_ranks,
)

MODEL, TRUE = (Curve(dynamics, "pooled", "l2", "random") for dynamics in ("model", "simulator"))


def make_ranks(model, true, moments=20, rendered=8, spread=0.02):
    """Rank correlations around means by steps ahead, each moment of an episode of its own."""
    rng, ranks = np.random.default_rng(0), Ranks()
    for steps, (mean, true_mean) in enumerate(zip(model, true, strict=True), start=1):
        ranks.episodes[10 * steps] = list(range(moments))
        ranks.add(MODEL, 10 * steps, torch.from_numpy(mean + spread * rng.standard_normal(moments)))
        ranks.add(TRUE, 10 * steps, torch.from_numpy(true_mean + spread * rng.standard_normal(rendered)))
    return ranks


def test_each_pair_of_low_and_high_has_its_cause():
    ranks = make_ranks([0.9, 0.3, 0.3, 0.1, 0.49], [0.9, 0.9, 0.3, 0.4, 0.51], spread=0.05)
    ranks.values[TRUE][50] = [x + d for x, d in zip(ranks.values[MODEL][50], (0.1, -0.06) * 4, strict=False)]
    results = summarise_ranks(ranks, 0)
    (verdict,) = results["verdicts"]
    assert (verdict["reach"], verdict["fails_at"]) == (10, [20, 30, 40, 50])
    assert verdict["causes"] == {20: [DYNAMICS], 30: [DISTANCE], 40: [DISTANCE, DYNAMICS], 50: []}
    assert verdict["sentence"] == (
        "pooled, l2, random candidates: ranked up to 10 steps ahead; at 20 the dynamics fail; at 30 the "
        "distance fails; at 40 the distance and the dynamics fail; at 50 it is undecided."
    )


def test_the_reach_is_the_farthest_goal_whose_interval_lies_above_the_level():
    means = [{"ci95": ci} for ci in ([0.6, 0.8], [0.4, 0.9], [0.51, 0.6], [0.01, 0.9], [-0.2, 0.9], None)]
    assert find_reach([1, 2, 3, 4, 5, 6], means) == {"useful": 3, "above_chance": 4}
    assert find_reach([1], [{"ci95": None}]) == {"useful": 0, "above_chance": 0}


def test_intervals_come_from_episodes():
    rng, ranks = np.random.default_rng(0), Ranks()
    levels = rng.standard_normal(10)
    ranks.episodes[10] = np.repeat(np.arange(10), 8).tolist()
    ranks.add(MODEL, 10, torch.from_numpy(levels.repeat(8)))
    row = find_curve(summarise_ranks(ranks, 0), MODEL)
    low, high = row["ci95"][0]
    assert row["mean"][0] == pytest.approx(levels.mean())
    assert high - low == pytest.approx(2 * 1.96 * levels.std() / math.sqrt(10), rel=0.15)


def test_moments_without_an_order_do_not_count():
    ranks = Ranks()
    ranks.episodes |= {10: [0, 1, 2], 20: [0, 1, 2]}
    ranks.add(MODEL, 10, torch.tensor([math.nan, 0.2, 0.4]))
    ranks.add(MODEL, 20, torch.tensor([math.nan] * 3))
    results = summarise_ranks(ranks, 0)
    row = find_curve(results, MODEL)
    assert row["moments"] == [2, 0] and row["mean"][0] == pytest.approx(0.3) and row["mean"][1] is None
    text = format_rank_reach({**results, "left_out": [], "horizon": 30, "split": "eval"})
    assert text.splitlines()[3].split()[-2:] == ["0.30", "–"]


def test_one_episode_gives_no_interval_and_no_reach():
    ranks = make_ranks([0.9], [0.9], moments=4, rendered=4)
    ranks.episodes[10] = [3] * 4
    results = summarise_ranks(ranks, 0)
    assert find_curve(results, MODEL)["ci95"] == [None] and results["verdicts"][0]["reach"] == 0
    assert find_causes({"ci95": None}, {"ci95": None}) == []
    assert find_causes({"ci95": [0.2, 0.6]}, {"ci95": [-0.1, 0.2]}) == [], "intervals that hold the level say nothing"
