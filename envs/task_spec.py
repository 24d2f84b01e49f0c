"""Specification of a task, and what several specifications share: a distance, probe targets, angles, name hints."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

Distance = Callable[[ArrayLike, ArrayLike], NDArray[np.float64]]
Targets = Callable[[ArrayLike], NDArray[np.float64]]


@dataclass(frozen=True)
class Measure:
    """A quantity that a protocol may judge in place of a task's distance, with the same contract as that."""

    distance: Distance = field(repr=False)
    unit: str
    thresholds: tuple[float, ...]  # the first is the headline


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """Facts of a task for the evaluator, data files and reports.

    `distance` takes two truth arrays `[..., L]` that broadcast, and returns float64 `[...]` in
    `distance_unit`. `goal_offset`, `budget` and `held_steps` count environment steps of `control_step_s`
    seconds. `distance_bins` are edges; None: they follow from the distances evaluated.
    """

    name: str
    description: str
    distance_unit: str
    thresholds: tuple[float, ...]  # the first is the headline
    held_steps: int = 3
    budget: int
    goal_offset: int
    min_goal_distance: float
    distance_bins: tuple[float, ...] | None = None
    control_step_s: float
    frame_skip: int  # default number of environment steps in a model step
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    action_names: tuple[str, ...]
    truth_names: tuple[str, ...]
    truth_units: tuple[str, ...]
    proprio_names: tuple[str, ...]  # a subset of truth_names, in order
    distance: Distance = field(repr=False)
    probe_targets: Targets = field(repr=False)
    frame_size: int = 64
    time_limit: int | None = None  # environment steps of the simulator's own episodes, which are played on beyond it
    # (start truth [n, L], goal truth [n, L]) -> kinds of goals [n] that tables list separately
    goal_kind: Callable[[ArrayLike, ArrayLike], NDArray[np.str_]] | None = field(default=None, repr=False)
    # (truth [..., L], truth [..., L]) -> whether a wall [...] crosses the straight line between them
    blocked: Callable[[ArrayLike, ArrayLike], NDArray[np.bool_]] | None = field(default=None, repr=False)
    measures: Mapping[str, Measure] = field(default_factory=dict, hash=False)  # by name; see select_measure

    def __post_init__(self) -> None:
        sizes = len(self.action_low), len(self.action_high), len(self.action_names)
        assert len(set(sizes)) == 1, sizes
        assert len(self.truth_names) == len(self.truth_units), (self.truth_names, self.truth_units)
        assert set(self.proprio_names) <= set(self.truth_names), (self.proprio_names, self.truth_names)

    @property
    def proprio_index(self) -> tuple[int, ...]:
        """Indices of the proprioceptive quantities in a truth vector."""
        return tuple(self.truth_names.index(name) for name in self.proprio_names)

    @property
    def velocity_index(self) -> tuple[int, ...]:
        """Indices of the velocities in a truth vector: of the names that hold the word."""
        return tuple(index for index, name in enumerate(self.truth_names) if "velocity" in name)

    def select_measure(self, name: str) -> TaskSpec:
        """The task judged by one of its measures: its distance, unit and thresholds, without a least distance.

        Raises ValueError for a name that the task lacks.
        """
        if name not in self.measures:
            known = f"choices: {', '.join(self.measures)}" if self.measures else "it has none beside its distance"
            raise ValueError(f"{self.name} has no measure {name!r}; {suggest_names(name, self.measures)}{known}")
        measure = self.measures[name]
        return replace(
            self,
            distance=measure.distance,
            distance_unit=measure.unit,
            thresholds=measure.thresholds,
            min_goal_distance=0.0,
            distance_bins=None,
        )

    def describe_time_limit(self, steps: int) -> str | None:
        """One sentence where so many environment steps go beyond the simulator's own episodes."""
        if self.time_limit is None or steps <= self.time_limit:
            return None
        return (
            f"{self.name} ends its own episodes after {self.time_limit} steps (max_episode_steps), {steps} are played"
        )


@dataclass(frozen=True)
class LargestError:
    """Distance: the largest weighted error of the first `count` numbers of two truths `[..., L]`.

    Errors of the numbers at the indices `periodic` are wrapped as angles.
    """

    count: int
    periodic: tuple[int, ...] = ()
    weights: tuple[float, ...] | float = 1.0

    def __call__(self, truth_a: ArrayLike, truth_b: ArrayLike) -> NDArray[np.float64]:
        """Distance `[...]`."""
        error = np.asarray(truth_a, np.float64)[..., : self.count] - np.asarray(truth_b, np.float64)[..., : self.count]
        error[..., list(self.periodic)] = wrap_angle(error[..., list(self.periodic)])
        return (np.abs(error) * self.weights).max(-1)


@dataclass(frozen=True)
class PoseTargets:
    """Probe targets that a linear map can read: sines and cosines of `angles`, then `values`, both indices."""

    angles: tuple[int, ...]
    values: tuple[int, ...] = ()

    def __call__(self, truth: ArrayLike) -> NDArray[np.float64]:
        """Targets `[..., P]` of truths `[..., L]`."""
        truth = np.asarray(truth, np.float64)
        angles = truth[..., list(self.angles)]
        return np.concatenate((np.sin(angles), np.cos(angles), truth[..., list(self.values)]), -1)


def wrap_angle(angle_rad: ArrayLike) -> NDArray[np.float64]:
    """Angles `[...]` in radians brought into [-pi, pi)."""
    return (np.asarray(angle_rad, np.float64) + np.pi) % (2 * np.pi) - np.pi


# envs may import neither commands (its `nearest`) nor data, hence a helper of its own.
def suggest_names(name: str, known: Iterable[str]) -> str:
    """Return "did you mean a or b? " for the names closest to `name`, or "" where none is close."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}? " if close else ""
