"""The whole pipeline on one task: collect -> pretrain -> posttrain (-> clone) -> plan, each stage with its own keys.

`jepa demo` runs it once; a cell of `jepa compare` is one run of its stages.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Annotated, Any, TypeVar

from annotated_types import Ge

from commands.config.groups import ModelKeys, make_planner
from commands.config.keys import CollectKeys, DataKeys, LoggerKeys, OnDamaged, RunKeys
from commands.evaluation.keys import EvaluationKeys
from commands.evaluation.protocol import ProtocolConfig, check_goals
from commands.evaluation.scenes import check_scenes
from commands.shared.errors import UsageError
from commands.training.cloning import CloneKeys, PolicyTraining
from commands.training.posttraining import PosttrainKeys
from commands.training.pretraining import PretrainKeys
from commands.transfer.collection import check_collection
from planners.proposals import NONE, OWN, RETRIEVAL
from world_model.generative.world_model import WorldModelConfig

Keys = TypeVar("Keys", bound=RunKeys)


@dataclass(frozen=True, kw_only=True)
class PipelineKeys(ModelKeys, LoggerKeys):
    """Keys of all stages."""

    data: DataKeys = field(default_factory=DataKeys)
    """size of the file and behaviour"""
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    """starts, goals, and what counts as success"""
    clone: PolicyTraining | None = None
    """policy that is trained on the model's features or on pixels, for planner.proposal.source=own or
    planner.value=own; null: none"""
    on_damaged: OnDamaged = "error"
    """episodes whose checksum fails: error, or skip to leave them out"""
    workers: Annotated[int, Ge(0)] = 0
    """processes that collect and simulate; 0: one per core; changes no result"""
    videos: Annotated[int, Ge(0)] = 6
    """rollout videos to write"""

    def check(self) -> None:
        """Raise ValueError for what can be known to fail, of all stages, before the first begins."""
        check_collection(self.collection)
        check_scenes(self.protocol, self.env.name, self.env.arguments)
        check_goals(self.protocol, self.env.name, self.data.frames)
        self.check_planner()
        self.stage1.check()
        if self.has_stage2:
            self.stage2.check()
        elif self.dynamics.decoder is not None:
            raise UsageError(
                f"dynamics.decoder is fitted in stage 2, which objective.family={self.objective.family} does not have: "
                "leave it out"
            )

    def check_planner(self) -> None:
        """Raise ValueError for planner settings that do not fit together. UsageError for Euler steps without a flow, or
        for a policy or a value: they belong to a model that was trained before."""
        make_planner(self.planner)
        if (steps := self.planner.flow_steps) is not None and self.dynamics.flow is None:
            raise UsageError(
                f"planner.flow_steps={steps} is for a model with dynamics.flow, and dynamics.flow is null: leave it out"
            )
        sources = {"planner.proposal.source": self.planner.proposal.source, "planner.value": self.planner.value}
        for key, source in sources.items():
            if source not in (None, NONE, RETRIEVAL, OWN):
                raise UsageError(
                    f"{key}={source} holds a policy for another model than those that are trained here: give "
                    f"{key}={OWN} with clone={{...}}, or leave it out"
                )
            if source == OWN and self.clone is None:
                raise UsageError(f"{key}={OWN} is the policy of clone, and clone is null: give clone={{...}}")
        if self.clone is not None:
            self._check_clone(self.clone)

    def _check_clone(self, clone: PolicyTraining) -> None:
        if not self.has_stage2:
            raise UsageError(
                f"clone trains a policy on the model of stage 2, which objective.family={self.objective.family} does "
                "not have: leave it out"
            )
        if OWN not in (self.planner.proposal.source, self.planner.value):
            raise UsageError(
                f"clone trains a policy that the planner does not use: give planner.proposal.source={OWN}, or with "
                f"clone.method.name=gcivl planner.value={OWN}"
            )
        if self.planner.proposal.source == OWN and self.planner.horizon > clone.policy.blocks:
            raise UsageError(
                f"planner.horizon={self.planner.horizon} is longer than what the policy proposes, clone.policy.blocks="
                f"{clone.policy.blocks}: raise that, or plan a shorter horizon"
            )
        if self.planner.value == OWN and (clone.method.name != "gcivl" or clone.source != "features"):
            raise UsageError(
                f"planner.value={OWN} needs a value of features: give clone.method.name=gcivl and clone.source=features"
            )

    @property
    def has_stage2(self) -> bool:
        """Whether dynamics are learned on a frozen encoder; a world model of one stage plans as stage 1 leaves it."""
        return not isinstance(self.objective, WorldModelConfig)

    @property
    def last_stage(self) -> str:
        """Name of the stage whose model plans."""
        return "posttrain" if self.has_stage2 else "pretrain"

    @property
    def frame_skip(self) -> int | None:
        """Environment steps per model step; None: the task's own."""
        return self.dynamics.frame_skip if self.has_stage2 else self.objective.frame_gap or None

    @property
    def collection(self) -> CollectKeys:
        """Keys of collecting."""
        return self._select(CollectKeys)

    @property
    def stage1(self) -> PretrainKeys:
        """Keys of stage 1."""
        return self._select(PretrainKeys, trainer=self.pretrain)

    @property
    def stage2(self) -> PosttrainKeys:
        """Keys of stage 2."""
        return self._select(PosttrainKeys, trainer=self.posttrain)

    @property
    def stage3(self) -> CloneKeys:
        """Keys of the policy's training."""
        assert self.clone is not None
        return self._select(CloneKeys, **vars(self.clone))

    @property
    def evaluation(self) -> EvaluationKeys:
        """Keys of the evaluation."""
        return self._select(EvaluationKeys)

    def _select(self, cls: type[Keys], **others: Any) -> Keys:
        own = {item.name: getattr(self, item.name) for item in fields(cls) if hasattr(self, item.name)}
        return cls(**{**own, **others})
