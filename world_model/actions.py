"""Actions of a task, and modules that take them by their bounds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class ActionSpec:
    """Actions of the environment: bounds in environment units, and how many make a model step."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    frame_skip: int = 1

    @property
    def block_low(self) -> tuple[float, ...]:
        """Lower bounds of an action block."""
        return self.low * self.frame_skip

    @property
    def block_high(self) -> tuple[float, ...]:
        """Upper bounds of an action block."""
        return self.high * self.frame_skip

    @property
    def block_dim(self) -> int:
        """Numbers of an action block."""
        return len(self.low) * self.frame_skip

    def block_mid_half(self) -> tuple[Tensor, Tensor]:
        """Middle and half range of every dimension of an action block, for normalisation."""
        low, high = torch.tensor(self.block_low), torch.tensor(self.block_high)
        return (high + low) / 2, (high - low) / 2


class ActionModule(nn.Module):
    """A module that takes action blocks in units of their bounds. Middle and half range are buffers, so a model's
    weights carry them."""

    action_mid: Tensor
    action_half: Tensor

    def register_bounds(self, mid_A: Tensor, half_A: Tensor) -> None:
        """Normalise by this middle and half range."""
        self.register_buffer("action_mid", mid_A)
        self.register_buffer("action_half", half_A)

    def normalise_actions(self, actions: Tensor) -> Tensor:
        """Action blocks [..., A] in environment units -> -1 to 1 at the bounds."""
        return (actions - self.action_mid) / self.action_half

    def restore_actions(self, actions: Tensor) -> Tensor:
        """Action blocks [..., A] in -1 to 1 -> environment units."""
        return actions * self.action_half + self.action_mid
