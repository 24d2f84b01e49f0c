"""Rows of world models of one stage: they have no stage 2 and no metric, so keys of these do not fit them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from commands.config.groups import DynamicsKeys
from commands.pipeline import PipelineKeys
from commands.shared.errors import UsageError, join_names
from commands.shared.runs import flatten
from world_model.training.loop import TrainerConfig

STAGE2 = ("dynamics", "posttrain")  # parts of the configuration that only stage 2 reads
BEST_VIEW = "best"  # planner.cost.view: the view of the model that is best on val
METRIC = "metric"
Overrides = Mapping[str, Any]  # nested


def drop_stage2(keys: PipelineKeys) -> PipelineKeys:
    """The pipeline without what the other rows' stage 2 is, and with the view to be chosen on `val`."""
    cost = replace(keys.planner.cost, view=BEST_VIEW)
    planner = replace(keys.planner, cost=cost)
    return replace(keys, dynamics=DynamicsKeys(), posttrain=TrainerConfig(), planner=planner)


def check_overrides(overrides: Overrides, where: str, objective: str) -> None:
    """Raise UsageError for overrides of this objective alone that set a key of stage 2, or a metric. where: of the
    message, as small.dreamerv3."""
    unfit = [key for key in flatten(dict(overrides)) if key.partition(".")[0] in STAGE2]
    if unfit:
        raise UsageError(
            f"{where}: {join_names(unfit, 3)}: {objective} is a world model of one stage and has no stage 2: leave "
            "it out"
        )
    if overrides.get("objective", {}).get(METRIC) is not None:
        raise UsageError(
            f"{where}: objective.metric: {objective} is a world model of one stage and has no metric: leave it out"
        )


def find_unfit_axis(variant: Overrides) -> str | None:
    """Why no row of a world model of one stage is made of a variant's overrides; None where one is."""
    if variant.get("objective", {}).get(METRIC) is not None:
        return "a world model of one stage has no metric"
    return None


def adapt_variant(variant: Overrides) -> dict[str, Any]:
    """A variant's overrides without those of stage 2 and of the metric, which change nothing here."""
    kept = {key: value for key, value in variant.items() if key not in STAGE2}
    if METRIC in kept.get("objective", {}):
        kept["objective"] = {key: value for key, value in kept["objective"].items() if key != METRIC}
    return kept
