"""Point maze: the length of the shortest way around a layout's walls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from envs.point_maze.mazes import NAMED, get_routes
from envs.point_maze.routes import Routes
from envs.task_spec import TaskSpec

_LAYOUT = 4  # where truth holds the layout's index


class _Pairs:
    """Pairs of places in mazes, from two truth arrays `[..., 5]` that broadcast; the layout is the first's.

    What is the same for many pairs (one goal and the futures of many candidates) is computed once.
    """

    def __init__(self, truth_a: ArrayLike, truth_b: ArrayLike) -> None:
        a, b = np.asarray(truth_a, np.float64), np.asarray(truth_b, np.float64)
        self.shape = np.broadcast_shapes(a.shape[:-1], b.shape[:-1])
        self.a, self.b = a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])
        self.row_a, self.row_b = (
            np.broadcast_to(np.arange(len(flat)).reshape(rows.shape[:-1]), self.shape).ravel()
            for flat, rows in ((self.a, a), (self.b, b))
        )
        self.layout = np.rint(self.a[self.row_a, _LAYOUT]).astype(int)

    def each_layout(
        self, ask: Callable[[Routes, NDArray[np.int64], NDArray[np.int64]], NDArray[Any]]
    ) -> NDArray[np.float64]:
        """Answers `[...]` to `ask(maze, rows of a [n], rows of b [n])`, asked once a layout."""
        found = np.zeros(len(self.layout))
        for layout in np.unique(self.layout):
            here = np.flatnonzero(self.layout == layout)
            found[here] = ask(get_routes(int(layout)), self.row_a[here], self.row_b[here])
        return found.reshape(self.shape)

    def seen(self, layout: Routes, rows_a: NDArray[np.int64], rows_b: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the straight way is free `[n]`."""
        return layout.is_visible(self.a[rows_a, :2], self.b[rows_b, :2])

    def length(self, layout: Routes, rows_a: NDArray[np.int64], rows_b: NDArray[np.int64]) -> NDArray[np.float64]:
        """Lengths of the shortest routes `[n]`."""
        straight = np.linalg.norm(self.a[rows_a, :2] - self.b[rows_b, :2], axis=-1)
        around = np.flatnonzero(~self.seen(layout, rows_a, rows_b))
        if not around.size:
            return straight
        ours, at_a = np.unique(rows_a[around], return_inverse=True)
        theirs, at_b = np.unique(rows_b[around], return_inverse=True)
        to, onwards = layout.measure_to_corners(self.a[ours, :2]), layout.measure_from_corners(self.b[theirs, :2])
        lengths = (to[at_a] + onwards[at_b]).min(-1)
        straight[around] = np.where(np.isfinite(lengths), lengths, straight[around])
        return straight


def point_maze_distance(truth_a: ArrayLike, truth_b: ArrayLike) -> NDArray[np.float64]:
    """Length in metres of the shortest way between two ball places around the walls, for truth arrays `[..., 5]`.

    Both arrays belong to one episode; the layout is read from the first. A place inside a wall, where no ball can
    be, is measured straight.
    """
    pairs = _Pairs(truth_a, truth_b)
    return pairs.each_layout(pairs.length)


def point_maze_blocked(truth_a: ArrayLike, truth_b: ArrayLike) -> NDArray[np.bool_]:
    """Whether the straight way between two ball places meets a wall, for truth arrays `[..., 5]`."""
    pairs = _Pairs(truth_a, truth_b)
    return pairs.each_layout(lambda *rows: ~pairs.seen(*rows)) > 0


def point_maze_probe_targets(truth: ArrayLike) -> NDArray[np.float64]:
    """Ball position `[..., 2]`, metres."""
    return np.asarray(truth, np.float64)[..., :2]


def point_maze_goal_kind(start: ArrayLike, goal: ArrayLike) -> NDArray[np.str_]:
    """Whether a wall stands between start and goal, for truth arrays `[n, 5]`."""
    return np.where(point_maze_blocked(start, goal), "around a wall", "straight")


POINT_MAZE = TaskSpec(
    name="point_maze",
    description="A ball pushed by forces through a maze whose layout varies per episode.",
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
    truth_names=("ball x", "ball y", "ball velocity x", "ball velocity y", "layout"),
    truth_units=("m", "m", "m/s", "m/s", "index"),
    proprio_names=("ball x", "ball y", "ball velocity x", "ball velocity y"),
    distance=point_maze_distance,
    probe_targets=point_maze_probe_targets,
    goal_kind=point_maze_goal_kind,
    blocked=point_maze_blocked,
)
LAYOUTS = (*NAMED, "random")
