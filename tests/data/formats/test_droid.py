"""DROID's layout: rows by their time stamps, and everything that may be wrong with a folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from data.checks import FileError
from data.formats.dataset import ExternalError
from data.formats.droid import DroidConfig, find_trajectories, read_trajectory, select_rows
from data.formats.droid_example import SERIAL, draw_gripper, main, write_example, write_trajectory
from data.video import VideoError, inspect_video

STAMPS = "observation/timestamp"


def poses(rows: int) -> np.ndarray:
    """A path whose picture tells the row: x grows with it."""
    made = np.tile([0.0, 0, 0.3, 3.0, 0.1, 0.2, 0.5], (rows, 1))
    made[:, 0] = np.linspace(0.1, 0.9, rows)
    return made


def trajectory(folder: Path, times_s: np.ndarray) -> Path:
    return write_trajectory(folder / "t", poses(len(times_s)), times_s, (48, 64))


def jittered(rows: int, hz: float = 15.0) -> np.ndarray:
    return np.arange(rows) / hz + np.random.default_rng(0).uniform(0, 0.02, rows)


def test_rows_are_chosen_by_their_time_stamps_and_not_by_the_videos_rate(tmp_path):
    times_s = jittered(90)
    found = read_trajectory(trajectory(tmp_path, times_s), DroidConfig(fps=4))
    assert inspect_video(found.videos[0]).rate == pytest.approx(60, rel=0.02)
    ticks = np.arange(0, times_s[-1] - times_s[0], 0.25)
    want = [int(np.abs(times_s - times_s[0] - tick).argmin()) for tick in ticks]
    assert found.rows.tolist() == want
    np.testing.assert_allclose(np.diff(found.time_s), 0.25, atol=0.07)
    np.testing.assert_allclose(found.time_s, times_s[want] - times_s[want[0]], atol=1e-6)
    np.testing.assert_array_equal(found.pose, poses(90)[want])


def test_a_row_comes_with_its_own_frame(tmp_path):
    found = read_trajectory(trajectory(tmp_path, jittered(60)), DroidConfig(fps=5))
    pictures = found.read_pictures((48, 48), "centre").astype(float)
    for row, picture in zip(found.rows, pictures, strict=True):
        apart = [np.abs(picture - draw_gripper(pose, (48, 64))[:, 8:56]).mean() for pose in poses(60)]
        assert int(np.argmin(apart)) == row


def add_wrist_camera(folder: Path, drop: int = 0) -> None:
    """A second camera, which sees the path backwards. drop: rows that its video lacks."""
    count = 60 - drop
    other = write_trajectory(folder / "other", poses(60)[::-1][:count], np.arange(count) / 15, (48, 64))
    shutil.copy(other / f"recordings/MP4/{SERIAL}.mp4", folder / "t/recordings/MP4/99.mp4")
    metadata = next((folder / "t").glob("metadata*.json"))
    metadata.write_text(json.dumps({**json.loads(metadata.read_text()), "wrist_mp4_path": "a/b/99.mp4"}))


def test_several_cameras_stand_side_by_side_in_the_order_given(tmp_path):
    folder = trajectory(tmp_path, jittered(60))
    add_wrist_camera(tmp_path, drop=3)
    left, wrist = (read_trajectory(folder, DroidConfig(camera=name)) for name in ("left", "wrist"))
    both = read_trajectory(folder, DroidConfig(camera=["wrist", "left"]))
    assert [video.stem for video in both.videos] == ["99", SERIAL]
    assert left.extrinsics is not None and both.extrinsics is None
    assert both.rows.tolist() == wrist.rows.tolist(), "rows beyond the shorter video are dropped"
    shown = both.read_pictures((32, 64), "centre")
    count = len(both.rows)
    np.testing.assert_array_equal(shown[:, :, :32], wrist.read_pictures((32, 32), "centre"))
    np.testing.assert_array_equal(shown[:, :, 32:], left.read_pictures((32, 32), "centre")[:count])


@pytest.mark.parametrize("kept", ["robot", "milliseconds", "nanoseconds", "stuck robot clock"])
def test_every_known_clock_gives_the_same_rows(tmp_path, kept):
    times_s = np.round(jittered(60), 3)
    folder = trajectory(tmp_path, times_s)
    with h5py.File(folder / "trajectory.h5", "r+") as file:
        if kept == "stuck robot clock":
            file[f"{STAMPS}/robot_state/robot_timestamp_seconds"][...] = 0
            file[f"{STAMPS}/robot_state/robot_timestamp_nanos"][...] = 0
        elif kept != "robot":
            del file[f"{STAMPS}/robot_state"]
        if kept == "nanoseconds":
            file[f"{STAMPS}/control/step_start"][...] *= 1_000_000
        if kept == "robot":
            del file[f"{STAMPS}/control"]
    found = read_trajectory(folder, DroidConfig(fps=4))
    np.testing.assert_allclose(found.time_s, times_s[found.rows] - times_s[found.rows[0]], atol=1.1e-3)


def test_a_recording_that_pauses_gives_its_longest_stretch():
    times_s = np.concatenate([np.arange(20), 100 + np.arange(50), 300 + np.arange(10)]) / 15
    rows = select_rows(times_s, 5.0)
    assert rows.min() == 20 and rows.max() <= 69 and np.diff(rows).tolist() == [3] * (len(rows) - 1)
    assert select_rows(np.array([0.0]), 4.0).tolist() == [0]


def test_a_rate_above_the_recorded_one_takes_every_row_once_and_is_noted(tmp_path):
    found = read_trajectory(trajectory(tmp_path, np.arange(30) / 15), DroidConfig(fps=30))
    assert found.rows.tolist() == list(range(30))
    assert "has 15.0 rows a second, fewer than fps=30" in found.notes[0]


def rows_beyond(folder: Path, count: int) -> None:
    """Make every column of the rows longer than the video."""
    with h5py.File(folder / "trajectory.h5", "r+") as file:
        names: list[str] = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        for name in names:
            old = file[name][()]
            del file[name]
            steps = (old[-1] - old[-2]) * np.arange(1, count + 1).reshape(-1, *[1] * (old.ndim - 1))
            file[name] = np.concatenate([old, old[-1] + steps])


def test_rows_that_outlast_the_video_are_dropped_with_a_note_and_many_are_an_error(tmp_path):
    folder = trajectory(tmp_path, np.arange(60) / 15)
    rows_beyond(folder, 4)
    found = read_trajectory(folder, DroidConfig(fps=5))
    assert (
        found.rows.max() < 60 and "64 rows and its video 60 frames" in found.notes[0] and str(folder) in found.notes[0]
    )
    rows_beyond(folder, 20)
    with pytest.raises(ExternalError, match="84 rows and its video 60 frames"):
        read_trajectory(folder, DroidConfig())


def test_angles_that_look_like_degrees_are_noted_and_can_be_converted(tmp_path):
    folder = trajectory(tmp_path, np.arange(30) / 15)
    with h5py.File(folder / "trajectory.h5", "r+") as file:
        file["observation/robot_state/cartesian_position"][:, 3:] = np.rad2deg(poses(30)[:, 3:6])
    noted = read_trajectory(folder, DroidConfig()).notes
    assert len(noted) == 1 and "up to 172" in noted[0] and str(folder) in noted[0]
    converted = read_trajectory(folder, DroidConfig(angles="degrees"))
    assert not converted.notes
    np.testing.assert_allclose(converted.pose, poses(30)[converted.rows], atol=1e-9)


def broken_metadata(folder: Path) -> None:
    next(folder.glob("metadata*.json")).write_text("{")


def other_camera(folder: Path) -> None:
    next(folder.glob("metadata*.json")).write_text(json.dumps({"left_mp4_path": "a/b/99.mp4"}))


def without(name: str):
    def drop(folder: Path) -> None:
        with h5py.File(folder / "trajectory.h5", "r+") as file:
            del file[name]

    return drop


def not_finite(folder: Path) -> None:
    with h5py.File(folder / "trajectory.h5", "r+") as file:
        file["observation/robot_state/cartesian_position"][3, 1] = np.nan


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: next(folder.glob("metadata*.json")).unlink(), "no metadata"),
        (broken_metadata, "is no JSON"),
        (other_camera, "99.mp4 is not there"),
        (lambda folder: (folder / "trajectory.h5").write_text("words"), "cannot be read as HDF5"),
        (lambda folder: (folder / f"recordings/MP4/{SERIAL}.mp4").write_text("words"), "cannot be read as a video"),
        (without("observation/robot_state/gripper_position"), "has no observation/robot_state/gripper_position"),
        (without("observation/timestamp"), "no time stamps that increase"),
        (not_finite, "not finite"),
    ],
)
def test_damage_is_an_error_that_names_the_file(tmp_path, damage, says):
    folder = trajectory(tmp_path, np.arange(30) / 15)
    damage(folder)
    with pytest.raises((FileError, VideoError), match=says) as caught:
        read_trajectory(folder, DroidConfig())
    assert str(folder) in str(caught.value)


def test_too_few_frames_at_the_rate_and_folders_without_trajectories_are_errors(tmp_path):
    folder = trajectory(tmp_path / "a", np.arange(12) / 15)
    with pytest.raises(ExternalError, match="1 frames at 1 a second, fewer than 2"):
        read_trajectory(folder, DroidConfig(fps=1))
    (tmp_path / "b").mkdir()
    with pytest.raises(ValueError, match=r"holds a trajectory.h5"):
        find_trajectories(tmp_path / "b")
    with pytest.raises(ValueError, match="no folder"):
        find_trajectories(tmp_path / "c")


def test_the_example_is_found_at_any_depth_is_the_same_each_time_and_can_be_called_for(tmp_path, capsys):
    made = write_example(tmp_path / "x/y", 2, 20, (32, 48))
    assert find_trajectories(tmp_path) == made
    again = write_example(tmp_path / "z", 2, 20, (32, 48))
    for one, other in zip(made, again, strict=True):
        np.testing.assert_array_equal(
            read_trajectory(one, DroidConfig()).pose, read_trajectory(other, DroidConfig()).pose
        )
    for words in ([], ["a", "b"]):
        with pytest.raises(SystemExit, match="2"):
            main(words)
        assert "usage" in capsys.readouterr().err
