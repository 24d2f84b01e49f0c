"""Floating-point operations that a cell trains with: matrix products, convolutions and attention of both stages.

Records of earlier versions lack those of stage 2; they are counted anew from the record's configuration.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache, partial
from typing import Any

import torch

from commands.config.groups import DynamicsKeys
from commands.config.schema import build, choose_class
from commands.shared.flops import count_flops
from commands.training.posttraining import make_random_stage2
from world_model.encoder import EncoderConfig
from world_model.objectives.families import ObjectiveConfig
from world_model.training.loop import TrainerConfig, make_optimizer, train_step

COUNTED = ("env", "encoder", "objective", "dynamics", "posttrain")  # parts of a configuration that stage 2 depends on


@dataclass(frozen=True)
class Costs:
    """FLOPs of a cell: training of stage 1 and of stage 2, and the encoder's passes over all frames, whose features
    stage 2 reads."""

    stage1: float = 0.0
    stage2: float = 0.0
    features: float = 0.0

    @property
    def training(self) -> float:
        """Training of both stages."""
        return self.stage1 + self.stage2


def count_stage2_flops(
    encoder: EncoderConfig, dynamics: DynamicsKeys, trainer: TrainerConfig, task_name: str
) -> tuple[float, float]:
    """FLOPs of one training step of stage 2, and of the features of one frame. encoder: sizes, as the objective adapts
    them.

    The history of a rollout takes each of its lengths in turn, so the step is the mean over them.
    """
    model, batch = make_random_stage2(encoder, dynamics, trainer, task_name, torch.device("cpu"))
    optimizer = make_optimizer(model, trainer)
    lengths = 1 if dynamics.losses.rollout_history else dynamics.history
    steps = [count_flops(partial(train_step, model, batch, optimizer, trainer, number)) for number in range(lengths)]
    frame_BTHWC = torch.zeros(1, 1, *encoder.image_px, 3, dtype=torch.uint8)
    with torch.no_grad():
        return sum(steps) / lengths, count_flops(lambda: model.dynamics.read(frame_BTHWC))


def read_costs(record: Mapping[str, Any]) -> Costs:
    """FLOPs of a finished cell; none for a method that trains nothing."""
    if "steps" not in record:
        return Costs()
    config = record["config"]
    if "posttrain_flops_per_step" in record:
        step, frame = record["posttrain_flops_per_step"], record["features_flops_per_frame"]
    else:
        step, frame = _count_again(json.dumps({part: config[part] for part in COUNTED}, sort_keys=True))
    frames = config["data"]["episodes"] * config["data"]["frames"]
    return Costs(record["steps"] * record["flops_per_step"], config["posttrain"]["steps"] * step, frames * frame)


@cache
def _count_again(text: str) -> tuple[float, float]:
    """`count_stage2_flops` of a record's configuration."""
    config = json.loads(text)
    encoder = _build(ObjectiveConfig, config["objective"]).adapt_encoder(_build(EncoderConfig, config["encoder"]))
    dynamics, trainer = _build(DynamicsKeys, config["dynamics"]), _build(TrainerConfig, config["posttrain"])
    return count_stage2_flops(encoder, dynamics, trainer, config["env"]["name"])


def _build(hint: Any, recorded: Mapping[str, Any]) -> Any:
    """A part of a record's configuration, without the fields that the program sets itself."""
    cls = choose_class(hint, recorded)
    assert cls is not None, hint
    own = {item.name for item in fields(cls) if not item.repr}
    return build(cls, {key: value for key, value in recorded.items() if key not in own})
