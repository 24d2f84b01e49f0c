"""Coverage of 95 % intervals over training seeds: `python -m tests.interval_coverage [draws=4000] [seeds=3]`.

A draw is an experiment of `seeds` training seeds with `episodes` goals each. The success rate of a seed comes from a
beta distribution with a given mean and standard deviation, its successes from a binomial. The mean itself varies by
0.01 to both sides, because the coverage of a count swings from one rate to the next. Of a difference, both methods have
that deviation, and the goals of a seed are as hard for the one as for the other (correlation 0.5 of a normal score).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from commands.statistics.intervals import LEVELS, wilson_interval
from commands.statistics.seed_intervals import estimate_paired_difference, estimate_rate, t_quantile

RATES = (0.5, 0.8, 0.9, 0.95)
DEVIATIONS = (0.0, 0.03, 0.05, 0.07, 0.1)
PAIRS = ((0.5, 0.5), (0.8, 0.8), (0.9, 0.7), (0.95, 0.95))
SWING = 0.01  # by which a mean rate varies
RESAMPLES = 1000  # of the bootstrap
HARDNESS = 0.5  # share of a goal's own part in the variance of a normal score

Interval = tuple[float, float]
Construction = Callable[[tuple[int, ...], int], Interval]  # successes [K] and episodes of each seed -> interval


def interval_of_seeds(successes: tuple[int, ...], episodes: int) -> Interval:
    """The interval of this project."""
    rate = estimate_rate(successes, [episodes] * len(successes))
    return rate.low, rate.high


def pool(successes: tuple[int, ...], episodes: int) -> Interval:
    """One Wilson interval over all episodes."""
    return wilson_interval(sum(successes), episodes * len(successes))


def bootstrap(successes: tuple[int, ...], episodes: int) -> Interval:
    """Percentile bootstrap over seeds, then over the episodes of each."""
    rng, rates = np.random.default_rng(0), np.array(successes) / episodes
    drawn_RK = rng.choice(rates, (RESAMPLES, len(rates)))
    low, high = np.quantile(rng.binomial(episodes, drawn_RK).mean(1) / episodes, LEVELS)
    return float(low), float(high)


def use_students_t(successes: tuple[int, ...], episodes: int) -> Interval:
    """Student's t on the rates of the seeds."""
    return _spread(successes, episodes, 0.0)


def use_modified_hartung_knapp(successes: tuple[int, ...], episodes: int) -> Interval:
    """Student's t, with a variance of at least that of the goals (Röver et al. 2015)."""
    rate = (sum(successes) + 1) / (episodes * len(successes) + 2)
    return _spread(successes, episodes, rate * (1 - rate) / episodes)


CONSTRUCTIONS: dict[str, Construction] = {
    "ours": interval_of_seeds,
    "pooled Wilson": pool,
    "hierarchical bootstrap": bootstrap,
    "t": use_students_t,
    "t, variance of the goals at least": use_modified_hartung_knapp,
}


def _spread(successes: tuple[int, ...], episodes: int, least: float) -> Interval:
    rates = np.array(successes) / episodes
    half = t_quantile(len(rates)) * math.sqrt(max(float(rates.var(ddof=1)), least) / len(rates))
    return float(rates.mean()) - half, float(rates.mean()) + half


def draw_rates(mean_R: NDArray[np.float64], deviation: float, seeds: int, rng: np.random.Generator) -> NDArray:
    """Success rates [R, K] of seeds with these means and this standard deviation."""
    if deviation == 0.0:
        return np.repeat(mean_R[:, None], seeds, 1)
    strength = (mean_R * (1 - mean_R) / deviation**2 - 1)[:, None]
    return rng.beta(mean_R[:, None] * strength, (1 - mean_R[:, None]) * strength, (len(mean_R), seeds))


def measure_coverage(
    construct: Construction,
    rate: float,
    deviation: float,
    draws: int,
    seeds: int = 3,
    episodes: int = 50,
    seed: int = 0,
) -> tuple[float, float]:
    """Share of draws whose interval holds the mean rate, and mean width of an interval."""
    rng, build = np.random.default_rng(seed), cache(construct)
    mean_R = rng.uniform(rate - SWING, rate + SWING, draws)
    successes_RK = np.sort(rng.binomial(episodes, draw_rates(mean_R, deviation, seeds, rng)), 1)
    ends = np.array([build(tuple(row), episodes) for row in successes_RK.tolist()])
    holds = (ends[:, 0] <= mean_R) & (mean_R <= ends[:, 1])
    return float(holds.mean()), float((ends[:, 1] - ends[:, 0]).mean())


def measure_difference_coverage(
    rates: tuple[float, float], deviation: float, draws: int, seeds: int = 3, episodes: int = 50, seed: int = 0
) -> tuple[float, float]:
    """The same of `estimate_paired_difference`, of two methods on the same goals."""
    from scipy.special import ndtri

    rng, shape = np.random.default_rng(seed), (draws, seeds, episodes)
    limits = [ndtri(draw_rates(np.full(draws, rate), deviation, seeds, rng))[:, :, None] for rate in rates]
    hardness = math.sqrt(HARDNESS) * rng.standard_normal(shape)
    hits = [hardness + math.sqrt(1 - HARDNESS) * rng.standard_normal(shape) < limit for limit in limits]
    found = [estimate_paired_difference(array) for array in hits[0].astype(int) - hits[1]]
    truth = rates[0] - rates[1]
    covered = [each.low <= truth <= each.high for each in found]
    return float(np.mean(covered)), float(np.mean([each.high - each.low for each in found]))


@dataclass(frozen=True, kw_only=True)
class Config:
    """Keys of the command."""

    draws: int = 4000
    """experiments for each number"""
    seeds: int = 3
    """training seeds of an experiment"""
    episodes: int = 50
    """episodes of each seed"""
    seed: int = 0
    """seed of the experiments"""


def main(argv: Sequence[str]) -> int:
    """Print coverage and mean width in percent for every construction, rate and deviation, as Markdown."""
    from commands.config.compose import nest_overrides
    from commands.config.schema import build
    from commands.tables.markdown import format_table

    config = build(Config, nest_overrides(argv))
    size = (config.draws, config.seeds, config.episodes, config.seed)
    rows = []
    for name, construct in CONSTRUCTIONS.items():
        for rate in RATES:
            found = [measure_coverage(construct, rate, deviation, *size) for deviation in DEVIATIONS]
            rows.append([name, f"{rate:g}", *(f"{100 * share:.1f} ({100 * width:.0f})" for share, width in found)])
    for pair in PAIRS:
        found = [measure_difference_coverage(pair, deviation, *size) for deviation in DEVIATIONS]
        rows.append(
            ["ours, paired difference", f"{pair[0]:g}, {pair[1]:g}"]
            + [f"{100 * share:.1f} ({100 * width:.0f})" for share, width in found]
        )
    print(*format_table(["interval", "rate", *(f"deviation {each:g}" for each in DEVIATIONS)], rows), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
