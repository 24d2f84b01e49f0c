"""Two rooms: the length of the way through the door."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from envs.task_spec import TaskSpec

# Geometry of scene.xml that the path length needs, in metres; a test compares it with the compiled model.
DOOR_HALF_WIDTH_M = 0.25
BALL_RADIUS_M = 0.1


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


def two_rooms_probe_targets(truth: ArrayLike) -> NDArray[np.float64]:
    """Ball position and door `[..., 3]`, metres."""
    return np.asarray(truth, np.float64)[..., [0, 1, 4]]


def two_rooms_goal_kind(start: ArrayLike, goal: ArrayLike) -> NDArray[np.str_]:
    """Whether the goal lies in the room of the start, for truth arrays `[n, 5]`."""
    a, b = np.asarray(start), np.asarray(goal)
    return np.where((a[..., 0] < 0) == (b[..., 0] < 0), "same room", "other room")


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
