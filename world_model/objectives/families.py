"""The families of objectives: one config or another, and the objective that each config is of.

A config names its family by the key `family`; `make_objective` is the one place that maps configs to objectives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from world_model.dynamics import ActionSpec
from world_model.encoder import VideoEncoder
from world_model.objectives.causal import Causal, CausalConfig
from world_model.objectives.end_to_end import EndToEnd, EndToEndConfig
from world_model.objectives.future import Future, FutureConfig
from world_model.objectives.masked import Masked, MaskedConfig
from world_model.objectives.objective import Objective

ObjectiveConfig = MaskedConfig | FutureConfig | CausalConfig | EndToEndConfig

OBJECTIVES: dict[type[Any], Callable[..., Objective]] = {
    MaskedConfig: Masked,
    FutureConfig: Future,
    CausalConfig: Causal,
    EndToEndConfig: EndToEnd,
}


def make_objective(
    config: ObjectiveConfig, encoder: VideoEncoder, steps: int, seed: int = 0, actions: ActionSpec | None = None
) -> Objective:
    """The objective of a config, around an encoder, for a run of so many steps."""
    return OBJECTIVES[type(config)](config, encoder, steps, seed, actions)
