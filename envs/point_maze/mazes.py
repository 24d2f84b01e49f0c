"""Mazes on a grid, as numbers: layouts by index, and the shortest way of a ball around their walls.

A layout is a 6 x 6 grid of cells, each free or filled by a wall. Index 0 is `u`, index 1 is `medium`
(the shapes of D4RL's mazes, arXiv 2004.07219); every further index is a random layout, a function of the index
alone, so that an episode's state needs to hold nothing but a number. A random layout belongs to one split of the
data: `random_layouts("eval")` and `random_layouts("train")` have none in common.

Routes are shortest paths in a visibility graph: straight pieces between corners, each wall grown by PATH_MARGIN_M.
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
_NUM_RANDOM = 10_000  # more than episodes of most files: routes around walls are to be learned, not layouts
NUM_LAYOUTS = len(NAMED) + _NUM_RANDOM
_RANDOM_WALLS = (10, 14)
_FIRST_COLUMN = sum(1 << row * CELLS for row in range(CELLS))  # of cells as bits of a number
_LAST_COLUMN = _FIRST_COLUMN << CELLS - 1
_SPLIT_OF_TEN = {"train": range(8), "val": range(8, 9), "eval": range(9, 10)}


@functools.cache
def list_random_layouts(split: str) -> NDArray[np.int64]:
    """Indices of the random layouts of a split: `train`, `val` or `eval`; of ten, eight, one and one. Read-only."""
    index = np.arange(_NUM_RANDOM)
    found = index[np.isin(index % 10, _SPLIT_OF_TEN[split])] + len(NAMED)
    found.flags.writeable = False
    return found


@functools.cache
def build_walls(layout: int) -> NDArray[np.bool_]:
    """Whether a wall fills each cell `[row, column]` of a layout; row 0 is the top of the picture."""
    if layout in NAMED.values():
        return _parse_layout(_U if layout == NAMED["u"] else _MEDIUM)
    return _random_walls(np.random.default_rng([layout, 83]))


def _parse_layout(text: str) -> NDArray[np.bool_]:
    return np.array([[sign == "#" for sign in line] for line in text.split()])


def _random_walls(rng: np.random.Generator) -> NDArray[np.bool_]:
    """Cells filled in random order, as long as the free ones stay connected."""
    filled = np.zeros((CELLS, CELLS), bool)
    wanted = rng.integers(*_RANDOM_WALLS, endpoint=True)
    for cell in rng.permutation(CELLS * CELLS):
        filled.flat[cell] = True
        if not _connected(~filled):
            filled.flat[cell] = False
        if filled.sum() == wanted:
            break
    return filled


def _connected(free: NDArray[np.bool_]) -> bool:
    """Whether all free cells can be reached from one another over shared edges: a flood over the bits of a number."""
    cells = sum(1 << int(cell) for cell in np.flatnonzero(free))
    seen, grown = 0, cells & -cells
    while grown != seen:
        seen = grown
        beside = (seen & ~_LAST_COLUMN) << 1 | (seen & ~_FIRST_COLUMN) >> 1
        grown = (seen | beside | seen << CELLS | seen >> CELLS) & cells
    return seen == cells


def locate_cells(row: NDArray[np.int64], column: NDArray[np.int64]) -> Positions:
    """Middles `[..., 2]` of cells in metres; the maze's middle is the origin, x to the right, y upwards."""
    return np.stack([np.asarray(column) - (CELLS - 1) / 2, (CELLS - 1) / 2 - np.asarray(row)], -1) * CELL_M


@functools.lru_cache(maxsize=2048)
def get_routes(layout: int) -> Routes:
    """The routes around a layout's walls, prepared once."""
    filled = build_walls(layout)
    return build_routes(np.array([_box(*run) for run in _runs(filled)]), *_corners(filled), PATH_MARGIN_M)


def _runs(filled: NDArray[np.bool_]) -> list[tuple[int, int, int]]:
    """Walls side by side in a row as one: (row, first column, last column)."""
    found = []
    for row in range(CELLS):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], filled[row], [0]])))
        found += [(row, int(first), int(end) - 1) for first, end in zip(edges[::2], edges[1::2], strict=True)]
    return found


def _box(row: int, first: int, last: int) -> NDArray[np.float64]:
    middle = locate_cells(np.array([row, row]), np.array([first, last])).mean(0)
    return np.concatenate([middle, np.array([last - first + 1, 1]) * CELL_M / 2])


def _corners(filled: NDArray[np.bool_]) -> tuple[Positions, Positions]:
    """Where exactly one of the four cells around a point of the grid is a wall, routes may turn; and the way out."""
    places, outwards = [], []
    for row in range(1, CELLS):
        for column in range(1, CELLS):
            around = filled[row - 1 : row + 1, column - 1 : column + 1]
            if around.sum() != 1:
                continue
            down, right = np.argwhere(around)[0]
            out = np.array([1.0 - 2 * right, 2.0 * down - 1])
            places.append(np.array([column - CELLS / 2, CELLS / 2 - row]) * CELL_M)
            outwards.append(out)
    return np.array(places).reshape(-1, 2), np.array(outwards).reshape(-1, 2)
