"""Planners of other people: `planner=MODULE:CLASS`, behind the protocol of planners."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass, field
from typing import Any

from commands.config.modules import is_target, load_class, require_members
from commands.config.schema import build
from commands.shared.errors import UsageError
from planners.settings import PlannerConfig

MEMBERS = ("plan", "horizon")  # of `planners.protocol.Planner`


@dataclass(frozen=True)
class ModulePlannerConfig(PlannerConfig):
    """A planner's class in a module that Python finds (PYTHONPATH)."""

    target: str = ""
    """MODULE:CLASS, which planner=MODULE:CLASS sets"""
    options: dict[str, Any] = field(default_factory=dict)
    """keys of the class's own configuration, as {elites: 8}"""


def make_module_planner(keys: Any) -> Any:
    """Return the planner of a class, with its own configuration: the dataclass that its annotation `config` names, of
    the keys that all planners share and of `options`.

    Raises UsageError for a module or class that is not there, and for a class that lacks a member of the protocol.
    """
    where = f"planner={keys.target}"
    if not is_target(keys.target):
        raise UsageError(f"{where}: give planner=MODULE:CLASS, as planner=my_planner:Median")
    cls = load_class(where, keys.target)
    config = typing.get_type_hints(cls).get("config", PlannerConfig)
    own = {item.name for item in dataclasses.fields(config)}
    shared = {key: getattr(keys, key) for key in own & {item.name for item in dataclasses.fields(PlannerConfig)}}
    planner = cls(build(config, {**shared, **keys.options}, "planner.options"))
    require_members(where, planner, MEMBERS, "planner")
    return planner
