"""Keys of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated

from annotated_types import Ge

from commands.config.groups import CEMKeys, PlannerKeys
from commands.config.keys import OnDamaged, RunKeys
from commands.evaluation.protocol import ProtocolConfig
from planners.proposals import OWN


@dataclass(frozen=True, kw_only=True)
class EvaluationKeys(RunKeys):
    """How a model is evaluated."""

    planner: PlannerKeys = field(default_factory=CEMKeys)
    """search, cost and receding horizon"""
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    """starts, goals, and what counts as success"""
    on_damaged: OnDamaged = "error"
    """episodes whose checksum fails: error, or skip to leave them out"""
    workers: Annotated[int, Ge(0)] = 0
    """threads that simulate for the oracle; 0: one per core; changes no result"""
    env_workers: Annotated[int, Ge(0)] = 0
    """processes that simulate and render the episodes; 0: this one (enough where planning takes the time); changes no
    result"""
    compare_batches: bool = False
    """whether the model's episodes are played again in batches of 1, 4 and all and in two chunk sizes, and plans and
    outcomes that differ are counted"""
    videos: Annotated[int, Ge(0)] = 6
    """rollout videos to write; offline: moments to show"""

    def use_policy(self, folder: str) -> EvaluationKeys:
        """The same with this run folder of `jepa clone` where the planner's keys say `own`."""
        planner = self.planner
        if planner.proposal.source == OWN:
            planner = replace(planner, proposal=replace(planner.proposal, source=folder))
        if planner.value == OWN:
            planner = replace(planner, value=folder)
        return replace(self, planner=planner)
