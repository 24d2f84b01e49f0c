"""Task specifications: what each task measures, in which unit, and how an episode of it is judged.

Pure numpy. Nothing here imports a simulator, so an evaluator or a report can read a specification without
OpenGL. The protocol these numbers feed is that of DINO-WM (arXiv 2411.04983): reach a goal image from the
same episode within a budget; here with success at several thresholds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

Distance = Callable[[ArrayLike, ArrayLike], NDArray[np.float64]]
Targets = Callable[[ArrayLike], NDArray[np.float64]]

# Geometry of two_rooms.xml that the path length needs, in metres; a test compares it with the compiled model.
DOOR_HALF_WIDTH_M = 0.25
BALL_RADIUS_M = 0.1


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


def reacher_distance(truth_a: ArrayLike, truth_b: ArrayLike) -> NDArray[np.float64]:
    """The larger of the two joints' absolute angle errors in radians, for truth arrays `[..., 6]`.

    The shoulder turns freely and its error is wrapped; the wrist stops at +-160 degrees and its error is not.
    """
    a, b = np.asarray(truth_a, np.float64), np.asarray(truth_b, np.float64)
    shoulder = np.abs(wrap_angle(a[..., 0] - b[..., 0]))
    wrist = np.abs(a[..., 1] - b[..., 1])
    return np.maximum(shoulder, wrist)


def two_rooms_distance(truth_a: ArrayLike, truth_b: ArrayLike) -> NDArray[np.float64]:
    """Length in metres of the shortest path between two ball positions, for truth arrays `[..., 5]`.

    Straight within a room; between the rooms it passes the gap that the wall (x = 0) leaves to the ball's
    centre. The length as a function of the crossing point is convex, so the best crossing is that of the
    straight line, clipped to the gap; and the distance is continuous in the doorway. Both arrays belong to
    one episode; the door is read from the first.
    """
    a, b, crossing, other_room = _crossing(truth_a, truth_b)
    straight = np.hypot(a[..., 0] - b[..., 0], a[..., 1] - b[..., 1])
    half_gap = DOOR_HALF_WIDTH_M - BALL_RADIUS_M
    crossing = np.clip(crossing, a[..., 4] - half_gap, a[..., 4] + half_gap)
    through = np.hypot(a[..., 0], a[..., 1] - crossing) + np.hypot(b[..., 0], b[..., 1] - crossing)
    return np.where(other_room, through, straight)


def two_rooms_blocked(truth_a: ArrayLike, truth_b: ArrayLike) -> NDArray[np.bool_]:
    """Whether the straight way between two ball positions meets the wall, for truth arrays `[..., 5]`."""
    a, _, crossing, other_room = _crossing(truth_a, truth_b)
    return other_room & (np.abs(crossing - a[..., 4]) > DOOR_HALF_WIDTH_M - BALL_RADIUS_M)


def _crossing(
    truth_a: ArrayLike, truth_b: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Both places, where the straight line between them meets the wall (y, metres), and whether it does at all."""
    a, b = np.broadcast_arrays(np.asarray(truth_a, np.float64), np.asarray(truth_b, np.float64))
    reach_a, reach_b = np.abs(a[..., 0]), np.abs(b[..., 0])
    share = reach_a / np.maximum(reach_a + reach_b, 1e-12)
    return a, b, a[..., 1] + share * (b[..., 1] - a[..., 1]), (a[..., 0] < 0) != (b[..., 0] < 0)


def reacher_probe_targets(truth: ArrayLike) -> NDArray[np.float64]:
    """Sines and cosines of both joints `[..., 4]`: angles as a linear map can read them."""
    angles = np.asarray(truth, np.float64)[..., :2]
    return np.concatenate((np.sin(angles), np.cos(angles)), -1)


def two_rooms_probe_targets(truth: ArrayLike) -> NDArray[np.float64]:
    """Ball position and door `[..., 3]`, metres."""
    return np.asarray(truth, np.float64)[..., [0, 1, 4]]


def two_rooms_goal_kind(start: ArrayLike, goal: ArrayLike) -> NDArray[np.str_]:
    """Whether the goal lies in the room of the start, for truth arrays `[n, 5]`."""
    a, b = np.asarray(start), np.asarray(goal)
    return np.where((a[..., 0] < 0) == (b[..., 0] < 0), "same room", "other room")


REACHER = TaskSpec(
    name="reacher",
    description="Two-joint planar arm of the dm_control suite; the goal is an arm pose, shown as an image.",
    distance_unit="rad",
    thresholds=(0.2, 0.1, 0.05),
    held_steps=3,
    budget=30,
    goal_offset=25,
    min_goal_distance=1.0,
    distance_bins=(1.0, 1.5, 2.0, 2.5, 3.2, 6.0),
    control_step_s=0.1,
    frame_skip=2,
    action_low=(-1.0, -1.0),
    action_high=(1.0, 1.0),
    action_names=("shoulder torque", "wrist torque"),
    truth_names=("shoulder", "wrist", "shoulder velocity", "wrist velocity", "fingertip x", "fingertip y"),
    truth_units=("rad", "rad", "rad/s", "rad/s", "m", "m"),
    proprio_names=("shoulder", "wrist", "shoulder velocity", "wrist velocity"),
    distance=reacher_distance,
    probe_targets=reacher_probe_targets,
)

TWO_ROOMS = TaskSpec(
    name="two_rooms",
    description="A ball pushed by forces, two rooms, and a door whose place varies per episode.",
    distance_unit="m",
    thresholds=(0.15, 0.1, 0.05),
    held_steps=3,
    budget=60,
    goal_offset=30,
    min_goal_distance=1.0,
    distance_bins=(1.0, 1.25, 1.5, 2.0, 4.0),
    control_step_s=0.1,
    frame_skip=4,
    action_low=(-1.0, -1.0),
    action_high=(1.0, 1.0),
    action_names=("force x", "force y"),
    truth_names=("ball x", "ball y", "ball velocity x", "ball velocity y", "door y"),
    truth_units=("m", "m", "m/s", "m/s", "m"),
    proprio_names=("ball x", "ball y", "ball velocity x", "ball velocity y"),
    distance=two_rooms_distance,
    probe_targets=two_rooms_probe_targets,
    goal_kind=two_rooms_goal_kind,
    blocked=two_rooms_blocked,
)

TASKS: dict[str, TaskSpec] = {spec.name: spec for spec in (REACHER, TWO_ROOMS)}
