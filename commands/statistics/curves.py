"""Success over the numbers of a key, as a curve and the area under it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

KINDS = ("any", "held")  # of success, in results.json


def measure_area(values: Sequence[float], rates: Sequence[float]) -> float:
    """Area under rates over values by trapezoids, over the range of the values: 1 where every rate is 1."""
    order = np.argsort(values)
    across, along = np.asarray(values, float)[order], np.asarray(rates, float)[order]
    assert len(across) > 1 and across[0] < across[-1], values
    return float(np.trapezoid(along, across) / (across[-1] - across[0]))


def collect_curves(values: Sequence[float], results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Rates within the first threshold, their intervals and area, by method and kind of success.

    results: one a value, as `pooling.pool_results` gives them; methods that one of them lacks are left out. Values
    ascend.
    """
    order = [int(index) for index in np.argsort(values)]
    ordered, limit = [values[index] for index in order], str(results[0]["thresholds"][0])
    shared = [name for name in results[0]["methods"] if all(name in result["methods"] for result in results)]
    curves: dict[str, dict[str, Any]] = {}
    for name in shared:
        rows = [results[index]["methods"][name] for index in order]
        for kind in KINDS:
            rates = [row[kind][limit] for row in rows]
            intervals = [tuple(row[f"{kind}_ci95"][limit]) for row in rows]
            curve = {"rates": rates, "ci95": intervals, "area": measure_area(ordered, rates)}
            curves.setdefault(name, {})[kind] = curve
    return curves


def format_areas(values: Sequence[float], curves: Mapping[str, Mapping[str, Any]]) -> str:
    """One line: the area under the curve of each method, of success at any time and held."""
    areas = [f"{name} {row['any']['area']:.1%} (held {row['held']['area']:.1%})" for name, row in curves.items()]
    return f"area under the curve from {min(values):g} to {max(values):g}: {', '.join(areas)}"
