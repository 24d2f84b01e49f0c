"""A world model in closed form, for tests: a point whose position is the sum of its actions.

position += speed * action, `frame_skip` times a model step. Frames hold the position exactly, in the bytes
of two pixels; every view is the position under another shape. It can blow (noise shared by all candidates),
hide a region (NaN to the right of `hole`), and remembers what it was asked.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from planners.protocol import Dynamics, DynamicsSpec, Keep, Noise, Rows, Views

REACH = 8.0  # positions lie in [-REACH, REACH)
SIZE = 4  # height and width of a frame
STEPS = 1 << 16


def draw(position_B2: Tensor) -> Tensor:
    """frames_BHWC uint8 that show a position, to within REACH / 2^16."""
    code = ((position_B2 / REACH + 1) / 2 * STEPS).round().long().clamp(0, STEPS - 1)
    frames = torch.zeros(len(position_B2), SIZE, SIZE, 3, dtype=torch.uint8)
    frames[:, 0, :2, 0] = (code // 256).to(torch.uint8)
    frames[:, 0, :2, 1] = (code % 256).to(torch.uint8)
    return frames


def read(frames: Tensor) -> Tensor:
    """The position shown by frames [..., H, W, C]."""
    code = frames[..., 0, :2, 0].float() * 256 + frames[..., 0, :2, 1].float()
    return (code / STEPS * 2 - 1) * REACH


@dataclass
class PointContext:
    """Where the points are, and what `observe` was given."""

    position_B2: Tensor
    frames_BTHWC: Tensor | None = None
    past_actions_BtA: Tensor | None = None
    valid_BT: Tensor | None = None

    def select(self, rows: Rows) -> PointContext:
        """Some environments."""
        return PointContext(self.position_B2[rows])


def views(position: Tensor, keep: Keep = "path") -> Views:
    """All views of positions [..., 2]."""
    return Views(
        {
            "pooled": position,
            "truth": position,
            "tokens": lambda: position[..., None, :],
            "pixels": lambda: position[..., None, None, :],
        },
        keep,
    )


class PointMass:
    """Dynamics of a point, behind the planners' protocol."""

    def __init__(
        self,
        *,
        low: tuple[float, float] = (-1.0, -1.0),
        high: tuple[float, float] = (1.0, 1.0),
        frame_skip: int = 1,
        history: int = 1,
        speed: float = 1.0,
        wind: float = 0.0,
        hole: float | None = None,
        step_bytes: int = 0,
    ) -> None:
        self.spec = DynamicsSpec(
            action_low=low * frame_skip,
            action_high=high * frame_skip,
            frame_hw=(SIZE, SIZE),
            max_horizon=16,
            views=("pooled", "tokens", "pixels", "truth"),
            frame_skip=frame_skip,
            history=history,
            step_bytes=step_bytes,
        )
        self.speed, self.wind, self.hole = speed, wind, hole
        self.asked: list[Tensor] = []  # actions of every imagine
        self.observed: list[PointContext] = []

    def observe(
        self, frames_BTHWC: Tensor, past_actions_BtA: Tensor, valid_BT: Tensor, proprio: Tensor | None = None
    ) -> PointContext:
        """The position in the newest frame."""
        position = read(frames_BTHWC[:, -1])
        self.observed.append(PointContext(position, frames_BTHWC, past_actions_BtA, valid_BT))
        return self.observed[-1]

    def encode_goal(self, frames_BHWC: Tensor, proprio: Tensor | None = None) -> Views:
        """The position in the goal image."""
        return views(read(frames_BHWC))

    def imagine(
        self, context: PointContext, actions_BSKA: Tensor, generator: Noise | None = None, keep: Keep = "path"
    ) -> Views:
        """Sums of actions."""
        self.asked.append(actions_BSKA.detach())
        num_envs, samples, horizon, _ = actions_BSKA.shape
        assert len(context.position_B2) == num_envs, (context.position_B2.shape, actions_BSKA.shape)
        moves = self.speed * actions_BSKA.reshape(num_envs, samples, horizon, -1, 2).sum(3)
        if self.wind:
            assert generator is not None
            moves = moves + self.wind * generator.normal((horizon, 2))[:, None]
        path = context.position_B2[:, None, None] + moves.cumsum(2)
        if self.hole is not None:
            path = torch.where(path[..., :1] > self.hole, torch.nan, path)
        return views(path if keep == "path" else path[:, :, -1:], keep)

    def propose(self, context: PointContext, goal: Views, count: int, steps: int, generator: Noise) -> Tensor:
        """A policy's draws: straight to the goal in as many steps, with noise."""
        away = (goal.view("pooled") - context.position_B2)[:, None, None] / (steps * self.speed)
        return away + 0.1 * generator.normal((count, steps, self.spec.block_dim))

    def move(self, position_B2: Tensor, actions_B2: Tensor) -> Tensor:
        """One true environment step, for receding-horizon tests."""
        return position_B2 + self.speed * torch.as_tensor(np.asarray(actions_B2))


_: type[Dynamics] = PointMass  # the type checker's proof that it speaks the protocol
