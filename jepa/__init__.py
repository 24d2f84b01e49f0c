"""What a script needs: `from jepa import Agent, make`. Each name is defined in one of the packages beside this one.

A name is imported when it is first used, so `jepa.make` loads no torch and `jepa.CEM` no simulator.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from commands.agent import Agent
    from commands.encode import extract_features
    from commands.training.model_folders import load_dynamics, load_encoder
    from envs import make
    from planners.cem import CEM, CEMConfig
    from planners.costs import GoalCost
    from planners.icem import ICEM, ICEMConfig
    from planners.mpc import MPC, MPCConfig
    from planners.protocol import Dynamics, Planner

__all__ = [
    "CEM",
    "ICEM",
    "MPC",
    "Agent",
    "CEMConfig",
    "Dynamics",
    "GoalCost",
    "ICEMConfig",
    "MPCConfig",
    "Planner",
    "extract_features",
    "load_dynamics",
    "load_encoder",
    "make",
]

_HOMES = {
    "Agent": "commands.agent",
    "extract_features": "commands.encode",
    "load_dynamics": "commands.training.model_folders",
    "load_encoder": "commands.training.model_folders",
    "make": "envs",
    "CEM": "planners.cem",
    "CEMConfig": "planners.cem",
    "GoalCost": "planners.costs",
    "ICEM": "planners.icem",
    "ICEMConfig": "planners.icem",
    "MPC": "planners.mpc",
    "MPCConfig": "planners.mpc",
    "Dynamics": "planners.protocol",
    "Planner": "planners.protocol",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'jepa' has no attribute {name!r} (it has {', '.join(__all__)})")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
