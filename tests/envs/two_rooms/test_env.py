"""Two rooms: walls that hold, a door that moves, a picture that shows both, a far room within reach."""

from __future__ import annotations

import importlib.resources
import itertools

import mujoco
import numpy as np
import pytest

from envs.goal_env import GoalEnv
from envs.two_rooms.env import DOOR_RANGE_M, ROOM_HALF_M, WALL_HALF_THICKNESS_M, find_waypoint
from envs.two_rooms.spec import BALL_RADIUS_M, DOOR_HALF_WIDTH_M

FAR_M = ROOM_HALF_M - BALL_RADIUS_M - 0.02
TOUCH_M = WALL_HALF_THICKNESS_M + BALL_RADIUS_M


def _state(env: GoalEnv, x: float, y: float, door_y: float) -> np.ndarray:
    state = env.sample_state(np.array([door_y]))
    state[env.qpos], state[env.qvel] = (x, y), 0.0
    return state


def _red(frame: np.ndarray) -> np.ndarray:
    return (frame[..., 0] > 110) & (frame[..., 1] < 70)


def test_the_numbers_in_the_code_are_those_of_the_model(two_rooms: GoalEnv) -> None:
    model = two_rooms.physics.model
    assert model.geom("ball").size[0] == BALL_RADIUS_M
    assert model.geom("wall below").size[0] == WALL_HALF_THICKNESS_M
    two_rooms.set_state(_state(two_rooms, 0.5, 0.0, 0.3))
    below = model.body("wall below").pos[1] + model.geom("wall below").size[1]
    above = model.body("wall above").pos[1] - model.geom("wall above").size[1]
    np.testing.assert_allclose([below, above], [0.3 - DOOR_HALF_WIDTH_M, 0.3 + DOOR_HALF_WIDTH_M])
    right = model.geom("border right")
    np.testing.assert_allclose(right.pos[0] - right.size[0], ROOM_HALF_M)
    for side in (-DOOR_RANGE_M, DOOR_RANGE_M):  # from everywhere the halves reach the border
        assert side + DOOR_HALF_WIDTH_M + 2 * model.geom("wall above").size[1] >= ROOM_HALF_M


@pytest.mark.parametrize("door_y", [-DOOR_RANGE_M, 0.25, DOOR_RANGE_M])
def test_the_picture_shows_door_and_ball_where_they_are(two_rooms: GoalEnv, door_y: float) -> None:
    ball = (-0.5, 0.4)
    frame = two_rooms.render_state(_state(two_rooms, *ball, door_y)).astype(int)
    metres = 2.16 / 64 * (np.arange(64) + 0.5) - 1.08
    rows, columns = np.nonzero(_red(frame))
    assert 20 <= len(rows) <= 45, "a ball of about three pixels' radius"
    np.testing.assert_allclose([metres[columns].mean(), -metres[rows].mean()], ball, atol=0.03)
    wall = (frame[:, 32, 2] > 60) & (frame[:, 32, 0] < 40)
    gap = -metres[(frame[:, 32] > 180).all(axis=-1)]
    assert wall.sum() > 30
    np.testing.assert_allclose([gap.min(), gap.max()], [door_y - 0.25, door_y + 0.25], atol=0.035)


def test_a_wall_moved_in_the_model_holds_like_one_compiled_there(two_rooms: GoalEnv) -> None:
    xml = importlib.resources.files("envs.two_rooms").joinpath("scene.xml").read_text()
    assert 'pos="0 -.95 .1"' in xml and 'pos="0 .95 .1"' in xml
    door_y = 0.4
    xml = xml.replace('pos="0 -.95 .1"', f'pos="0 {door_y - 0.95!r} .1"')
    xml = xml.replace('pos="0 .95 .1"', f'pos="0 {door_y + 0.95!r} .1"')
    model = mujoco.MjModel.from_xml_string(xml)
    data = mujoco.MjData(model)
    two_rooms.set_state(_state(two_rooms, -0.4, 0.1, door_y))
    data.qpos[:] = -0.4, 0.1
    touched = 0
    for action in np.random.default_rng(3).uniform(-1, 1, (30, 2)).repeat(6, axis=0):
        two_rooms.step(action)
        data.ctrl[:] = action
        mujoco.mj_step(model, data, nstep=two_rooms.physics.substeps)
        touched += data.ncon > 0
        np.testing.assert_allclose(two_rooms.physics.data.qpos, data.qpos, atol=1e-9)
    assert touched > 10


