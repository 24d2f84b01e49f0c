"""A learned value as the distance of a cost: `planner.value`, a run folder of `jepa clone method=gcivl`."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from commands.config.groups import PlannerKeys
from commands.shared.errors import UsageError
from commands.training.policy_folders import check_policy, load_policy
from planners.protocol import Dynamics
from world_model.goal_value import GoalValue

KEY, VIEW = "planner.value", "pooled"


class ValueDistance:
    """Model steps to the goal that a value estimates, in place of a metric (`planners.costs.GoalCost.distance`).

    Frames before the first imagined one are hidden, as at the start of an episode.
    """

    def __init__(self, value: GoalValue) -> None:
        self.value = value

    def __call__(self, imagined: Tensor, goal: Tensor) -> Tensor:
        """Steps [..., S, K] of imagined features [..., S, K, D] and those of goals, [..., 1, 1, D]."""
        history, steps = self.value.history, imagined.shape[-2]
        first = imagined[..., :1, :].expand(*imagined.shape[:-2], history - 1, -1)
        seen = torch.cat((first, imagined), -2).unfold(-2, history, 1).transpose(-1, -2)  # [..., S, K, T, D]
        places = torch.arange(steps, device=imagined.device)[:, None] + torch.arange(history, device=imagined.device)
        valid = (places >= history - 1).expand(seen.shape[:-1])
        goals = goal.expand(imagined.shape)
        flat = self.value.estimate_steps(
            seen.reshape(-1, history, seen.shape[-1]), valid.reshape(-1, history), goals.reshape(-1, goals.shape[-1])
        )
        return flat.view(imagined.shape[:-1])


def check_value(planner: PlannerKeys) -> None:
    """Raise UsageError for a folder that is not there, or holds another kind of model."""
    if planner.value is not None:
        check_policy(planner.value, KEY)


def bind_value(planner: PlannerKeys, dynamics: Dynamics) -> PlannerKeys:
    """The keys with a cost that measures by the value of `planner.value`; as they are without one. UsageError for a
    folder without a value of this model's features, and for a cost that compares something else."""
    if planner.value is None:
        return planner
    policy = load_policy(planner.value, dynamics, KEY)
    if policy.value is None:
        raise UsageError(f"{KEY}={planner.value} holds a policy without a value: jepa clone method=gcivl trains one")
    if policy.value.encoder is not None:
        raise UsageError(
            f"{KEY}={planner.value} has a value of pixels, and plans imagine features: train one with source=features"
        )
    if planner.cost.view != VIEW:
        raise UsageError(
            f"planner.cost.view={planner.cost.view}: {KEY} is a value of the view {VIEW}: give planner.cost.view={VIEW}"
        )
    return replace(planner, cost=replace(planner.cost, distance=ValueDistance(policy.value)))
