"""The point maze: walls where the layout has them, for the eye and for the ball; layouts by split; the script."""

from __future__ import annotations

import numpy as np
import pytest

import envs
from envs.goal_env import GoalEnv
from envs.point_maze.mazes import (
    BALL_RADIUS_M,
    CELL_M,
    CELLS,
    NAMED,
    build_walls,
    get_routes,
    list_random_layouts,
    locate_cells,
)

HALF_M = CELLS * CELL_M / 2


def _state(env: GoalEnv, position: np.ndarray, layout: int) -> np.ndarray:
    state = np.zeros(env.state_size)
    state[env.qpos], state[-1] = position, layout
    return state


@pytest.mark.parametrize("layout", [*NAMED.values(), *list_random_layouts("eval")[:4]])
def test_the_picture_shows_the_walls_of_the_layout(point_maze: GoalEnv, layout: int) -> None:
    start = locate_cells(~build_walls(layout))[0]
    frame = point_maze.render_state(_state(point_maze, start, layout)).astype(int)
    dark = (frame[..., 2] > frame[..., 0] + 20) & (frame[..., 0] < 60)
    pixel = 2.16 / 64
    positions = locate_cells(np.ones((CELLS, CELLS), bool)).reshape(CELLS, CELLS, 2)
    seen = dark[((1.08 - positions[..., 1]) / pixel).astype(int), ((positions[..., 0] + 1.08) / pixel).astype(int)]
    np.testing.assert_array_equal(seen, build_walls(layout))


def test_the_ball_never_leaves_the_free_space_and_passes_no_gap_between_diagonal_walls(point_maze: GoalEnv) -> None:
    rng = np.random.default_rng(2)
    for layout in (NAMED["medium"], int(list_random_layouts("train")[5])):
        centres = locate_cells(build_walls(layout))
        point_maze.set_state(_state(point_maze, locate_cells(~build_walls(layout))[0], layout))
        for action in rng.choice((-1.0, 1.0), (25, 2)).repeat(6, axis=0):
            point_maze.physics.step(action)
            ball = point_maze.get_truth()[:2]
            assert np.abs(ball).max() < HALF_M - BALL_RADIUS_M + 0.015
            gap = np.maximum(np.abs(ball - centres) - CELL_M / 2, 0)
            assert np.linalg.norm(gap, axis=-1).min() > BALL_RADIUS_M - 0.015
            assert get_routes(layout).is_visible(ball, ball), "a place the ball can be lies inside a wall's margin"


def test_random_layouts_are_dealt_out_by_split_and_restored_with_the_state(point_maze: GoalEnv) -> None:
    for split in ("train", "val", "eval"):
        for seed in range(6):
            point_maze.reset(seed=seed, options={"split": split})
            assert point_maze.get_factors()["layout"] in list_random_layouts(split)
    point_maze.reset(seed=0)
    assert point_maze.get_factors()["layout"] in list_random_layouts("train"), "an episode is for training unless said"
    with pytest.raises(ValueError, match="split='test' is unknown; choices: train, val, eval"):
        point_maze.reset(options={"split": "test"})


@pytest.mark.parametrize("layout", sorted(NAMED))
def test_a_named_layout_is_that_of_every_episode(layout: str) -> None:
    env = envs.make("point_maze", size=16, layout=layout)
    for seed in range(3):
        env.reset(seed=seed, options={"split": "eval"})
        assert env.get_factors()["layout"] == NAMED[layout]
    env.close()


def test_an_unknown_layout_is_named() -> None:
    with pytest.raises(ValueError, match="layout='large' is unknown; choices: u, medium, random"):
        envs.make("point_maze", layout="large")


def test_a_plain_controller_finds_every_goal_within_the_budget(point_maze: GoalEnv) -> None:
    task = point_maze.task
    for seed in range(12):
        point_maze.reset(seed=seed, options={"split": "eval"})
        goal, layout = (
            point_maze.get_truth(point_maze.get_goal_state()).astype(float),
            int(point_maze.get_factors()["layout"]),
        )
        steps = 0
        while task.distance(point_maze.get_truth(), goal) >= task.thresholds[0] and steps < task.budget:
            truth = point_maze.get_truth().astype(float)
            towards = get_routes(layout).find_waypoint(truth[:2], goal[:2], 0.03) - truth[:2]
            towards /= max(float(np.linalg.norm(towards)), 0.2)
            point_maze.physics.step(np.clip(1.5 * towards - 0.4 * truth[2:4], -1, 1))
            steps += 1
        assert steps < task.budget, (seed, layout)


def test_the_scripted_ball_travels_through_the_maze(point_maze: GoalEnv) -> None:
    travelled, cells = [], []
    for seed in range(6):
        point_maze.reset(seed=seed)
        rng, memory, truths = np.random.default_rng(seed), {}, []
        for _ in range(70):
            point_maze.physics.step(point_maze.sample_scripted_action(rng, memory))
            truths.append(point_maze.get_truth())
        travelled.append(point_maze.task.distance(truths[:-30], truths[30:]))
        cells.append(len({tuple(cell) for cell in np.floor((np.array(truths)[:, :2] + HALF_M) / CELL_M).astype(int)}))
    assert np.median(np.concatenate(travelled)) > 0.8, "thirty steps lead nowhere"
    assert np.median(cells) > 9
