"""Records of finished cells, made up but for their configurations."""

from __future__ import annotations

from functools import cache
from typing import Any

from commands.comparison.cells import Cell
from commands.comparison.table_keys import make_cell_keys
from commands.config.compose import load_config

LIMITS = ("0.2", "0.1")


@cache
def make_config(objective: str, seed: int, *words: str) -> dict[str, Any]:
    """Configuration of a cell of `jepa compare` with these words."""
    keys = make_cell_keys(load_config("compare", list(words)), objective, seed)
    return Cell(objective, "steps", seed, keys).config


def make_record(
    objective: str,
    seed: int = 0,
    rate: float = 0.5,
    random: float = 0.1,
    task: str = "reacher",
    words: tuple[str, ...] = (),
    **more: Any,
) -> dict[str, Any]:
    """A record of ten episodes, without outcomes of single ones."""
    stage1 = {"probe": 0.5, "near_pair_correlation": 0.5, "probe_pixels": 0.4, "near_pair_correlation_pixels": 0.4}
    record = {
        "objective": objective,
        "budget": "steps",
        "seed": seed,
        "task": task,
        "plan": make_results(rate),
        "random": make_results(random),
        "thresholds": [0.2, 0.1],
        "unit": "rad",
        "config": make_config(objective, seed, *words),
    }
    if objective != "oracle":
        record |= {
            "steps": 400,
            "flops_per_step": 1e10,
            "flops": {"step": 1e10, "pretrain": 4e12, "metric": 1e12, "posttrain": 2e12, "total": 7e12},
            "space": "pooled",
            "pretrain": stage1,
            "posttrain": {"over_copy_1": 0.2, "over_copy_last": 0.1},
        }
    return record | more


def make_results(rate: float, episodes: int = 10) -> dict[str, Any]:
    """Results of a method that succeeds alike by every judge and threshold."""
    kinds = {kind: dict.fromkeys(LIMITS, rate) for kind in ("any", "held", "final")}
    return {"episodes": episodes, **kinds, "by_distance": [], "by_kind": []}


def add_outcomes(record: dict[str, Any], budget: int = 30, **steps: list[int | None]) -> dict[str, Any]:
    """The record with outcomes: environment steps to success of every episode, by part."""
    count = len(next(iter(steps.values())))
    outcomes: dict[str, Any] = {
        "budget": budget,
        "goals": {"episode": list(range(count)), "start": [3] * count, "distance": [1.5] * count},
    }
    for part, column in steps.items():
        outcomes[part] = {
            "final_distance": [0.1] * count,
            "least_distance": [0.05] * count,
            "any": dict.fromkeys(LIMITS, column),
            "held": dict.fromkeys(LIMITS, [None] * count),
            "final": dict.fromkeys(LIMITS, [0] * count),
        }
    results = {
        part: make_results(sum(n is not None for n in column) / count, count)
        | {kind: dict.fromkeys(LIMITS, 0.0) for kind in ("held", "final")}
        for part, column in steps.items()
    }
    return record | results | {"outcomes": outcomes}
