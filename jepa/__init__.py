"""What a script needs: `from jepa import Agent, make`. Each name is defined in one of the packages beside this one.

A name is imported when it is first used, so `jepa.make` loads no torch and `jepa.CEM` no simulator.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from commands.agent import Agent
    from commands.encode import extract_features
    from commands.evaluation.policies import evaluate
    from commands.training.model_folders import load_dynamics, load_encoder
    from commands.training.trajectory_files import open_reader
    from envs import make
    from planners.cem import CEM, CEMConfig
    from planners.costs import GoalCost
    from planners.icem import ICEM, ICEMConfig
    from planners.mpc import MPC, MPCConfig
    from planners.protocol import Dynamics, DynamicsSpec, Plan, Planner, Views

__all__ = [
    "CEM",
    "ICEM",
    "MPC",
    "Agent",
    "CEMConfig",
    "Dynamics",
    "DynamicsSpec",
    "GoalCost",
    "ICEMConfig",
    "MPCConfig",
    "Plan",
    "Planner",
    "Views",
    "evaluate",
    "extract_features",
    "load_dynamics",
    "load_encoder",
    "make",
    "open_reader",
]

_HOMES = {
    "Agent": "commands.agent",
    "extract_features": "commands.encode",
    "evaluate": "commands.evaluation.policies",
    "load_dynamics": "commands.training.model_folders",
    "load_encoder": "commands.training.model_folders",
    "open_reader": "commands.training.trajectory_files",
    "make": "envs",
    "CEM": "planners.cem",
    "CEMConfig": "planners.cem",
    "GoalCost": "planners.costs",
    "ICEM": "planners.icem",
    "ICEMConfig": "planners.icem",
    "MPC": "planners.mpc",
    "MPCConfig": "planners.mpc",
    "Dynamics": "planners.protocol",
    "DynamicsSpec": "planners.protocol",
    "Plan": "planners.protocol",
    "Views": "planners.protocol",
    "Planner": "planners.protocol",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'jepa' has no attribute {name!r} (it has {', '.join(__all__)})")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
