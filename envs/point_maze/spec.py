"""Point maze: the length of the shortest route around a layout's walls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from envs.ball import build_ball_task
from envs.point_maze.mazes import NAMED, get_routes
from envs.point_maze.routes import Positions, Routes

LAYOUTS = (*NAMED, "random")
_LAYOUT = 4  # index of the layout in a truth vector

Rows = NDArray[np.int64]
Measure = Callable[[Routes, Positions, Positions, Rows, Rows], NDArray[Any]]


def point_maze_distance(truth_a: ArrayLike, truth_b: ArrayLike) -> NDArray[np.float64]:
    """Length in metres of the shortest route between two ball positions around the walls, for truth arrays `[..., 5]`.

    Both arrays belong to one episode; the layout is read from the first. A position inside a wall, where no ball can
    be, is measured straight.
    """
    return _measure_pairs(truth_a, truth_b, _measure_lengths)


def point_maze_blocked(truth_a: ArrayLike, truth_b: ArrayLike) -> NDArray[np.bool_]:
    """Whether the straight line between two ball positions meets a wall, for truth arrays `[..., 5]`."""
    return _measure_pairs(truth_a, truth_b, lambda *pairs: ~_is_visible(*pairs)) > 0


def _measure_pairs(truth_a: ArrayLike, truth_b: ArrayLike, measure: Measure) -> NDArray[np.float64]:
    """Results `[...]` for truth arrays `[..., 5]` that broadcast, from one call of `measure` a layout.

    `measure` gets the layout's routes, all positions a `[n, 2]` and b `[m, 2]`, and the row in each of every pair. So
    what is equal for many pairs (one goal and the futures of many candidates) is computed once.
    """
    a, b = np.asarray(truth_a, np.float64), np.asarray(truth_b, np.float64)
    shape = np.broadcast_shapes(a.shape[:-1], b.shape[:-1])
    rows_a, rows_b = (
        np.broadcast_to(np.arange(np.prod(batch, dtype=int)).reshape(batch), shape).ravel()
        for batch in (a.shape[:-1], b.shape[:-1])
    )
    a, b = a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])
    layouts = np.rint(a[rows_a, _LAYOUT]).astype(int)
    results = np.zeros(len(layouts))
    for layout in np.unique(layouts):
        pairs = np.flatnonzero(layouts == layout)
        results[pairs] = measure(get_routes(int(layout)), a[:, :2], b[:, :2], rows_a[pairs], rows_b[pairs])
    return results.reshape(shape)


def _is_visible(routes: Routes, a: Positions, b: Positions, rows_a: Rows, rows_b: Rows) -> NDArray[np.bool_]:
    return routes.is_visible(a[rows_a], b[rows_b])


def _measure_lengths(routes: Routes, a: Positions, b: Positions, rows_a: Rows, rows_b: Rows) -> NDArray[np.float64]:
    lengths = np.linalg.norm(a[rows_a] - b[rows_b], axis=-1)
    blocked = np.flatnonzero(~_is_visible(routes, a, b, rows_a, rows_b))
    if blocked.size:
        starts, start_of_pair = np.unique(rows_a[blocked], return_inverse=True)
        ends, end_of_pair = np.unique(rows_b[blocked], return_inverse=True)
        to_corners, onwards = routes.measure_to_corners(a[starts]), routes.measure_from_corners(b[ends])
        around = (to_corners[start_of_pair] + onwards[end_of_pair]).min(-1)
        lengths[blocked] = np.where(np.isfinite(around), around, lengths[blocked])
    return lengths


def point_maze_probe_targets(truth: ArrayLike) -> NDArray[np.float64]:
    """Ball position `[..., 2]`, metres."""
    return np.asarray(truth, np.float64)[..., :2]


def point_maze_goal_kind(start: ArrayLike, goal: ArrayLike) -> NDArray[np.str_]:
    """Whether a wall stands between start and goal, for truth arrays `[n, 5]`."""
    return np.where(point_maze_blocked(start, goal), "around a wall", "straight")


POINT_MAZE = build_ball_task(
    factor_name="layout",
    factor_unit="index",
    name="point_maze",
    description="A ball pushed by forces through a maze whose layout varies per episode.",
    distance=point_maze_distance,
    probe_targets=point_maze_probe_targets,
    goal_kind=point_maze_goal_kind,
    blocked=point_maze_blocked,
)
