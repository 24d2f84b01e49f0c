"""Distances against brute force, and specifications against themselves."""

from __future__ import annotations

import numpy as np
import pytest

from envs import OWN_TASKS
from envs.push_t.spec import PUSH_T
from envs.reacher.spec import REACHER
from envs.task_spec import wrap_angle
from envs.two_rooms.spec import BALL_RADIUS_M, DOOR_HALF_WIDTH_M, two_rooms_blocked, two_rooms_distance


def _places(rng: np.random.Generator, count: int, door_y: np.ndarray) -> np.ndarray:
    truth = np.zeros((count, 5))
    truth[:, :2] = rng.uniform(-0.9, 0.9, (count, 2))
    truth[:, 4] = door_y
    return truth


def test_an_angle_is_wrapped_to_half_a_turn_either_way() -> None:
    angles = np.array([0.0, np.pi + 0.1, -np.pi - 0.1, 7 * np.pi, 2 * np.pi])
    wanted = np.array([0.0, -np.pi + 0.1, np.pi - 0.1, -np.pi, 0.0])
    np.testing.assert_allclose(wrap_angle(angles), wanted, atol=1e-12)


def test_the_reachers_distance_is_the_larger_error_with_only_the_shoulder_wrapped() -> None:
    a = np.array([[3.1, 0.0, 0, 0, 0, 0], [0.0, 2.7, 0, 0, 0, 0], [0.3, 0.1, 9, 9, 9, 9]])
    b = np.array([[-3.1, 0.0, 0, 0, 0, 0], [0.0, -2.7, 0, 0, 0, 0], [0.0, 0.0, 0, 0, 0, 0]])
    np.testing.assert_allclose(REACHER.distance(a, b), [2 * np.pi - 6.2, 5.4, 0.3])


def test_the_path_between_rooms_is_the_shortest_through_the_gap() -> None:
    rng = np.random.default_rng(0)
    door_y = rng.uniform(-0.6, 0.6, 300)
    a, b = _places(rng, 300, door_y), _places(rng, 300, door_y)
    half_gap = DOOR_HALF_WIDTH_M - BALL_RADIUS_M
    crossings = door_y + np.linspace(-half_gap, half_gap, 2001)[:, None]
    lengths = np.hypot(a[:, 0], a[:, 1] - crossings) + np.hypot(b[:, 0], b[:, 1] - crossings)
    straight = np.linalg.norm(a[:, :2] - b[:, :2], axis=1)
    wanted = np.where(np.sign(a[:, 0]) == np.sign(b[:, 0]), straight, lengths.min(0))
    np.testing.assert_allclose(two_rooms_distance(a, b), wanted, atol=1e-6)
    assert (two_rooms_distance(a, b) > straight + 0.1).any(), "the wall lengthens no path"


def test_the_path_length_is_continuous_through_the_doorway() -> None:
    goal = np.array([0.7, -0.5, 0, 0, 0.2])
    walk = np.tile(np.array([0.0, 0.25, 0, 0, 0.2]), (2001, 1))
    walk[:, 0] = np.linspace(-0.1, 0.1, 2001)
    assert np.abs(np.diff(two_rooms_distance(walk, goal))).max() <= 1.01e-4


@pytest.mark.parametrize("name", sorted(OWN_TASKS))
def test_a_distance_is_symmetric_zero_at_home_and_broadcasts(name: str) -> None:
    rng = np.random.default_rng(1)
    size = len(OWN_TASKS[name].truth_names)
    a, b = rng.uniform(-0.9, 0.9, (2, 40, size))
    a[:, -1] = b[:, -1] = 0.1  # one door
    task = OWN_TASKS[name]
    for distance in (task.distance, *(measure.distance for measure in task.measures.values())):
        np.testing.assert_allclose(distance(a, b), distance(b, a))
        np.testing.assert_array_equal(distance(a, a), 0)
        table = distance(a[:, None], b[None])
        assert table.shape == (40, 40) and table.dtype == np.float64
        np.testing.assert_array_equal(np.diagonal(table), distance(a, b))


def test_a_task_judged_by_a_measure_keeps_everything_else() -> None:
    chosen = PUSH_T.select_measure("block")
    assert chosen.distance is PUSH_T.measures["block"].distance and chosen.distance_unit == "tight tolerances"
    assert chosen.thresholds == (1.0, 2.0) and chosen.min_goal_distance == 0 and chosen.distance_bins is None
    assert (chosen.name, chosen.truth_names, chosen.budget) == (PUSH_T.name, PUSH_T.truth_names, PUSH_T.budget)
    assert [PUSH_T.truth_names[index] for index in PUSH_T.velocity_index] == [
        *("agent velocity x", "agent velocity y"),
        *("block velocity x", "block velocity y", "block angular velocity"),
    ]


@pytest.mark.parametrize("name", sorted(OWN_TASKS))
def test_a_specification_is_consistent(name: str) -> None:
    task = OWN_TASKS[name]
    assert task.name == name
    assert list(task.thresholds[1:]) == sorted(task.thresholds[1:], reverse=True)
    assert task.thresholds[0] <= task.min_goal_distance, "a start could satisfy its goal"
    assert task.distance_bins[0] == task.min_goal_distance
    assert list(task.distance_bins) == sorted(task.distance_bins)
    assert [task.truth_names[i] for i in task.proprio_index] == list(task.proprio_names)


def test_a_way_is_blocked_where_the_path_is_longer_than_the_straight_line():
    rng = np.random.default_rng(5)
    a, b = rng.uniform(-0.9, 0.9, (2, 2000, 5))
    b[:, 4] = a[:, 4]
    straight = np.hypot(a[:, 0] - b[:, 0], a[:, 1] - b[:, 1])
    blocked = two_rooms_blocked(a, b)
    np.testing.assert_array_equal(blocked, two_rooms_distance(a, b) > straight + 1e-9)
    assert 0.05 < blocked.mean() < 0.95
