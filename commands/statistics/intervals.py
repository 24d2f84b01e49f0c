"""Means over measurements of several episodes, with 95 % intervals.

Measurements of one episode are alike, so the bootstrap resamples episodes (percentile bootstrap, Efron 1979).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000  # of episodes, for an interval
LEVELS = (0.025, 0.975)  # quantiles of a 95 % interval
QUANTILE = NormalDist().inv_cdf(LEVELS[1])  # of the normal distribution


def wilson_interval(successes: float, count: float) -> tuple[float, float]:
    """95 % Wilson score interval of a rate (Wilson 1927). Both may be fractions, where `count` is an effective number
    of trials."""
    if count == 0:
        return 0.0, 1.0
    rate, square = successes / count, QUANTILE**2 / count
    centre = (rate + square / 2) / (1 + square)
    half = QUANTILE * math.sqrt(rate * (1 - rate) / count + square / (4 * count)) / (1 + square)
    return max(0.0, centre - half), min(1.0, centre + half)


def resample_means(
    values_NC: NDArray[Any], episode_N: NDArray[np.int64], seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Means [C] over all measurements, and means [R, C] over episodes drawn with replacement; None instead where there
    is one episode."""
    _, place, counts = np.unique(episode_N, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), values_NC.shape[1]))
    np.add.at(sums, place, values_NC.astype(np.float64))
    if len(counts) == 1:
        return sums[0] / counts[0], None
    draws_RE = np.random.default_rng(seed).multinomial(len(counts), np.full(len(counts), 1 / len(counts)), RESAMPLES)
    return sums.sum(0) / counts.sum(), (draws_RE @ sums) / (draws_RE @ counts)[:, None]


def summarise_mean(values_N: NDArray[Any], episode_N: NDArray[np.int64], seed: int) -> dict[str, Any]:
    """`mean` and its interval `ci95` (null where there is one episode)."""
    means, resampled = resample_means(values_N[:, None], episode_N, seed)
    return {"mean": float(means[0]), "ci95": None if resampled is None else np.quantile(resampled, LEVELS).tolist()}


def summarise_share(hits_N: NDArray[np.bool_], episode_N: NDArray[np.int64], seed: int) -> dict[str, Any]:
    """The same of a share. Where all measurements agree, resampling them shows no spread: the interval is then Wilson's
    with every episode as one trial."""
    summary = summarise_mean(hits_N, episode_N, seed)
    if summary["ci95"] is not None and summary["mean"] in (0.0, 1.0):
        episodes = len(np.unique(episode_N))
        summary["ci95"] = list(wilson_interval(int(summary["mean"]) * episodes, episodes))
    return summary


def format_mean(summary: Mapping[str, Any]) -> str:
    """A mean and its interval, as "0.81 (0.74 to 0.88)"."""
    interval = "" if summary["ci95"] is None else " ({:.2f} to {:.2f})".format(*summary["ci95"])
    return f"{summary['mean']:.2f}{interval}"


def format_share(summary: Mapping[str, Any]) -> str:
    """A share and its interval, as "31% (24 to 39%)"."""
    interval = "" if summary["ci95"] is None else " ({:.0f} to {:.0f}%)".format(*(100 * end for end in summary["ci95"]))
    return f"{summary['mean']:.0%}{interval}"
