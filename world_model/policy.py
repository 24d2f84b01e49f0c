"""A goal-conditioned policy: features of the last frames and of a goal -> the next action blocks.

Trained by `world_model.training.cloning`. With `steps_left` it is inverse dynamics between distant frames (GC-IDM,
arXiv 2605.08732): it is told how many model steps are left. Without, it is goal-conditioned behaviour cloning, which
must average over all times at which the recorded behaviour arrived; or the policy of implicit V-learning
(`world_model.training.gcivl`), which prefers the actions that led nearer to the goal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Interval
from torch import Tensor, nn

from planners.protocol import Dynamics
from world_model.actions import ActionModule, ActionSpec
from world_model.encoder import VideoEncoder
from world_model.goal_value import GoalValue, count_relations, embed_frames, make_layers, relate_frames

STEPS_NUMBERS = 2  # of the numbers that stand for the steps left


@dataclass(frozen=True)
class PolicyConfig:
    """Sizes and inputs of a GoalPolicy."""

    width: Annotated[int, Ge(1)] = 256
    """width of the hidden layers"""
    depth: Annotated[int, Ge(1)] = 3
    """hidden layers"""
    history: Annotated[int, Ge(1)] = 3
    """frames it looks at, one model step apart"""
    blocks: Annotated[int, Ge(1)] = 6
    """action blocks it predicts, in model steps (at least planner.horizon)"""
    dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.1
    """share of hidden numbers dropped in training"""
    steps_left: bool = True
    """whether it is told the model steps left to the goal (inverse dynamics), else not (behaviour cloning)"""


class GoalPolicy(ActionModule):
    """Features [B, T, D] of frames and [B, D] of goals -> action blocks [B, K, A].

    encoder: trained with it, from pixels; None: features are the pooled view of a world model. value: of states and
    goals, trained with it; None: without one.
    """

    def __init__(
        self,
        config: PolicyConfig,
        feature_dim: int,
        actions: ActionSpec,
        encoder: VideoEncoder | None = None,
        value: GoalValue | None = None,
    ) -> None:
        super().__init__()
        self.config, self.actions, self.encoder, self.value = config, actions, encoder, value
        mid, half = actions.block_mid_half()
        inputs = count_relations(config.history, feature_dim) + STEPS_NUMBERS * config.steps_left
        outputs = config.blocks * len(mid)
        self.layers = make_layers(inputs, config.width, config.depth, outputs, lambda: nn.Dropout(config.dropout))
        self.register_bounds(mid, half)

    def forward(self, seen_BTD: Tensor, valid_BT: Tensor, goal_BD: Tensor, steps_B: Tensor | None = None) -> Tensor:
        """Action blocks [B, K, A], 0 in the middle of their bounds and 1 at them, not clamped.

        steps_B: model steps left to the goal, for a policy that is told.
        """
        parts = [relate_frames(seen_BTD, valid_BT, goal_BD)]
        if self.config.steps_left:
            assert steps_B is not None
            steps_B1 = steps_B[:, None].to(seen_BTD.dtype)
            parts += [1 / steps_B1, steps_B1.log()]
        return self.layers(torch.cat(parts, 1)).unflatten(1, (self.config.blocks, -1))

    def embed(self, frames: Tensor) -> Tensor:
        """Features [B, T, D]: those given, or of pixels [B, T, H, W, C] for a policy with an encoder."""
        return embed_frames(self.encoder, frames)


class PolicyProposer:
    """A policy as the proposer of one candidate (`planners.proposals.Proposer`), on features of `dynamics` or of its
    own encoder."""

    count = 1

    def __init__(self, policy: GoalPolicy, dynamics: Dynamics) -> None:
        self.policy, self.dynamics = policy, dynamics

    @property
    def history(self) -> int:
        """Frames that the policy looks at."""
        return self.policy.config.history

    @property
    def horizon(self) -> int:
        """Action blocks that it predicts."""
        return self.policy.config.blocks

    def encode(self, frames_BHWC: Tensor) -> Tensor:
        """Features [B, D]."""
        if self.policy.encoder is None:
            return self.dynamics.encode_goal(frames_BHWC).view("pooled")
        return self.policy.encoder.embed_frames(frames_BHWC[:, None])[:, 0]

    def propose(self, seen_BTD: Tensor, valid_BT: Tensor, goal_BD: Tensor, steps_B: Tensor, horizon: int) -> Tensor:
        """actions_BSKA within bounds, S = 1."""
        policy = self.policy
        blocks_BKA = policy(seen_BTD, valid_BT, goal_BD, steps_B).clamp(-1, 1)
        return policy.restore_actions(blocks_BKA)[:, None, :horizon]
