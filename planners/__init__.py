"""Planners: from a world model, a goal and a cost to actions. Depends on the Dynamics protocol alone.

Read in this order: protocol, costs, scoring (imagine and score, in chunks), sampling (candidates, the one
search loop), cem (an update rule), mpc (frames in, actions out). The other rules: icem, mppi,
predictive_sampling, gradient, projected_gradient, cem_gradient, nevergrad_search. Searches that start from data:
proposals.
docs/concepts/planning.md compares them.
"""

from planners.cem import CEM, CEMConfig
from planners.costs import GoalCost
from planners.mpc import MPC, MPCConfig
from planners.protocol import Context, Cost, Dynamics, DynamicsSpec, Goal, Imagined, Plan, Planner, Views

__all__ = [
    "CEM",
    "MPC",
    "CEMConfig",
    "Context",
    "Cost",
    "Dynamics",
    "DynamicsSpec",
    "Goal",
    "GoalCost",
    "Imagined",
    "MPCConfig",
    "Plan",
    "Planner",
    "Views",
]
