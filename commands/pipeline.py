"""The whole pipeline on one task: collect -> pretrain -> posttrain -> plan, each stage with its own keys.

`jepa demo` runs it once; a cell of `jepa compare` is one run of its stages.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from commands.config.groups import CEMKeys, DynamicsKeys, PlannerKeys
from commands.config.keys import CollectKeys, DataKeys, EnvKeys, GymKeys, OnDamaged, RunKeys
from commands.evaluation.methods import EvaluationKeys
from commands.evaluation.protocol import ProtocolConfig
from commands.training.posttraining import PosttrainKeys
from commands.training.pretraining import PretrainKeys
from commands.transfer.collection import check_collection
from world_model.encoder import EncoderConfig
from world_model.objectives.families import ObjectiveConfig
from world_model.objectives.future import FutureConfig
from world_model.training.loop import TrainerConfig

Keys = TypeVar("Keys", bound=RunKeys)


@dataclass(frozen=True, kw_only=True)
class PipelineKeys(RunKeys):
    """Keys of all stages."""

    env: EnvKeys | GymKeys
    """task"""
    data: DataKeys = field(default_factory=DataKeys)
    """size of the file and behaviour"""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """sizes of the encoder"""
    objective: ObjectiveConfig = field(default_factory=FutureConfig)
    """what stage 1 predicts from what"""
    pretrain: TrainerConfig = field(default_factory=TrainerConfig)
    """optimisation of stage 1"""
    dynamics: DynamicsKeys = field(default_factory=DynamicsKeys)
    """shape and losses of the latent dynamics"""
    posttrain: TrainerConfig = field(default_factory=TrainerConfig)
    """optimisation of stage 2"""
    planner: PlannerKeys = field(default_factory=CEMKeys)
    """search, cost and receding horizon"""
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    """starts, goals, and what counts as success"""
    on_damaged: OnDamaged = "error"
    """episodes whose checksum fails: error, or skip to leave them out"""
    workers: int = 0
    """processes that collect and simulate; 0: one per core; changes no result"""
    videos: int = 6
    """rollout videos to write"""

    def check(self) -> None:
        """Raise ValueError for what can be known to fail, of all stages, before the first begins."""
        check_collection(self.collection)
        self.stage1.check()
        self.stage2.check()

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
    def evaluation(self) -> EvaluationKeys:
        """Keys of the evaluation."""
        return self._select(EvaluationKeys)

    def _select(self, cls: type[Keys], **others: Any) -> Keys:
        own = {item.name: getattr(self, item.name) for item in fields(cls) if hasattr(self, item.name)}
        return cls(**{**own, **others})
