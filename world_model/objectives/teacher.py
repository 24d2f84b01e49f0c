"""Who makes the targets: the encoder itself, or its EMA teacher, a slow copy of it (BYOL, V-JEPA 2)."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import nn

from world_model.dynamics import freeze

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class TeacherConfig:
    """The share of itself that an EMA teacher keeps at each step; linear over the run. V-JEPA 2 keeps it constant."""

    ema: float = 0.99925
    """share of itself that the teacher keeps a step, at the start (0 to 1)"""
    ema_end: float = 0.99925
    """the same at the last step (0 to 1)"""

    def __post_init__(self) -> None:
        if not (0 <= self.ema <= 1 and 0 <= self.ema_end <= 1):
            raise ValueError(f"objective.teacher.ema={self.ema}, ema_end={self.ema_end}: give shares, 0 to 1")


# An EMA teacher; `stop`: the encoder itself, without gradient; `shared`: the encoder itself, gradient on both sides.
Teaching = TeacherConfig | Literal["stop", "shared"]


def make_teacher(student: Network) -> Network:
    """A frozen copy of the student, equal to it at the start."""
    teacher = copy.deepcopy(student)
    freeze(teacher)
    return teacher


def momentum(config: TeacherConfig, step: int, steps: int) -> float:
    """Share that the teacher keeps at 0-based `step` of `steps`."""
    return config.ema + (config.ema_end - config.ema) * min(1.0, step / max(1, steps))


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, keep: float) -> None:
    """teacher <- keep * teacher + (1 - keep) * student, for every parameter; buffers are copied."""
    torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 1.0 - keep)
    for ours, theirs in zip(teacher.buffers(), student.buffers(), strict=True):
        ours.copy_(theirs)
