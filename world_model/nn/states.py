"""Proprioception along an imagined path: integrated, or predicted by a small network.

The robot's state is known at observed frames alone. `PoseIntegration` adds up pose actions as V-JEPA 2-AC does (arXiv
2506.09985, section 3.2); `StatePredictor` learns how actions change a state without a formula (joint angles and
velocities under torques). Training uses the same rule as planning, so that both see the same states.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model.actions import ActionModule
from world_model.nn.poses import POSE_SIZE, integrate_actions

ProprioModel = Literal["none", "integrate", "predicted"]

HIDDEN = 256  # width of the hidden layers of a StatePredictor


class StatePath(nn.Module):
    """States at the frames that K action blocks leave: the observed one, then K - 1 that follow from it.

    Normalised states [B, Q] and actions in environment units [B, S, K, A] -> normalised states [B, S, K, Q].
    """

    state_mean: Tensor
    state_std: Tensor

    def __init__(self, state_dim: int) -> None:
        super().__init__()
        self.register_buffer("state_mean", torch.zeros(state_dim))
        self.register_buffer("state_std", torch.ones(state_dim))

    def set_statistics(self, states_FQ: Tensor) -> None:
        """Mean and standard deviation of states of the train split."""
        self.state_mean.copy_(states_FQ.mean(0))
        self.state_std.copy_(states_FQ.std(0).clamp_min(1e-6))

    def normalise(self, states: Tensor) -> Tensor:
        """States in the robot's units -> zero mean and unit deviation."""
        return (states - self.state_mean) / self.state_std

    def read(self, proprio_BTQ: Tensor | None, frames_BT: Tensor) -> Tensor:
        """Normalised states [B, T, Q] at frames [B, T, ...]; ValueError without recorded states."""
        if proprio_BTQ is None:
            raise ValueError(
                "this model was trained with the robot's state (dynamics.proprio_model): give it beside the frames"
            )
        return self.normalise(proprio_BTQ.float())

    def step(self, state_Q: Tensor, block_A: Tensor) -> Tensor:
        """The normalised state [..., Q] after one action block [..., A]."""
        raise NotImplementedError

    def forward(self, state_BQ: Tensor, blocks_BSKA: Tensor) -> Tensor:
        state = state_BQ[:, None].expand(-1, blocks_BSKA.shape[1], -1)
        path = [state]
        for k in range(blocks_BSKA.shape[2] - 1):
            state = self.step(state, blocks_BSKA[:, :, k])
            path.append(state)
        return torch.stack(path, 2)

    def compute_losses(self, states_BTQ: Tensor, blocks_BtA: Tensor) -> dict[str, Tensor]:
        """Losses of the rule on recorded, normalised states, by name; empty if it has no parameters."""
        return {}


class NoStates(StatePath):
    """A model of images alone: states of size 0."""

    def __init__(self) -> None:
        nn.Module.__init__(self)  # no statistics

    def read(self, proprio_BTQ: Tensor | None, frames_BT: Tensor) -> Tensor:
        """States [B, T, 0]; recorded ones are ignored."""
        return torch.zeros(*frames_BT.shape[:2], 0, device=frames_BT.device)

    def set_statistics(self, states_FQ: Tensor) -> None:
        """Nothing to set."""

    def forward(self, state_BQ: Tensor, blocks_BSKA: Tensor) -> Tensor:
        return blocks_BSKA.new_zeros(*blocks_BSKA.shape[:3], 0)


class PoseIntegration(StatePath):
    """7-D end-effector poses and pose actions; a block of several actions is integrated one after another."""

    def __init__(self, state_dim: int, action_dim: int) -> None:
        if (state_dim, action_dim) != (POSE_SIZE, POSE_SIZE):
            raise ValueError(
                f"dynamics.proprio_model=integrate needs poses and pose actions of size {POSE_SIZE}; here states have "
                f"size {state_dim} and actions {action_dim}: use predicted"
            )
        super().__init__(state_dim)

    def step(self, state_Q: Tensor, block_A: Tensor) -> Tensor:
        pose = state_Q * self.state_std + self.state_mean
        for action in block_A.split(POSE_SIZE, -1):
            pose = integrate_actions(pose, action)
        return self.normalise(pose)


class StatePredictor(StatePath, ActionModule):
    """A network for the change of a state under an action block, trained with the dynamics by squared error."""

    def __init__(self, state_dim: int, block_mid: Tensor, block_half: Tensor) -> None:
        super().__init__(state_dim)
        self.register_bounds(block_mid, block_half)
        self.change = nn.Sequential(
            nn.Linear(state_dim + len(block_mid), HIDDEN),
            nn.GELU(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.GELU(),
            nn.Linear(HIDDEN, state_dim),
        )

    def step(self, state_Q: Tensor, block_A: Tensor) -> Tensor:
        return state_Q + self.change(torch.cat((state_Q, self.normalise_actions(block_A)), -1))

    def compute_losses(self, states_BTQ: Tensor, blocks_BtA: Tensor) -> dict[str, Tensor]:
        return {"state": F.mse_loss(self.step(states_BTQ[:, :-1], blocks_BtA), states_BTQ[:, 1:])}


def make_states(model: ProprioModel, state_dim: int, action_dim: int, mid: Tensor, half: Tensor) -> StatePath:
    """The rule for states of this size; mid, half: middle and half range of an action block."""
    if model == "none":
        return NoStates()
    return PoseIntegration(state_dim, action_dim) if model == "integrate" else StatePredictor(state_dim, mid, half)
