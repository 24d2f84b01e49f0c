"""Mazes on a grid: layouts by index, and the routes of a ball around their walls.

A layout is a 6 x 6 grid of cells, each free or filled by a wall. Index 0 is `u`, index 1 is `medium`
(the shapes of D4RL's mazes, arXiv 2004.07219). Every further index is a random layout, a function of the index
alone, so that a state needs to contain only a number. Each random layout belongs to one split of the data.

Routes are shortest paths in a visibility graph: straight segments between corners, each wall grown by PATH_MARGIN_M.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from envs.point_maze.routes import Positions, Routes, build_routes

CELLS = 6
CELL_M = 1 / 3
BALL_RADIUS_M = 0.08
MAX_WALLS = 16
# A ball's centre turns a corner on an arc of its radius. A square corner of 0.6 radii lies within that arc, even where
# the ball presses into the wall, so every position a ball can have is free. Routes are at most 0.4 radii (3 cm) too
# short for each right-angled turn.
PATH_MARGIN_M = 0.6 * BALL_RADIUS_M

_U = """
......
......
####..
####..
......
......
"""
_MEDIUM = """
..##..
..#...
#...##
..#...
.#..#.
...#..
"""
NAMED = {"u": 0, "medium": 1}
_NUM_RANDOM = 10_000  # more than episodes of most files: a model is to learn routes around walls, not layouts
NUM_LAYOUTS = len(NAMED) + _NUM_RANDOM
_RANDOM_WALLS = (10, 14)
_SPLIT_OF_TEN = {"train": range(8), "val": range(8, 9), "eval": range(9, 10)}


@functools.cache
def list_random_layouts(split: str) -> NDArray[np.int64]:
    """Indices of the random layouts of a split: `train` (8 of 10), `val` or `eval` (1 of 10 each). Read-only."""
    index = np.arange(_NUM_RANDOM)
    layouts = index[np.isin(index % 10, _SPLIT_OF_TEN[split])] + len(NAMED)
    layouts.flags.writeable = False
    return layouts


@functools.cache
def build_walls(layout: int) -> NDArray[np.bool_]:
    """Whether a wall fills each cell `[row, column]` of a layout; row 0 is the top of the image."""
    if layout in NAMED.values():
        text = _U if layout == NAMED["u"] else _MEDIUM
        return np.array([[sign == "#" for sign in line] for line in text.split()])
    from scipy.ndimage import label  # slow to import

    rng, filled = np.random.default_rng([layout, 83]), np.zeros((CELLS, CELLS), bool)
    wanted = rng.integers(*_RANDOM_WALLS, endpoint=True)
    for cell in rng.permutation(CELLS * CELLS):
        filled.flat[cell] = True
        if label(~filled)[1] > 1:  # the free cells are no longer connected over shared edges
            filled.flat[cell] = False
        if filled.sum() == wanted:
            break
    return filled


def locate_cells(chosen: NDArray[np.bool_]) -> Positions:
    """Centres `[n, 2]` in metres of the chosen cells `[row, column]`; the origin is the maze's centre, y points up."""
    rows, columns = np.nonzero(chosen)
    return np.stack([columns - (CELLS - 1) / 2, (CELLS - 1) / 2 - rows], -1) * CELL_M


@functools.lru_cache(maxsize=2048)
def get_routes(layout: int) -> Routes:
    """The routes around a layout's walls."""
    filled = build_walls(layout)
    return build_routes(_build_boxes(filled), *_find_corners(filled), PATH_MARGIN_M)


def _build_boxes(filled: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Boxes `[W, 4]` (middle, half size) of the walls; neighbours in a row are one box."""
    boxes = []
    for row in range(CELLS):
        edges = np.flatnonzero(np.diff(filled[row], prepend=False, append=False))
        for first, end in zip(edges[::2], edges[1::2], strict=True):
            run = np.zeros_like(filled)
            run[row, first:end] = True
            middle = locate_cells(run)[[0, -1]].mean(0)
            boxes.append([*middle, (end - first) * CELL_M / 2, CELL_M / 2])
    return np.array(boxes)


def _find_corners(filled: NDArray[np.bool_]) -> tuple[Positions, Positions]:
    """Points of the grid beside exactly one wall cell of four `[V, 2]`, and the directions away from it `[V, 2]`."""
    around = np.lib.stride_tricks.sliding_window_view(filled, (2, 2))
    row, column, down, right = np.nonzero(around & (around.sum((2, 3), keepdims=True) == 1))
    corners = np.stack([column + 1 - CELLS / 2, CELLS / 2 - row - 1], -1) * CELL_M
    return corners, np.stack([1.0 - 2 * right, 2.0 * down - 1], -1)
