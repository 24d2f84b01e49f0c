"""What generative world models share: they learn from pixels and recorded actions at once, and are planned with as they
are.

A model is `planners.protocol.Dynamics` and what the training loop trains (`loss`, `after_step`), with no encoder of
another objective inside.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from torch import Tensor

from planners.protocol import DynamicsSpec, Keep, Noise, Views
from world_model.actions import ActionModule, ActionSpec
from world_model.encoder import EncoderConfig
from world_model.objectives.masking import Mask
from world_model.objectives.objective import FamilyConfig

Batch = dict[str, Tensor]


class WorldModelConfig(FamilyConfig):
    """What the configs of all world models have beside their fields. They are objectives of `jepa pretrain` that train
    no encoder of ours."""

    space: ClassVar[Literal["pooled", "tokens"]] = "pooled"
    reads_actions: ClassVar[bool] = True
    masks: ClassVar[tuple[Mask, ...]] = ()
    metric: ClassVar[None] = None
    frames: int
    frame_gap: int
    context_frames: int

    @property
    def horizon(self) -> int:
        """Model steps after the context that a training clip shows: the longest plan."""
        return self.frames - self.context_frames

    def adapt_encoder(self, sizes: EncoderConfig) -> EncoderConfig:
        """Of the encoder that was asked for, the frame size alone."""
        return EncoderConfig(image_px=sizes.image_px, patch_px=math.gcd(*sizes.image_px))

    def make_world_model(self, image_px: tuple[int, int], actions: ActionSpec, seed: int = 0) -> WorldModel:
        """The model for frames of this size. Raises ValueError for a size that it cannot have."""
        raise NotImplementedError


class WorldModel(ActionModule):
    """A world model with normalised actions.

    config: its own. image_px: height and width of frames. actions: bounds of the environment's, and how many make a
    model step.
    """

    views: tuple[str, ...]
    open_loop_view: ClassVar[str] = "pixels"  # in which imagined steps are compared with what was recorded
    estimates_return: ClassVar[bool] = False

    def __init__(self, config: WorldModelConfig, image_px: tuple[int, int], actions: ActionSpec) -> None:
        super().__init__()
        self.config, self.image_px, self.actions = config, image_px, actions
        self.register_bounds(*actions.block_mid_half())

    def prepare(self, batch: Batch, step: int) -> Batch:
        """Nothing is drawn ahead."""
        return batch

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch and its terms by name: `pixels` uint8 [B, T, H, W, C], `action` [B, T-1, A]. Draws are a
        function of the step."""
        raise NotImplementedError

    def read_open_loop(self, frames_BTHWC: Tensor) -> Tensor:
        """What steps imagined in `open_loop_view` are compared with: recorded frames in that view [B, T', ...], from
        the last context frame on."""
        return frames_BTHWC[:, self.config.context_frames - 1 :].float()

    def after_step(self, step: int) -> None:
        """Nothing follows a step of the optimiser."""

    def observe(
        self, frames_BTHWC: Tensor, past_actions_BtA: Tensor, valid_BT: Tensor, proprio: Tensor | None = None
    ) -> Any:
        """See `Dynamics.observe`."""
        raise NotImplementedError

    def encode_goal(self, frames_BHWC: Tensor, proprio: Tensor | None = None) -> Views:
        """See `Dynamics.encode_goal`."""
        raise NotImplementedError

    def imagine(self, context: Any, actions_BSKA: Tensor, generator: Noise | None = None, keep: Keep = "path") -> Views:
        """See `Dynamics.imagine`."""
        raise NotImplementedError

    def measure_step_bytes(self) -> int:
        """About how much memory an imagined step of a candidate takes (`DynamicsSpec.step_bytes`)."""
        raise NotImplementedError

    @property
    def spec(self) -> DynamicsSpec:
        """The facts a planner needs."""
        return DynamicsSpec(
            action_low=self.actions.block_low,
            action_high=self.actions.block_high,
            frame_hw=self.image_px,
            frame_skip=self.actions.frame_skip,
            history=self.config.context_frames,
            max_horizon=self.config.horizon,
            views=self.views,
            device=self.action_mid.device,
            step_bytes=self.measure_step_bytes(),
            estimates_return=self.estimates_return,
        )
