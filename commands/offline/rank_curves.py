"""Rank correlations by steps ahead: their means, how far they reach, and which part of a model ends them.

The reach of a cost is the farthest goal at which the lower end of the 95 % interval of its rank correlation exceeds
USEFUL. Wherever it does not,

    the distance fails   if the true simulator ranks too badly under the same cost, too: its interval lies below USEFUL;
    the dynamics fail    if the simulator ranks better: the interval of its difference to the model, over the same
                         moments, lies above 0.

Both may hold. Neither holds close to USEFUL, or where too few moments were rendered to tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from commands.shared.console import format_table
from commands.statistics.intervals import summarise_mean
from planners.costs import Metric

METRICS: tuple[Metric, ...] = ("l2", "l1", "cosine")  # sq_l2 ranks as l2 does
MAIN_METRIC = METRICS[0]  # of the search that candidates come from, and of tables and figures
RANDOM, MIDDLE, ELITE = "random", "middle", "elite"  # sets of candidates
MODEL, SIMULATOR = "model", "simulator"  # dynamics
TRUTH = "truth"  # view and metric of the true distance, which ranks perfectly
USEFUL, CHANCE = 0.5, 0.0  # rank correlations that the lower end of an interval must exceed
DISTANCE, DYNAMICS = "distance", "dynamics"  # causes
TITLES = {MODEL: "model", SIMULATOR: "true simulator"}


class Curve(NamedTuple):
    """What one rank correlation by steps ahead is of."""

    dynamics: str
    view: str
    metric: str
    candidates: str


@dataclass
class Ranks:
    """Rank correlations of moments by curve and environment steps ahead, and the moments' episodes by steps ahead.

    Values of a curve are those of the first moments, in order; NaN where all candidates end equally far.
    """

    values: dict[Curve, dict[int, list[float]]] = field(default_factory=dict)
    episodes: dict[int, list[int]] = field(default_factory=dict)

    def add(self, curve: Curve, steps: int, values_M: Tensor) -> None:
        """Append the values of further moments."""
        self.values.setdefault(curve, {}).setdefault(steps, []).extend(values_M.tolist())

    def read(self, curve: Curve, steps: int) -> NDArray[np.float64]:
        """All values of a curve [M]."""
        return np.array(self.values[curve][steps], np.float64)


def summarise_ranks(ranks: Ranks, seed: int) -> dict[str, Any]:
    """Means over moments with intervals over episodes: `steps` ahead, `curves` and `verdicts`."""
    steps = sorted(ranks.episodes)
    curves = []
    for curve in ranks.values:
        means = [_summarise(ranks.read(curve, at), ranks.episodes[at], seed) for at in steps]
        joined = {key: [mean[key] for mean in means] for key in ("mean", "ci95", "moments")}
        curves.append({**curve._asdict(), **joined, "reach": find_reach(steps, means)})
    verdicts = [_judge(ranks, steps, curve, seed) for curve in ranks.values if curve.dynamics == MODEL]
    return {"steps": steps, "curves": curves, "verdicts": verdicts}


def find_reach(steps: Sequence[int], means: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The most steps ahead at which the lower end of the interval exceeds USEFUL, and CHANCE; 0: none."""

    def find(level: float) -> int:
        above = [at for at, mean in zip(steps, means, strict=True) if mean["ci95"] and mean["ci95"][0] > level]
        return max(above, default=0)

    return {"useful": find(USEFUL), "above_chance": find(CHANCE)}


def find_causes(simulator: Mapping[str, Any], difference: Mapping[str, Any]) -> list[str]:
    """What fails at some steps ahead, by the rule at the top. simulator: mean rank correlation of the true simulator
    under the model's cost. difference: to that of the model, at the same moments."""
    causes = []
    if simulator["ci95"] and simulator["ci95"][1] < USEFUL:
        causes.append(DISTANCE)
    if difference["ci95"] and difference["ci95"][0] > 0:
        causes.append(DYNAMICS)
    return causes


def find_curve(results: Mapping[str, Any], curve: Curve) -> dict[str, Any] | None:
    """One of the `curves` of results; None where it was not measured."""
    found = (row for row in results["curves"] if all(row[key] == value for key, value in curve._asdict().items()))
    return next(found, None)


