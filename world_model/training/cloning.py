"""Behaviour cloning towards goals, and inverse dynamics: a `GoalPolicy` learns the recorded actions by regression.

The squared error makes it the mean of the recorded actions, given what it is told. Each batch shows a history of 1 to T
frames in turn, as an episode does when it begins.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from world_model.policy import GoalPolicy


class CloningModel(nn.Module):
    """A GoalPolicy with its loss.

    Batches hold `features` [B, T + 1, D] or, for a policy with an encoder of its own, `pixels` [B, T + 1, H, W, C], of
    the last frames and the goal; `valid` [B, T], `steps` [B], `action` [B, K, A] and `recorded` [B, K], as of
    `data.goal_pairs.GoalPairs`.
    """

    def __init__(self, policy: GoalPolicy) -> None:
        super().__init__()
        self.policy = policy

    def loss(self, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error of the recorded action blocks, normalised; and as a term."""
        error = measure_error(self.policy, batch, 1 + step % self.policy.config.history)
        return error, {"cloning": error}

    def after_step(self, step: int) -> None:
        """No state changes but the weights."""


def measure_error(policy: GoalPolicy, batch: dict[str, Tensor], history: int) -> Tensor:
    """Mean squared error of normalised actions over the blocks that were recorded, with the last `history` frames."""
    features = policy.embed(read_frames(batch))
    seen, valid = hide_older(features[:, :-1], batch["valid"], history)
    predicted = policy(seen, valid, features[:, -1], batch["steps"])
    square_BK = (predicted.float() - policy.normalise_actions(batch["action"])).square().mean(-1)
    return average_recorded(square_BK, batch["recorded"])


def read_frames(batch: dict[str, Tensor]) -> Tensor:
    """The frames of a batch: their features [B, T, D], or pixels [B, T, H, W, C]."""
    return batch["features"] if "features" in batch else batch["pixels"]


def average_recorded(values_BK: Tensor, recorded_BK: Tensor) -> Tensor:
    """Mean over the blocks that were recorded."""
    recorded_BK = recorded_BK.to(values_BK.dtype)
    return (values_BK * recorded_BK).sum() / recorded_BK.sum().clamp_min(1)


def hide_older(seen_BTD: Tensor, valid_BT: Tensor, history: int) -> tuple[Tensor, Tensor]:
    """The last `history` frames, with copies of the oldest of them before it, and which are valid."""
    frames = seen_BTD.shape[1]
    shown_T = torch.arange(frames, device=seen_BTD.device) >= frames - history
    oldest = seen_BTD[:, frames - history : frames - history + 1]
    return torch.where(shown_T[:, None], seen_BTD, oldest), valid_BT & shown_T
