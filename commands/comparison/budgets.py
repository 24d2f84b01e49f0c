"""The arithmetic of a row's training, and the steps of stage 1 under each budget.

Counted: all steps of both stages and of a policy, forward and back; the frames that stage 2 encodes once; the frames
that a metric is fitted on. Evaluations during training are not.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from statistics import fmean
from typing import Any, Literal

import torch

from commands.config.groups import DynamicsKeys
from commands.pipeline import PipelineKeys
from commands.shared.errors import UsageError
from commands.shared.flops import count_flops
from commands.training.cloning import PolicyTraining, make_random_policy
from commands.training.posttraining import make_dynamics, make_random_stage2
from commands.training.pretraining import make_random_stage1
from data.schema import SPLITS, draw_splits
from world_model.encoder import EncoderConfig
from world_model.generative.world_model import WorldModelConfig
from world_model.objectives.families import Stage1Config
from world_model.training.loop import TrainerConfig, make_optimizer, train_step

Budget = Literal["steps", "flops", "total"]
FRAMES = 4  # that one frame's operations are counted on


@dataclass(frozen=True)
class TrainingFlops:
    """Floating-point operations of a row's training: matrix products, convolutions and attention.

    step: of one step of stage 1. pretrain: of all of them. metric: of the frames that the metric is fitted on.
    posttrain: of stage 2, with the frames that it encodes. clone: of a policy.
    """

    step: float
    pretrain: float
    metric: float
    posttrain: float
    clone: float = 0.0

    @property
    def total(self) -> float:
        """Of all stages."""
        return self.pretrain + self.metric + self.posttrain + self.clone

    def to_record(self) -> dict[str, float]:
        """The numbers as a record holds them."""
        return {**asdict(self), "total": self.total}


def count_training_flops(keys: PipelineKeys) -> TrainingFlops:
    """The arithmetic of all stages of a pipeline; a world model of one stage has the first alone."""
    sizes, metric, frames = keys.stage1.adapted_encoder, keys.objective.metric, keys.data.frames
    step = 0.0
    if keys.pretrain.steps:
        step = _count_step(sizes, drop_metric(keys.objective), keys.pretrain.batch_size, keys.env.name)
    if not keys.has_stage2:
        return TrainingFlops(step, keys.pretrain.steps * step, 0.0, 0.0)
    stage2 = _count_stage2(sizes, keys.dynamics, keys.posttrain.batch_size, keys.env.name)
    train = int((draw_splits(0, keys.data.episodes) == SPLITS.index("train")).sum())  # as many for every seed
    fitted = 0 if metric is None else min(metric.episodes, train) * frames
    return TrainingFlops(
        step,
        keys.pretrain.steps * step,
        fitted * stage2.embed,
        keys.posttrain.steps * stage2.step + keys.data.episodes * frames * stage2.encode,
        0.0 if keys.clone is None else _count_policy(sizes, keys.dynamics, keys.clone, keys.env.name),
    )


def drop_metric(objective: Stage1Config) -> Stage1Config:
    """The objective that stage 1 trains: a metric is fitted afterwards."""
    return objective if isinstance(objective, WorldModelConfig) else replace(objective, metric=None)


def fit_steps(keys: PipelineKeys, budget: str, limit: TrainingFlops) -> PipelineKeys:
    """The pipeline with the steps of stage 1 that a budget allows.

    steps: as it is. flops: stage 1 has the arithmetic of the limit's. total: all stages together have that of the
    limit's; the metric's fit is left out on both sides, so that rows with and without a metric share stage 1. Raises
    UsageError where the budget does not allow one step.
    """
    if budget not in ("flops", "total") or not keys.pretrain.steps:
        return keys
    own = count_training_flops(keys)
    allowed = limit.pretrain
    if budget == "total":
        allowed += limit.posttrain + limit.clone - own.posttrain - own.clone
    steps = round(allowed / own.step)
    if steps < 1:
        raise UsageError(
            f"budgets=[{budget}]: {allowed / 1e12:.3g} TFLOP are left for stage 1, and one step takes "
            f"{own.step / 1e12:.3g}: shorten stage 2 and the policy of this row, or give budgets=[steps]"
        )
    return replace(keys, pretrain=replace(keys.pretrain, steps=steps))


@cache
def _count_step(encoder: EncoderConfig, objective: Stage1Config, batch_size: int, task: str) -> float:
    """One step of stage 1, forward and back."""
    trainer, cpu = TrainerConfig(steps=1, batch_size=batch_size), torch.device("cpu")
    model, batch = make_random_stage1(encoder, objective, trainer, task, 0, cpu)
    optimizer = make_optimizer(model, trainer)
    return count_flops(lambda: train_step(model, batch, optimizer, trainer, 0))


@dataclass(frozen=True)
class _Stage2Flops:
    """step: of stage 2, forward and back, mean over the lengths of history. encode, embed: of one frame, as the
    dynamics read it, and as a metric does."""

    step: float
    encode: float
    embed: float


@cache
def _count_stage2(sizes: EncoderConfig, keys: DynamicsKeys, batch_size: int, task: str) -> _Stage2Flops:
    model, batch = make_random_stage2(sizes, keys, batch_size, task, torch.device("cpu"))
    trainer, dynamics = TrainerConfig(steps=1, batch_size=batch_size), model.dynamics
    lengths = 1 if keys.losses.rollout_history or not keys.losses.rollout else keys.history
    step = _average_step(model, batch, trainer, lengths)
    frames = torch.zeros(1, FRAMES, *sizes.image_px, 3, dtype=torch.uint8)
    with torch.no_grad():
        encode = count_flops(lambda: dynamics.read(frames))
        embed = count_flops(lambda: dynamics.encoder.embed_chunks(frames))
    return _Stage2Flops(step, encode / FRAMES, embed / FRAMES)


@cache
def _count_policy(sizes: EncoderConfig, dynamics: DynamicsKeys, keys: PolicyTraining, task: str) -> float:
    """All steps of a policy, forward and back, mean over the lengths of history."""
    model, batch = make_random_policy(keys, make_dynamics(sizes, dynamics, task))
    return keys.trainer.steps * _average_step(model, batch, replace(keys.trainer, steps=1), keys.policy.history)


def _average_step(model: Any, batch: dict[str, torch.Tensor], trainer: TrainerConfig, lengths: int) -> float:
    """Operations of a step, forward and back: mean over the lengths of history, which steps have in turn."""
    optimizer = make_optimizer(model, trainer)
    return fmean(count_flops(partial(train_step, model, batch, optimizer, trainer, at)) for at in range(lengths))
