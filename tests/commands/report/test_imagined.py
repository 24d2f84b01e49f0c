"""What a pixel model imagined beside what happened, in a picture and in a recording."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from commands.evaluation.cases import Cases
from commands.evaluation.episodes import Rollouts
from commands.report.imagined import imagine_episodes, write_strip
from commands.report.recording import check_viewer, write_recording
from commands.shared.errors import UsageError
from envs.reacher.spec import REACHER
from tests.world_model.small import dynamics, frames, lively_pixel_dynamics

STEPS = 9


def played(skip: int) -> Rollouts:
    """Two episodes of pictures that a seed made."""
    rng = np.random.default_rng(0)
    pictures = frames(2, STEPS + 1).numpy().astype(np.uint8)
    actions = rng.uniform(-1, 1, (2, STEPS, 2)).astype(np.float32)
    return Rollouts(rng.uniform(0, 1, (2, STEPS + 1)), actions, frames=pictures, goal_frames=pictures[:, -1])


def cases() -> Cases:
    zeros = np.zeros((2, 4))
    numbers = np.array([3, 8])
    return Cases(zeros, zeros, numbers, numbers, np.ones(2), None, (1, 2), 0, 0)


@pytest.fixture(scope="module")
def model():
    return lively_pixel_dynamics()


def test_pictures_are_of_the_same_moments_and_follow_the_actions(model):
    run = played(model.spec.frame_skip)
    happened, seen = imagine_episodes(model, run)
    skip = model.spec.frame_skip
    steps = min(model.spec.max_horizon, STEPS // skip)
    assert happened.shape == seen.shape == (2, steps, 64, 64, 3) and seen.dtype == np.uint8
    assert np.array_equal(happened[:, 0], run.frames[:, skip])
    assert np.array_equal(happened[:, -1], run.frames[:, steps * skip])
    changed = replace(run, actions=run.actions.copy())
    changed.actions[0, steps * skip - 1] *= -1
    other = imagine_episodes(model, changed)[1]
    assert np.array_equal(other[1], seen[1]) and np.array_equal(other[0, :-1], seen[0, :-1])
    assert not np.array_equal(other[0, -1], seen[0, -1])


def test_a_model_that_reads_proprioception_gets_that_of_the_start():
    reading = dynamics("pooled", "pixels", proprio="predicted", proprio_dim=3)
    run = played(reading.spec.frame_skip)
    with pytest.raises(ValueError, match="robot's state"):
        imagine_episodes(reading, run)
    here, there = (replace(run, start_proprio=np.full((2, 3), value, np.float32)) for value in (0, 5))
    assert not np.array_equal(imagine_episodes(reading, here)[1], imagine_episodes(reading, there)[1])


def test_the_strip_has_two_rows_an_episode(model, tmp_path):
    run = played(model.spec.frame_skip)
    write_strip(model, run, tmp_path / "imagined.png")
    steps = imagine_episodes(model, run)[0].shape[1]
    with Image.open(tmp_path / "imagined.png") as image:
        assert image.size == (2 * 66 * steps, 2 * 66 * 4)
    assert [path.name for path in tmp_path.iterdir()] == ["imagined.png"]


def test_a_viewer_is_checked_before_anything_is_played(monkeypatch):
    check_viewer("none", 0)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'jepa-lab\[rerun\]'"):
        check_viewer("rerun", 1)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(UsageError, match="videos must be at least 1"):
        check_viewer("rerun", 0)


def test_a_recording_holds_every_episode(model, tmp_path):
    pytest.importorskip("rerun", reason="rerun-sdk is an extra: pip install 'jepa-lab[rerun]'")
    path, fewer = tmp_path / "episodes.rrd", tmp_path / "one.rrd"
    run = played(model.spec.frame_skip)
    write_recording(model, run, cases(), REACHER, path)
    alone = replace(run, frames=run.frames[:1], goal_frames=run.goal_frames[:1])
    write_recording(model, alone, cases(), REACHER, fewer)
    recorded = path.read_bytes()
    for entity in ("camera", "goal", "distance", "actions", "imagined"):
        assert all(f"/episode_{number:02d}/{entity}".encode() in recorded for number in range(2)), entity
    assert b"/episode_01/" not in fewer.read_bytes() and path.stat().st_size > fewer.stat().st_size
