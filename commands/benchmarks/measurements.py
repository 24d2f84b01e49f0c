"""Rows of measurements, and the two ways in which seconds are measured: one call many times, and several calls in
turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from commands.benchmarks.official import time_call

LEAST_CALLS = 3  # of each measurement, whatever its time

Row = dict[str, Any]


def make_row(what: str, value: float, unit: str, limit: str = "", **details: Any) -> Row:
    """One measurement of bench.json; limit: what it is compared with, in words."""
    return {"what": what, "value": value, "unit": unit, **({"limit": limit} if limit else {}), **details}


def time_per_call(call: Callable[[int], Any], budget_s: float) -> float:
    """Median seconds of a call within a time budget, after one warm-up; at least LEAST_CALLS calls."""
    call(0)
    times: list[float] = []
    began = time.perf_counter()
    while time.perf_counter() - began < budget_s or len(times) < LEAST_CALLS:
        times.append(time_call(partial(call, len(times) + 1))[0])
    return float(np.median(times))


@dataclass(frozen=True)
class Timing:
    """seconds: median of a call. ratio: median over rounds of its seconds by those of the reference in the same
    round."""

    seconds: float
    ratio: float


def time_rounds(calls: Mapping[str, Callable[[int], Any]], budget_s: float, reference: str) -> dict[str, Timing]:
    """Seconds of several calls that take turns, and their ratios to those of `reference`, one of their names.

    After a warm-up, each round makes every call once, every other round in reverse order, so that a drift of the
    machine's speed cancels from the ratios. Rounds go on for `budget_s` seconds, and LEAST_CALLS rounds at least.
    """
    for call in calls.values():
        call(0)
    rounds: list[dict[str, float]] = []
    began = time.perf_counter()
    while time.perf_counter() - began < budget_s or len(rounds) < LEAST_CALLS:
        order = list(calls)[:: 1 if len(rounds) % 2 == 0 else -1]
        rounds.append({name: time_call(partial(calls[name], len(rounds) + 1))[0] for name in order})
    return compare_rounds(rounds, reference)


def compare_rounds(rounds: list[dict[str, float]], reference: str) -> dict[str, Timing]:
    """Medians of measured rounds: seconds by name."""
    return {
        name: Timing(
            float(np.median([each[name] for each in rounds])),
            float(np.median([each[name] / each[reference] for each in rounds])),
        )
        for name in rounds[0]
    }


def measure_peak_flops(device: torch.device, budget_s: float, dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product."""
    size = 4096 if device.type == "cuda" else 1536
    a = torch.randn(size, size, device=device).to(dtype)
    return 2 * size**3 / time_per_call(lambda _: a @ a, min(1.0, budget_s))


def format_utilisation(achieved: float, device: torch.device, budget_s: float, precision: str = "fp32") -> str:
    """FLOP/s achieved, beside those of a large matrix product."""
    peak = measure_peak_flops(device, budget_s, torch.bfloat16 if precision == "bf16" else torch.float32)
    return f"{achieved / 1e9:.0f} of {peak / 1e9:.0f} GFLOP/s ({achieved / peak:.0%})"
