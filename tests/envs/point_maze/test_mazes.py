"""Maze layouts and their splits; routes around walls against brute force on a fine grid."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

from data.schema import SPLITS
from envs.goal_env import SPLITS as ENVS_SPLITS
from envs.point_maze.mazes import (
    BALL_RADIUS_M,
    CELL_M,
    CELLS,
    MAX_WALLS,
    NAMED,
    PATH_MARGIN_M,
    build_walls,
    get_routes,
    list_random_layouts,
    locate_cells,
)
from envs.point_maze.spec import point_maze_blocked, point_maze_distance, point_maze_goal_kind

_ALL = (*NAMED.values(), *list_random_layouts("train")[:20], *list_random_layouts("eval")[:20])
_FINE = 72  # points a side of the brute-force grid


def _truth(layout: int, positions: np.ndarray) -> np.ndarray:
    return np.concatenate([positions, np.zeros_like(positions), np.full((*positions.shape[:-1], 1), layout)], -1)


def _sample_free_positions(rng: np.random.Generator, layout: int, count: int) -> np.ndarray:
    cells = locate_cells(~build_walls(layout))
    return rng.choice(cells, count) + rng.uniform(-0.08, 0.08, (count, 2))


def test_no_layout_of_one_split_occurs_in_another() -> None:
    assert ENVS_SPLITS == SPLITS, "the environments' splits are those of the data"
    pictures = {split: {build_walls(int(i)).tobytes() for i in list_random_layouts(split)} for split in SPLITS}
    named = {build_walls(i).tobytes() for i in NAMED.values()}
    for split, one in pictures.items():
        assert len(one) == len(list_random_layouts(split)) >= 100, "each layout of a split is another"
        for other in (named, *(pictures[s] for s in SPLITS if s != split)):
            assert not one & other


@pytest.mark.parametrize("layout", _ALL)
def test_all_free_cells_of_a_layout_are_connected_and_its_walls_fit_the_bodies(layout: int) -> None:
    free = ~build_walls(layout)
    assert 8 <= (~free).sum() <= MAX_WALLS
    found, todo = set(), [tuple(np.argwhere(free)[0])]
    while todo:
        row, column = todo.pop()
        if (row, column) in found or not (0 <= row < CELLS and 0 <= column < CELLS) or not free[row, column]:
            continue
        found.add((row, column))
        todo += [(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)]
    assert len(found) == free.sum()


def _grid_lengths(layout: int, start: np.ndarray) -> np.ndarray:
    """Dijkstra from the grid point nearest to a position, over 16 directions, among points clear of walls."""
    step = CELLS * CELL_M / _FINE
    axis = (np.arange(_FINE) + 0.5) * step - CELLS * CELL_M / 2
    x, y = np.meshgrid(axis, axis, indexing="ij")
    free = np.ones((_FINE, _FINE), bool)
    for middle in locate_cells(build_walls(layout)):
        reach = CELL_M / 2 + PATH_MARGIN_M
        free &= (np.abs(x - middle[0]) >= reach) | (np.abs(y - middle[1]) >= reach)
    number = np.full((_FINE + 4, _FINE + 4), -1)  # of the free points; a margin of two around the grid is not free
    number[2:-2, 2:-2][free] = np.arange(free.sum())
    graph = csr_array((free.sum(), free.sum()))
    for di, dj in ((i, j) for i in range(-2, 3) for j in range(-2, 3) if np.gcd(i, j) == 1):
        here, there = number, np.roll(number, (-di, -dj), (0, 1))
        both = (here >= 0) & (there >= 0)
        graph = graph + csr_array(
            (np.full(both.sum(), step * np.hypot(di, dj)), (here[both], there[both])), graph.shape
        )
    lengths = np.full(free.shape, np.inf)
    first = number[2:-2, 2:-2][tuple(np.abs(axis[:, None] - start).argmin(0))]
    lengths[free] = dijkstra(graph, indices=first)
    return lengths


@pytest.mark.parametrize("layout", _ALL)
def test_lengths_between_corners_are_those_of_floyd_and_warshall_to_the_bit(layout: int) -> None:
    """The last bit chooses between equally short routes, and recorded episodes follow the choice."""
    routes = get_routes(layout)
    lengths = routes.measure_to_corners(routes.corners)
    for via in range(len(lengths)):
        lengths = np.minimum(lengths, lengths[:, via, None] + lengths[via])
    np.testing.assert_array_equal(routes.lengths, lengths)


@pytest.mark.parametrize("layout", [NAMED["u"], NAMED["medium"], int(list_random_layouts("train")[3])])
def test_the_distance_is_the_shortest_way_of_a_fine_grid(layout: int) -> None:
    rng = np.random.default_rng(layout)
    start, ends = _sample_free_positions(rng, layout, 1)[0], _sample_free_positions(rng, layout, 200)
    step = CELLS * CELL_M / _FINE
    table = _grid_lengths(layout, start)
    grid = table[tuple(np.floor((ends + CELLS * CELL_M / 2) / step).astype(int).T)]
    found = point_maze_distance(_truth(layout, ends), _truth(layout, start))
    # Sixteen directions are at most 2.8 % longer than the straight line; either end is off by half a grid step.
    assert (found <= grid + 1.5 * step).all()
    assert (found >= grid / 1.028 - 3 * step).all()
    assert (found > np.linalg.norm(ends - start, axis=-1) + 0.3).any(), "no way leads around a wall"


def test_ways_do_not_depend_on_which_others_are_asked_at_once() -> None:
    rng = np.random.default_rng(0)
    layouts = (0, 1, int(list_random_layouts("train")[0]))
    goals = np.stack([_truth(layout, _sample_free_positions(rng, layout, 1)) for layout in layouts])  # [3, 1, 5]
    positions = np.stack([_truth(layout, _sample_free_positions(rng, layout, 30)) for layout in layouts])  # [3, 30, 5]
    together = point_maze_distance(positions, goals)
    assert together.shape == (3, 30) and together.dtype == np.float64
    one_by_one = [
        [point_maze_distance(position, goal[0]) for position in row] for row, goal in zip(positions, goals, strict=True)
    ]
    np.testing.assert_allclose(together, one_by_one, rtol=1e-12)
    np.testing.assert_allclose(point_maze_distance(goals, positions), together, rtol=1e-12)


def test_a_way_is_blocked_where_it_is_longer_than_the_straight_line() -> None:
    rng = np.random.default_rng(1)
    for layout in _ALL[:6]:
        a, b = (_truth(layout, _sample_free_positions(rng, layout, 300)) for _ in range(2))
        straight = np.linalg.norm((a - b)[:, :2], axis=-1)
        blocked = point_maze_blocked(a, b)
        np.testing.assert_array_equal(blocked, point_maze_distance(a, b) > straight + 1e-9)
        assert 0.2 < blocked.mean() < 0.95
        np.testing.assert_array_equal(point_maze_goal_kind(a, b) == "around a wall", blocked)


def test_the_length_is_continuous_around_a_corner() -> None:
    layout = NAMED["u"]
    turn = np.linspace(-np.pi / 2, np.pi / 2, 4001)  # a ball that touches the end of the U's bar all the way round
    corner = np.array([1 / 3, 0.0])
    walk = corner + np.stack([np.cos(turn), np.sin(turn)], -1) * 0.45
    lengths = point_maze_distance(_truth(layout, walk), _truth(layout, np.array([-0.8, 0.6])))
    assert np.abs(np.diff(lengths)).max() <= 1.01 * 0.45 * np.pi / 4000


def test_a_ball_that_touches_a_wall_is_never_inside_it() -> None:
    assert PATH_MARGIN_M < BALL_RADIUS_M / np.sqrt(2), "a ball at a corner would be inside the grown wall"
    for layout in _ALL:
        here = get_routes(layout)
        assert len(here.corners) and np.isfinite(here.lengths).all(), "every corner is reached from every other"
