"""The EMA teacher: a slow copy of the encoder that makes the targets (BYOL, V-JEPA 2)."""

from __future__ import annotations

import copy

import torch
from torch import nn

from world_model.dynamics import freeze


def make_teacher(student: nn.Module) -> nn.Module:
    """A frozen copy of the student, equal to it at the start."""
    teacher = copy.deepcopy(student)
    freeze(teacher)
    return teacher


def momentum(start: float, end: float, step: int, steps: int) -> float:
    """Linear from start to end over the run; V-JEPA 2 keeps it constant at 0.99925."""
    return start + (end - start) * min(1.0, step / max(1, steps))


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, keep: float) -> None:
    """teacher <- keep * teacher + (1 - keep) * student, for every parameter; buffers are copied."""
    torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 1.0 - keep)
    for ours, theirs in zip(teacher.buffers(), student.buffers(), strict=True):
        ours.copy_(theirs)
