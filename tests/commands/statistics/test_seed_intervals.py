"""Intervals over seeds hold the truth as often as they say, and equal the formulas they come from."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from commands.statistics.intervals import wilson_interval
from commands.statistics.seed_intervals import (
    estimate_difference,
    estimate_mean,
    estimate_paired_difference,
    estimate_rate,
)
from tests.interval_coverage import bootstrap, interval_of_seeds, measure_coverage, measure_difference_coverage, pool

DRAWS = 20_000  # so that a coverage of 95 % is measured to 0.15 points


@pytest.mark.parametrize("rate", [0.5, 0.8, 0.9])
@pytest.mark.parametrize("deviation", [0.0, 0.05, 0.1])
def test_three_seeds_of_fifty_goals_are_covered_by_93_to_97_percent(rate, deviation):
    coverage, _ = measure_coverage(interval_of_seeds, rate, deviation, DRAWS)
    assert 0.93 - (rate == 0.9) * 0.01 <= coverage <= 0.97


@pytest.mark.parametrize("deviation", [0.0, 0.05])
def test_rates_near_one_are_covered_too(deviation):
    coverage, _ = measure_coverage(interval_of_seeds, 0.95, deviation, DRAWS)
    assert 0.95 <= coverage <= 0.98


def test_other_constructions_fail_where_seeds_differ():
    """The test above can fail: it does for one interval over the pool, and for the percentile bootstrap."""
    assert measure_coverage(pool, 0.8, 0.1, 1000)[0] < 0.75
    assert measure_coverage(bootstrap, 0.8, 0.1, 500)[0] < 0.9


@pytest.mark.parametrize("rates", [(0.5, 0.5), (0.9, 0.7)])
@pytest.mark.parametrize("deviation", [0.0, 0.1])
def test_paired_differences_are_covered_by_93_to_97_percent(rates, deviation):
    coverage, _ = measure_difference_coverage(rates, deviation, 2000)
    assert 0.93 <= coverage <= 0.97


def _ends(estimate):
    return estimate.low, estimate.high


def test_one_seed_has_wilsons_interval():
    rate = estimate_rate([37], [50])
    assert (rate.mean, rate.low, rate.high) == (0.74, *wilson_interval(37, 50))
    expected = stats.binomtest(37, 50).proportion_ci(method="wilson")
    assert wilson_interval(37, 50) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_seeds_that_differ_have_students_interval_on_their_rates():
    """Where seeds differ by far more than their goals do, the goals hardly matter, and the middle of the range has no
    skew."""
    successes, episodes = [3000, 5000, 7000], [10000] * 3
    rate, differences = estimate_rate(successes, episodes), [0.3, 0.5, 0.7]
    half = stats.t.ppf(0.975, 2) * np.std(differences, ddof=1) / math.sqrt(3)
    effective = 0.25 / (half / 1.959964) ** 2
    assert (rate.low, rate.high) == pytest.approx(wilson_interval(effective / 2, effective), abs=1e-3)
    mean = estimate_mean([[value] * 4 for value in differences])
    assert (mean.low, mean.high) == pytest.approx((0.5 - half, 0.5 + half))


def test_more_episodes_never_widen_the_interval_of_seeds_without_a_failure():
    lows = [estimate_rate([episodes] * 3, [episodes] * 3).low for episodes in (10, 20, 50, 100, 1000)]
    assert lows == sorted(lows) and lows[0] > 0.6 and lows[-1] < 1.0


def test_unequal_seeds_count_by_their_episodes():
    """The variance of a ratio of sums (Cochran, Sampling Techniques, 2.11)."""
    hits, episodes = np.array([90, 150, 400]), np.array([100, 300, 500])
    rate = estimate_rate(hits, episodes)
    assert rate.mean == 640 / 900 and rate.seeds == 3
    variance = 3 / 2 * np.square(hits - rate.mean * episodes).sum() / 900**2
    half = stats.t.ppf(0.975, 2) * math.sqrt(variance)
    effective = rate.mean * (1 - rate.mean) / (half / 1.959964) ** 2
    assert (rate.low, rate.high) == pytest.approx(wilson_interval(effective * rate.mean, effective), abs=1e-2)


def test_a_mean_of_one_seed_has_students_interval_over_its_episodes():
    values = [4.0, 7.0, 9.0, 30.0]
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert _ends(estimate_mean([values])) == pytest.approx((low, high))
    assert _ends(estimate_mean([[5.0, 5.0], [5.0, 5.0]])) == (5.0, 5.0)
    assert estimate_mean([[5.0]]).low == -math.inf


def test_a_paired_difference_is_narrower_than_an_unpaired_one_where_goals_are_alike():
    first = np.repeat([1, 0], [40, 10])
    second = np.repeat([1, 0], [34, 16])
    paired = estimate_paired_difference([first - second])
    unpaired = estimate_difference([40], [34], [50])
    assert paired.mean == unpaired.mean == 0.12
    assert paired.excludes_zero and not unpaired.excludes_zero
    assert paired.matched and not unpaired.matched


def test_one_seed_has_the_adjusted_intervals_of_the_literature():
    """Bonett and Price 2012: two outcomes added to those that differ; Agresti and Caffo 2000: two to each sample."""
    differences = np.repeat([1, -1, 0], [8, 2, 40])
    rates = np.array([9, 3]) / 52
    shift, half = rates[0] - rates[1], 1.959964 * math.sqrt((rates.sum() - (rates[0] - rates[1]) ** 2) / 52)
    assert _ends(estimate_paired_difference([differences])) == pytest.approx((shift - half, shift + half), abs=1e-6)
    first, second = 31 / 52, 21 / 52
    half = 1.959964 * math.sqrt((first * (1 - first) + second * (1 - second)) / 52)
    expected = first - second - half, first - second + half
    assert _ends(estimate_difference([30], [20], [50])) == pytest.approx(expected, abs=1e-6)


def test_the_difference_of_seeds_takes_the_seeds_of_both_methods_together():
    """Seeds that are hard for both methods alike cancel in the difference."""
    first, second, episodes = [10, 30, 48], [5, 25, 43], [50] * 3
    difference = estimate_difference(first, second, episodes)
    assert difference.mean == pytest.approx(0.1)
    assert difference.high - difference.low < 0.25
    assert estimate_rate(first, episodes).high - estimate_rate(first, episodes).low > 0.5
