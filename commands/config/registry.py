"""The closed registry of what a configuration may build by name: (group, name) -> where it lives in this
code.

A choice such as configs/planner/cem.yaml names itself by its key `name`; nothing is ever imported by a path
read from a file. Entries are imported when they are asked for, so that one command does not pay for all of
them.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from commands.config.typed import build
from commands.shared.errors import RunError, UsageError, listed, nearest

if TYPE_CHECKING:
    from world_model.objectives.families import ObjectiveConfig

DEVICES = ("auto", "cpu", "cuda", "mps")


@dataclass(frozen=True)
class Entry:
    """What a name builds, as "module:Class": the frozen config of its keys, and what is made from that
    config."""

    config: str
    maker: str


ENTRIES: dict[str, dict[str, Entry]] = {
    "planner": {
        "cem": Entry("planners.cem:CEMConfig", "planners.cem:CEM"),
        "cem_gradient": Entry("planners.cem_gradient:CEMGradientConfig", "planners.cem_gradient:CEMGradient"),
        "gradient": Entry("planners.gradient:GradientConfig", "planners.gradient:Gradient"),
        "icem": Entry("planners.icem:ICEMConfig", "planners.icem:ICEM"),
        "mppi": Entry("planners.mppi:MPPIConfig", "planners.mppi:MPPI"),
        "nevergrad": Entry("planners.nevergrad_search:NevergradConfig", "planners.nevergrad_search:Nevergrad"),
        "predictive_sampling": Entry(
            "planners.predictive_sampling:PredictiveSamplingConfig", "planners.predictive_sampling:PredictiveSampling"
        ),
        "projected_gradient": Entry(
            "planners.projected_gradient:ProjectedGradientConfig", "planners.projected_gradient:ProjectedGradient"
        ),
    },
}


def entry(group: str, mapping: Mapping[str, Any]) -> Entry:
    """Return the entry that a mapping's `name` picks; UsageError with the nearest names where there is
    none."""
    known, name = ENTRIES[group], str(mapping.get("name"))
    if name not in known:
        raise UsageError(f"{group}.name={name}: no such {group}{nearest(name, known)} (choices: {listed(known)})")
    return known[name]


def configured(group: str, mapping: Mapping[str, Any]) -> Any:
    """Return the frozen config of a mapping; UsageError for keys that are unknown, missing or mistyped."""
    keys = {key: value for key, value in mapping.items() if key != "name"}
    return build(load(entry(group, mapping).config), keys, group)


def made(group: str, mapping: Mapping[str, Any]) -> Any:
    """Return what is made from that config: `planner = made("planner", config["planner"])`."""
    return load(entry(group, mapping).maker)(configured(group, mapping))


def build_objective(mapping: Mapping[str, Any]) -> ObjectiveConfig:
    """Return the frozen config of an objective, of the family that its key `family` names."""
    from world_model.objectives.families import OBJECTIVES

    families = {config.family: config for config in OBJECTIVES}
    family = str(mapping.get("family"))
    if family not in families:
        raise UsageError(
            f"objective.family={family}: no such family{nearest(family, families)} (choices: {listed(families)})"
        )
    return build(families[family], mapping, "objective")


def load(place: str) -> Any:
    """Import "module:attribute", a place written in this file."""
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)


def device(name: str) -> str:
    """Return the torch device for `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.

    Raises UsageError for another word and RunError for a device that this machine does not have.
    """
    import torch

    kind, _, index = name.partition(":")
    if kind not in DEVICES or index and not index.isdigit():
        raise UsageError(f"device={name} is no device{nearest(name, DEVICES)} (choices: {listed(DEVICES)}, cuda:1)")
    if kind == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if kind == "cuda" and torch.cuda.device_count() <= int(index or 0):
        raise RunError(
            f"device={name}: torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices here; "
            "use device=auto or device=cpu (jepa doctor says more)"
        )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise RunError("device=mps: this machine has no Apple GPU that torch can use; use device=auto or device=cpu")
    return name
