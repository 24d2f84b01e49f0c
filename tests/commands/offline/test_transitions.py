"""Continuations that could not have happened: what they are, on recordings of our own making."""

from __future__ import annotations

import numpy as np

import envs
from commands.offline.transitions import FAR_STEPS, LENGTH_TOLERANCE, TransitionIndex, find_continuations


class Recording:
    """Two episodes of a ball in two rooms, door in the middle, as a Reader gives them."""

    class info:
        env_id = "two_rooms"

    def __init__(self):
        rng = np.random.default_rng(0)
        self.truths = []
        for _ in range(2):
            truth = np.zeros((60, 5), np.float32)
            truth[:, 0] = rng.uniform(-0.5, 0.5, 60)
            truth[:, 1] = rng.uniform(0.5, 0.9, 60)
            self.truths.append(truth)

    def column(self, name, episode):
        assert name == "truth"
        return self.truths[episode]

    def num_frames(self, episode):
        return len(self.truths[episode])


def index():
    last = np.arange(0, 50, 2)
    return TransitionIndex(np.repeat([0, 1], 25), np.tile(last, 2), np.tile(last + 4, 2))


def test_a_jump_stays_in_its_episode_and_goes_far():
    pairs = find_continuations(Recording(), index(), np.random.default_rng(1))["jump"]
    where = index().select(pairs.rows)
    assert (pairs.impossible[0] == where.episode).all() and (pairs.possible[1] == where.after).all()
    assert (np.abs(pairs.impossible[1] - where.last) >= FAR_STEPS).all()


def test_another_episode_is_another_one():
    pairs = find_continuations(Recording(), index(), np.random.default_rng(1))["another episode"]
    assert (pairs.impossible[0] != index().select(pairs.rows).episode).all()


def test_the_wall_alone_tells_a_blocked_way_from_its_control():
    recording = Recording()
    pairs = find_continuations(recording, index(), np.random.default_rng(1))["wall"]
    assert len(pairs.rows) > 10
    where, task = index().select(pairs.rows), envs.TASKS["two_rooms"]
    for episode, last, open_, shut in zip(
        where.episode, where.last, pairs.possible[1], pairs.impossible[1], strict=True
    ):
        truth = recording.truths[episode]
        assert task.blocked(truth[last], truth[shut]) and not task.blocked(truth[last], truth[open_])
        near, far = (np.linalg.norm(truth[last, :2] - truth[spot, :2]) for spot in (open_, shut))
        assert abs(near - far) <= LENGTH_TOLERANCE * far + 1e-6


def test_a_task_without_walls_has_no_such_pairs():
    recording = Recording()
    recording.info = type("info", (), {"env_id": "reacher"})
    assert set(find_continuations(recording, index(), np.random.default_rng(1))) == {"another episode", "jump"}