def test_a_ball_at_full_speed_passes_no_wall(two_rooms: GoalEnv) -> None:
    door_y = -0.3
    for y in np.linspace(-FAR_M, FAR_M, 19):
        two_rooms.set_state(_state(two_rooms, -FAR_M, y, door_y))
        deepest = -1.0
        for _ in range(30):
            two_rooms.physics.step(np.array([1.0, 0.0]))
            deepest = max(deepest, float(two_rooms.get_truth()[0]))
        if abs(y - door_y) > DOOR_HALF_WIDTH_M:
            assert -TOUCH_M - 0.01 < deepest < -TOUCH_M + 0.01, (y, deepest)
        elif abs(y - door_y) < DOOR_HALF_WIDTH_M - BALL_RADIUS_M:
            assert deepest > 0.85, (y, deepest)


def test_the_ball_stays_inside_under_the_wildest_pushes(two_rooms: GoalEnv) -> None:
    rng = np.random.default_rng(4)
    for seed in range(10):
        two_rooms.reset(seed=seed)
        for action in rng.choice((-1.0, 1.0), (20, 2)).repeat(8, axis=0):
            two_rooms.physics.step(action)
            assert np.abs(two_rooms.get_truth()[:2]).max() < ROOM_HALF_M - BALL_RADIUS_M + 0.015


def test_a_full_push_reaches_one_metre_a_second(two_rooms: GoalEnv) -> None:
    two_rooms.set_state(_state(two_rooms, -0.85, 0.0, 0.0))
    for _ in range(12):
        two_rooms.physics.step(np.array([1.0, 0.0]))
    assert 0.95 < two_rooms.get_truth()[2] < 1.01


def test_a_plain_controller_reaches_every_far_corner_within_seven_tenths_of_the_budget(
    two_rooms: GoalEnv,
) -> None:
    task = two_rooms.task
    for door_y, start_y, goal_y in itertools.product((-DOOR_RANGE_M, 0.0, DOOR_RANGE_M), *[(-FAR_M, FAR_M)] * 2):
        goal = two_rooms.get_truth(_state(two_rooms, FAR_M, goal_y, door_y))
        two_rooms.set_state(_state(two_rooms, -FAR_M, start_y, door_y))
        steps = 0
        while task.distance(two_rooms.get_truth(), goal) >= task.thresholds[0] and steps < task.budget:
            truth = two_rooms.get_truth().astype(float)
            waypoint = find_waypoint(truth[:2], goal[:2].astype(float), door_y)
            two_rooms.physics.step(np.clip(6 * (waypoint - truth[:2]) - 1.2 * truth[2:4], -1, 1))
            steps += 1
        assert steps <= 0.7 * task.budget, (door_y, start_y, goal_y, steps)


def test_the_scripted_ball_visits_both_rooms_and_covers_them(two_rooms: GoalEnv) -> None:
    both, places = 0, []
    for seed in range(20):
        two_rooms.reset(seed=seed)
        rng, memory, xs = np.random.default_rng(seed), {}, []
        for _ in range(80):
            two_rooms.physics.step(two_rooms.sample_scripted_action(rng, memory))
            places.append(two_rooms.get_truth()[:2])
            xs.append(places[-1][0])
        both += min(xs) < -TOUCH_M and max(xs) > TOUCH_M
    assert both >= 16
    cells = {tuple(cell) for cell in np.floor((np.array(places) + 1) * 4).astype(int)}
    assert len(cells) > 50, "of 64 cells of a quarter metre"


def test_the_door_differs_from_episode_to_episode_and_is_a_factor(two_rooms: GoalEnv) -> None:
    doors = []
    for seed in range(30):
        _, info = two_rooms.reset(seed=seed)
        doors.append(two_rooms.get_factors()["door_y"])
        np.testing.assert_allclose([info["truth"][4], info["goal_truth"][4]], doors[-1], rtol=1e-6)
    assert min(doors) < -0.3 and max(doors) > 0.3 and np.abs(doors).max() <= DOOR_RANGE_M


def test_a_start_and_a_goal_with_different_doors_are_refused(two_rooms: GoalEnv) -> None:
    one, other = _state(two_rooms, 0.5, 0.0, 0.1), _state(two_rooms, -0.5, 0.0, 0.2)
    with pytest.raises(ValueError, match=r"door_y is \[0.1\] in one and \[0.2\]"):
        two_rooms.reset(options={"state": one, "goal_state": other})