def format_rank_reach(results: Mapping[str, Any]) -> str:
    """Tables of rank correlations under the main metric and of the reach by metric, and a sentence a verdict."""
    steps, curves = results["steps"], results["curves"]
    main = [row for row in curves if row["metric"] in (MAIN_METRIC, TRUTH)]
    rows = [[_name_curve(row), *(_format_value(mean) for mean in row["mean"])] for row in main]
    lines = [f"rank correlation of cost ({MAIN_METRIC}) and true distance, by environment steps from start to goal"]
    if results["left_out"]:
        lines.append(
            f"left out: {_join(results['left_out'])} steps, for which no {results['split']} episode is long enough"
        )
    if steps and steps[-1] > (horizon := results["horizon"]):
        lines.append(
            f"beyond {horizon} steps, the horizon of this model, actions end there and only the goal is farther"
        )
    table = format_table(rows, ["candidates, view, dynamics", *map(str, steps)])
    sets = list(dict.fromkeys(row["candidates"] for row in curves))
    reaches: dict[str, list[str]] = {}
    for row in curves:
        if row["dynamics"] == MODEL:
            cell = f"{row['reach']['useful']}, {row['reach']['above_chance']}"
            reaches.setdefault(f"{row['view']}, {row['metric']}", []).append(cell)
    head = [f"reach above {USEFUL} and above {CHANCE:g}", *(f"{name} candidates" for name in sets)]
    reach_table = format_table([[name, *cells] for name, cells in reaches.items()], head)
    sentences = [verdict["sentence"] for verdict in results["verdicts"] if verdict["metric"] == MAIN_METRIC]
    return "\n".join([*lines, table, reach_table, *sentences])


def _summarise(values_M: NDArray[np.float64], episodes: Sequence[int], seed: int) -> dict[str, Any]:
    """`mean`, `ci95` and the number of `moments` whose candidates can be ranked; null where there is none."""
    ranked = np.isfinite(values_M)
    if not ranked.any():
        return {"mean": None, "ci95": None, "moments": 0}
    episode_M = np.array(episodes[: len(values_M)])[ranked]
    return {**summarise_mean(values_M[ranked], episode_M, seed), "moments": int(ranked.sum())}


def _judge(ranks: Ranks, steps: Sequence[int], curve: Curve, seed: int) -> dict[str, Any]:
    """How far a cost of the model ranks, and the causes by the steps ahead at which it fails, also as a sentence."""
    means = [_summarise(ranks.read(curve, at), ranks.episodes[at], seed) for at in steps]
    reach = find_reach(steps, means)["useful"]
    failing = [at for at, mean in zip(steps, means, strict=True) if not (mean["ci95"] and mean["ci95"][0] > USEFUL)]
    said = [f"ranked up to {reach} steps ahead" if reach else "ranked at no distance"]
    true = curve._replace(dynamics=SIMULATOR)
    causes: dict[int, list[str]] = {}
    if true in ranks.values:
        for at in failing:
            rendered = ranks.read(true, at)
            difference = rendered - ranks.read(curve, at)[: len(rendered)]
            summaries = [_summarise(values, ranks.episodes[at], seed) for values in (rendered, difference)]
            causes[at] = find_causes(*summaries)
        said += _describe_causes(causes)
    elif failing:
        said.append("the simulator was not asked why (rank_reach.simulator_moments=0)")
    sentence = f"{curve.view}, {curve.metric}, {curve.candidates} candidates: {'; '.join(said)}."
    verdict = {key: value for key, value in curve._asdict().items() if key != "dynamics"}
    return {**verdict, "reach": reach, "fails_at": failing, "causes": causes, "sentence": sentence}


def _describe_causes(causes: Mapping[int, Sequence[str]]) -> list[str]:
    """ "at 2 and 6 the dynamics fail" for every set of causes."""
    said = []
    for found in dict.fromkeys(map(tuple, causes.values())):
        place = f"at {_join([steps for steps, names in causes.items() if tuple(names) == found])}"
        verb = "fails" if found == (DISTANCE,) else "fail"
        named = f"the {' and the '.join(found)} {verb}"
        said.append(f"{place} {named}" if found else f"{place} it is undecided")
    return said


def _name_curve(row: Mapping[str, Any]) -> str:
    view = "true distance" if row["view"] == TRUTH else row["view"]
    return f"{row['candidates']}, {view}, {TITLES[row['dynamics']]}"


def _format_value(value: float | None) -> str:
    return "–" if value is None or np.isnan(value) else f"{value:.2f}"


def _join(numbers: Sequence[int]) -> str:
    """1, 2 and 3."""
    words = [str(number) for number in numbers]
    return " and ".join([", ".join(words[:-1]), words[-1]] if words[:-1] else words)
