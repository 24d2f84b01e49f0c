"""Search spaces: how the settings of a row's trials are drawn.

A space maps keys to distributions: {pretrain.lr: {log: [1.0e-4, 3.0e-3]}}. The first trial is the published setting.
Each further one draws all keys of the space. A draw depends on the seed, the method and its number alone, so that more
trials begin with the same settings.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from commands.shared.errors import UsageError, describe_choices, join_names

DISTRIBUTIONS = ("log", "uniform", "choice")
DIGITS = 3  # significant digits of a drawn number
SEARCHED = ("encoder", "objective", "pretrain", "posttrain", "clone")  # parts of which a space may hold keys
BUDGETED_KEYS = ("pretrain.steps", "posttrain.steps", "clone.trainer.steps")  # keys that the budget decides
DRAWS = 100  # draws a trial, at most, until a setting is new

Setting = dict[str, Any]  # dotted key -> value
Space = Mapping[str, "Distribution"]


@dataclass(frozen=True)
class Distribution:
    """log and uniform: numbers between two bounds, the logarithm or the number itself evenly; choice: one of a list."""

    kind: str
    values: tuple[Any, ...]

    def draw(self, share: float) -> Any:
        """The value at a share (0 to below 1) of the distribution; numbers have DIGITS significant digits."""
        if self.kind == "choice":
            return self.values[int(share * len(self.values))]
        low, high = self.values
        value = low * (high / low) ** share if self.kind == "log" else low + (high - low) * share
        return float(f"{value:.{DIGITS}g}")


def read_space(space: Mapping[str, Any], where: str) -> dict[str, Distribution]:
    """The distribution of each dotted key of a space, whose keys may be nested; null takes an earlier key out.

    where: of messages, search.METHOD.
    Raises UsageError for an unknown distribution, bounds that are none, and a key that all methods share.
    """
    found: dict[str, Distribution] = {}
    for key, value in _list_leaves(space):
        root, place = key.partition(".")[0], f"{where}.{key}"
        if root not in SEARCHED:
            raise UsageError(f"{place}: all methods share {root}; a search space holds keys of {join_names(SEARCHED)}")
        if key in BUDGETED_KEYS:
            raise UsageError(f"{place}: the budget decides the steps of every row (budgets=[steps,total])")
        if value is None:
            found.pop(key, None)
            continue
        if not isinstance(value, Mapping) or not value:
            raise UsageError(f"{place}={value}: give a distribution, as {place}={{log: [1.0e-4,1.0e-2]}}")
        found[key] = _read_distribution(value, place)
    return found


def _list_leaves(space: Mapping[str, Any], stem: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys of a nested mapping with what is no further level: a mapping with a distribution or a list, or no
    mapping."""
    for key, value in space.items():
        inner = value if isinstance(value, Mapping) else {}
        is_level = not any(name in DISTRIBUTIONS or isinstance(item, list) for name, item in inner.items())
        if inner and is_level:
            yield from _list_leaves(value, f"{stem}{key}.")
        else:
            yield f"{stem}{key}", value


def _read_distribution(value: Mapping[str, Any], place: str) -> Distribution:
    kind, values = next(iter(value.items()))
    if kind not in DISTRIBUTIONS:
        raise UsageError(f"{place}: {kind} is no distribution{describe_choices(str(kind), DISTRIBUTIONS)}")
    if len(value) > 1:
        raise UsageError(f"{place} has {len(value)} distributions ({join_names(value)}): give one")
    if kind == "choice":
        if not isinstance(values, Sequence) or isinstance(values, str) or not values:
            raise UsageError(f"{place}.choice={values}: give a list of values, as [1,2]")
        return Distribution(kind, tuple(values))
    if not _are_bounds(values, kind):
        above = ", both above 0" if kind == "log" else ""
        raise UsageError(f"{place}.{kind}={values}: give two bounds, the lower one first{above}")
    return Distribution(kind, tuple(map(float, values)))


def _are_bounds(values: Any, kind: str) -> bool:
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != 2:
        return False
    if any(isinstance(value, bool) or not isinstance(value, (int, float)) for value in values):
        return False
    low, high = values
    return math.isfinite(low) and math.isfinite(high) and low < high and (kind != "log" or low > 0)


def leave_out_keys(space: Space, decided: Sequence[str]) -> dict[str, Distribution]:
    """The space without keys that an axis of the table decides, or parts of which it decides."""

    def overlaps(key: str) -> bool:
        return any(f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.") for other in decided)

    return {key: distribution for key, distribution in space.items() if not overlaps(key)}


def list_extremes(space: Space) -> list[Setting]:
    """Settings of one key each, at its bounds or at each of its choices, to check them."""
    return [{key: value} for key, distribution in space.items() for value in distribution.values]


def draw_settings(space: Space, trials: int, name: str, apply: Callable[[Setting], Any]) -> list[tuple[Setting, Any]]:
    """Settings with what `apply` makes of each; the first is the published one, {}. A draw that makes the same as an
    earlier one is drawn again, so that a finite space with fewer settings than `trials` is tried in full.

    name: of the sequence of draws. apply: a setting -> the whole configuration.
    """
    drawn: list[tuple[Setting, Any]] = [({}, apply({}))]
    for number in range(DRAWS * (trials - 1) if space else 0):
        if len(drawn) == trials:
            break
        generator = random.Random(f"{name}-{number}")
        setting = {key: space[key].draw(generator.random()) for key in sorted(space)}
        made = apply(setting)
        if all(made != other for _, other in drawn):
            drawn.append((setting, made))
    return drawn
