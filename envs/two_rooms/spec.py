"""Two rooms: the length of the path through the door."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from envs.ball import build_ball_task

# Geometry of scene.xml that the path length needs, in metres; a test compares it with the compiled model.
DOOR_HALF_WIDTH_M = 0.25
BALL_RADIUS_M = 0.1


def two_rooms_distance(truth_a: ArrayLike, truth_b: ArrayLike) -> NDArray[np.float64]:
    """Length in metres of the shortest path between two ball positions, for truth arrays `[..., 5]`.

    Straight within a room. Between the rooms the path passes the gap that the wall (x = 0) leaves to the ball's
    centre. The length as a function of the crossing point is convex, so the best crossing is that of the
    straight line, clipped to the gap, and the distance is continuous in the doorway. Both arrays belong to
    one episode; the door is read from the first.
    """
    a, b, crossing, other_room = _find_crossing(truth_a, truth_b)
    straight = np.hypot(a[..., 0] - b[..., 0], a[..., 1] - b[..., 1])
    half_gap = DOOR_HALF_WIDTH_M - BALL_RADIUS_M
    crossing = np.clip(crossing, a[..., 4] - half_gap, a[..., 4] + half_gap)
    through = np.hypot(a[..., 0], a[..., 1] - crossing) + np.hypot(b[..., 0], b[..., 1] - crossing)
    return np.where(other_room, through, straight)


def two_rooms_blocked(truth_a: ArrayLike, truth_b: ArrayLike) -> NDArray[np.bool_]:
    """Whether the straight line between two ball positions meets the wall, for truth arrays `[..., 5]`."""
    a, _, crossing, other_room = _find_crossing(truth_a, truth_b)
    return other_room & (np.abs(crossing - a[..., 4]) > DOOR_HALF_WIDTH_M - BALL_RADIUS_M)


def _find_crossing(
    truth_a: ArrayLike, truth_b: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Both truths, the y (m) at which the straight line between them meets the plane of the wall, whether it does."""
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


TWO_ROOMS = build_ball_task(
    factor_name="door y",
    factor_unit="m",
    name="two_rooms",
    description="A ball pushed by forces, two rooms, and a door whose place varies per episode.",
    distance=two_rooms_distance,
    probe_targets=two_rooms_probe_targets,
    goal_kind=two_rooms_goal_kind,
    blocked=two_rooms_blocked,
)
