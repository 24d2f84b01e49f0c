"""What a task says of itself: the fields of a specification, and what several tasks' distances share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

Distance = Callable[[ArrayLike, ArrayLike], NDArray[np.float64]]
Targets = Callable[[ArrayLike], NDArray[np.float64]]


@dataclass(frozen=True)
class TaskSpec:
    """What an evaluator, a data file and a report need to know of a task.

    `distance` takes two truth arrays `[..., L]` that broadcast, and returns float64 `[...]` in
    `distance_unit`. `goal_offset`, `budget` and `held_steps` count environment steps of `control_step_s`
    seconds. `distance_bins` are edges.
    """

    name: str
    description: str
    distance_unit: str
    thresholds: tuple[float, ...]  # the first is the headline
    held_steps: int
    budget: int
    goal_offset: int
    min_goal_distance: float
    distance_bins: tuple[float, ...]
    control_step_s: float
    frame_skip: int  # environment steps in a model step, where a model is not told otherwise
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    action_names: tuple[str, ...]
    truth_names: tuple[str, ...]
    truth_units: tuple[str, ...]
    proprio_names: tuple[str, ...]  # a subset of truth_names, in order
    distance: Distance = field(repr=False)
    probe_targets: Targets = field(repr=False)
    frame_size: int = 64
    # (start truth [n, L], goal truth [n, L]) -> names [n] of kinds of goals that a table shows apart
    goal_kind: Callable[[ArrayLike, ArrayLike], NDArray[np.str_]] | None = field(default=None, repr=False)
    # (truth [..., L], truth [..., L]) -> whether something solid [...] stands on the straight way between them
    blocked: Callable[[ArrayLike, ArrayLike], NDArray[np.bool_]] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        sizes = len(self.action_low), len(self.action_high), len(self.action_names)
        assert len(set(sizes)) == 1, sizes
        assert len(self.truth_names) == len(self.truth_units), (self.truth_names, self.truth_units)
        assert set(self.proprio_names) <= set(self.truth_names), (self.proprio_names, self.truth_names)

    @property
    def proprio_index(self) -> tuple[int, ...]:
        """Places of the proprioceptive quantities in a truth vector."""
        return tuple(self.truth_names.index(name) for name in self.proprio_names)


def wrap_angle(angle_rad: ArrayLike) -> NDArray[np.float64]:
    """Angles `[...]` in radians brought into [-pi, pi)."""
    return (np.asarray(angle_rad, np.float64) + np.pi) % (2 * np.pi) - np.pi
