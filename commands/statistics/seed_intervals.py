"""95 % intervals over training seeds: rates, means, and paired differences of two methods.

A training seed is the unit of replication: the goals that one trained model is tested on say nothing of other models.
The interval is Student's t on the means of the seeds (Hartung and Knapp 2001). Their variance holds that of the goals,
too; its ratio to the variance that the goals alone would give is a design effect, by which Wilson's interval is widened
(Franco et al. 2019), so that rates near 0 and 1 keep their skewed intervals. Three seeds agree by chance now and then,
so the widening has a least value. One seed shows no such variance: its intervals are of the goals, for these trained
models alone. Measured coverage, and that of other constructions: docs/concepts/statistics.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from commands.statistics.intervals import LEVELS, QUANTILE, wilson_interval

# The least variance, chosen by simulation for three seeds: a share of that of the goals, and one of a seed's successes.
LEAST_SHARE = 0.3
LEAST_SPREAD = 0.5


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval, over so many training seeds. matched: of a difference, whether goals are paired
    one by one."""

    mean: float
    low: float
    high: float
    seeds: int
    matched: bool = True

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


def estimate_rate(successes: Sequence[int], episodes: Sequence[int]) -> Estimate:
    """Success rate over training seeds. successes, episodes: counts [K] of the K seeds, in which every episode counts
    alike."""
    hits_K, counts_K = np.asarray(successes, float), np.asarray(episodes, float)
    total, seeds = counts_K.sum(), len(counts_K)
    rate = float(hits_K.sum() / total)
    if seeds == 1:
        return Estimate(rate, *wilson_interval(hits_K.sum(), total), seeds)
    smoothed = (hits_K.sum() + 1) / (total + 2)
    spread = smoothed * (1 - smoothed)
    widening = compute_variance(hits_K, counts_K, spread, LEAST_SPREAD) / (total * spread)
    return Estimate(rate, *wilson_interval(hits_K.sum() / widening, total / widening), seeds)


def estimate_mean(values: Sequence[ArrayLike]) -> Estimate:
    """Mean over training seeds of a number that every episode has. values: one array a seed."""
    arrays = [np.asarray(array, float) for array in values]
    sums_K, counts_K = (np.array([call(array) for array in arrays], float) for call in (np.sum, len))
    seeds, total = len(arrays), counts_K.sum()
    mean = float(sums_K.sum() / total)
    squares = sum(float(np.square(array - array.mean()).sum()) for array in arrays)
    spread = squares / max(1.0, total - seeds)
    if seeds > 1:
        half = _half_width(sums_K, counts_K, spread, 0.0)
    else:
        half = t_quantile(int(total)) * math.sqrt(spread / total) if total > 1 else math.inf
    return Estimate(mean, mean - half, mean + half, seeds)


def estimate_paired_difference(differences: Sequence[ArrayLike]) -> Estimate:
    """Difference of two success rates on the same seeds and goals. differences: one array a seed, of -1, 0 or 1 for
    every goal. One seed has the interval of Bonett and Price (2012)."""
    arrays = [np.asarray(array, float) for array in differences]
    sums_K, counts_K = (np.array([call(array) for array in arrays], float) for call in (np.sum, len))
    seeds, total = len(arrays), counts_K.sum()
    unequal = (sum(float(np.abs(array).sum()) for array in arrays) + 2) / (total + 2)
    shrunk = float(sums_K.sum() / (total + 2))
    spread = unequal - shrunk**2
    if seeds == 1:
        half = QUANTILE * math.sqrt(spread / (total + 2))
        return _clip(float(sums_K[0] / total), shrunk - half, shrunk + half, seeds)
    mean = float(sums_K.sum() / total)
    half = _half_width(sums_K, counts_K, spread, LEAST_SPREAD)
    return _clip(mean, mean - half, mean + half, seeds)


def estimate_difference(successes: ArrayLike, others: ArrayLike, episodes: ArrayLike) -> Estimate:
    """The same from the counts [K] of two methods, where the outcome of every goal is not known. One seed has the
    interval of Agresti and Caffo (2000)."""
    first_K, second_K, counts_K = (np.asarray(each, float) for each in (successes, others, episodes))
    seeds, total = len(counts_K), counts_K.sum()
    smoothed = [(hits.sum() + 1) / (total + 2) for hits in (first_K, second_K)]
    spread = sum(rate * (1 - rate) for rate in smoothed)
    mean = float((first_K - second_K).sum() / total)
    if seeds == 1:
        shrunk, half = smoothed[0] - smoothed[1], QUANTILE * math.sqrt(spread / (total + 2))
        return _clip(mean, shrunk - half, shrunk + half, seeds, matched=False)
    half = _half_width(first_K - second_K, counts_K, spread, LEAST_SPREAD)
    return _clip(mean, mean - half, mean + half, seeds, matched=False)


def compute_variance(
    sums_K: NDArray[np.float64], counts_K: NDArray[np.float64], spread: float, least_spread: float
) -> float:
    """Variance of the sum over all episodes of K seeds, such that 1.96 standard deviations make a 95 % interval.

    sums_K, counts_K: sum of a number over the episodes of each seed, and episodes. spread: variance of that number over
    the goals of a seed. Means are weighted by their episodes (the variance of a ratio of sums).
    """
    seeds, total = len(counts_K), counts_K.sum()
    residuals_K = sums_K - sums_K.sum() / total * counts_K
    between = seeds / (seeds - 1) * float(np.square(residuals_K).sum())
    least = LEAST_SHARE * float(total) * spread + least_spread * seeds
    return max(between * (t_quantile(seeds) / QUANTILE) ** 2, least)


def t_quantile(count: int) -> float:
    """97.5 % quantile of Student's t for the mean of `count` numbers; infinite for one."""
    if count < 2:
        return math.inf
    from scipy.special import stdtrit  # slow to import

    return float(stdtrit(count - 1, LEVELS[1]))


def _half_width(
    sums_K: NDArray[np.float64], counts_K: NDArray[np.float64], spread: float, least_spread: float
) -> float:
    """Half of a symmetric interval of the mean."""
    return QUANTILE * math.sqrt(compute_variance(sums_K, counts_K, spread, least_spread)) / float(counts_K.sum())


def _clip(mean: float, low: float, high: float, seeds: int, **more: Any) -> Estimate:
    return Estimate(mean, max(-1.0, low), min(1.0, high), seeds, **more)
