"""Robot trajectories as DROID's raw release lays them out, brought to one rate.

A trajectory is a folder with

    metadata*.json         left_mp4_path, right_mp4_path or wrist_mp4_path: its name is the camera's serial number
    trajectory.h5          observation/robot_state/cartesian_position [T,6] metres and extrinsic xyz angles,
                           observation/robot_state/gripper_position [T] closedness,
                           observation/timestamp/...: see TIME_STAMPS,
                           observation/camera_extrinsics/SERIAL_left [T,6] (not in every one)
    recordings/MP4/SERIAL.mp4

Row i belongs to frame i of the video. The video's own rate is that of playback (60 a second), while rows come at about
15, unevenly: what is kept is chosen by the rows' time stamps alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from data.video import Pictures, VideoError, View, count_frames, decode_by_number

ROWS_FILE = "trajectory.h5"
POSE, GRIPPER = "observation/robot_state/cartesian_position", "observation/robot_state/gripper_position"
# When a row was recorded, the first that increases all along: the robot's own clock, then the control loop's.
TIME_STAMPS = (
    (
        "observation/timestamp/robot_state/robot_timestamp_seconds",
        "observation/timestamp/robot_state/robot_timestamp_nanos",
    ),
    ("observation/timestamp/control/step_start",),
    ("observation/timestamp/robot_state/read_start",),
)
UNITS_S = (1e-3, 1e-6, 1e-9)  # of single time stamps: the one that puts a row's step between 1 ms and 1 s
MOST_APART = 0.1  # share of the rows by which rows and video frames may differ in number
FULL_TURN = 2 * np.pi + 0.01  # angles beyond are hardly radians
LEAST_RATE = 0.75  # of the wanted rate that the kept rows have
PAUSE_STEPS = 2.0  # gaps longer than so many steps, wanted or recorded, part a trajectory
Camera = Literal["left", "right", "wrist"]
Array = NDArray[Any]


class TrajectoryError(ValueError):
    """A trajectory cannot be used; the message says which and why."""


@dataclass(frozen=True)
class DroidConfig:
    """fps: rows a second that are kept; angles: unit of the recorded ones; least_frames: shorter ones are left out."""

    fps: float = 4.0
    camera: Camera = "left"
    """whose video: left, right or wrist"""
    angles: Literal["radians", "degrees"] = "radians"
    """unit of the recorded angles: radians or degrees"""
    least_frames: int = 2

    def __post_init__(self) -> None:
        if not self.fps > 0 or self.least_frames < 2:
            raise ValueError(f"fps={self.fps} least_frames={self.least_frames}: give a rate above 0 and two frames")


@dataclass(frozen=True)
class Trajectory:
    """The rows of one trajectory that are kept, T of them; `pictures` decodes what belongs to them.

    rows: numbers of the recorded rows; time_s: since the first; pose: [T,7], gripper last; extrinsics: [T,6] or None.
    notes: what is odd about it, a sentence each.
    """

    folder: Path
    video: Path
    rows: NDArray[np.int64]
    time_s: NDArray[np.float64]
    pose: NDArray[np.float64]
    extrinsics: NDArray[np.float32] | None
    notes: tuple[str, ...]

    def read_pictures(self, size_px: int, view: View) -> Pictures:
        """Its frames [T,size,size,3]. TrajectoryError if the video cannot be decoded so far."""
        try:
            return decode_by_number(self.video, [int(row) for row in self.rows], (size_px, size_px), view)
        except VideoError as error:
            raise TrajectoryError(str(error)) from error


def find_trajectories(folder: Path) -> list[Path]:
    """Folders of trajectories in a folder, at any depth, by name. ValueError where there is none."""
    if not folder.is_dir():
        raise ValueError(f"path={folder} is no folder: give the folder that holds the trajectories")
    found = sorted(path.parent for path in folder.rglob(ROWS_FILE))
    if not found:
        raise ValueError(f"no folder below {folder} holds a {ROWS_FILE}: give path= a folder of DROID trajectories")
    return found


def read_trajectory(folder: Path, config: DroidConfig) -> Trajectory:
    """The rows of a trajectory at the wanted rate; reads no picture. TrajectoryError names what is wrong."""
    video = _find_video(folder, config.camera)
    poses, times_s, extrinsics, notes = _read_rows(folder, video.stem, config)
    frames = _count_frames(video)
    if abs(len(poses) - frames) > MOST_APART * max(len(poses), frames):
        raise TrajectoryError(
            f"{folder} has {len(poses)} rows and its video {frames} frames: they do not belong together"
        )
    if len(poses) > frames:
        notes.append(f"{folder} has {len(poses)} rows and its video {frames} frames: the last rows are dropped")
    rows = select_rows(times_s[:frames], config.fps)
    if len(rows) < config.least_frames:
        raise TrajectoryError(
            f"{folder} has {len(rows)} frames at {config.fps:g} a second, fewer than {config.least_frames}"
        )
    rate = 1 / float(np.median(np.diff(times_s[rows])))
    if rate < LEAST_RATE * config.fps:
        notes.append(f"{folder} has {rate:.1f} rows a second, fewer than fps={config.fps:g}: all of them are kept")
    return Trajectory(
        folder,
        video,
        rows,
        times_s[rows] - times_s[rows[0]],
        poses[rows],
        None if extrinsics is None else extrinsics[rows].astype(np.float32),
        tuple(notes),
    )


def select_rows(times_s: NDArray[np.float64], fps: float) -> NDArray[np.int64]:
    """Numbers of the rows nearest to the ticks of a clock that starts with the first row; each row once at most.

    Where the recording pauses, its longest stretch without a pause is taken: a step over a pause is no action.
    """
    steps_s = np.diff(times_s)
    usual_s = float(np.median(steps_s)) if steps_s.size else 0.0
    pauses = np.flatnonzero(steps_s > PAUSE_STEPS * max(1 / fps, usual_s)) + 1
    bounds = np.concatenate([[0], pauses, [len(times_s)]])
    longest = int(np.argmax(np.diff(bounds)))
    begin, end = int(bounds[longest]), int(bounds[longest + 1])
    times_s = times_s[begin:end] - times_s[begin]
    ticks = np.arange(int(times_s[-1] * fps + 1e-6) + 1) / fps
    after = np.searchsorted(times_s, ticks).clip(max=len(times_s) - 1)
    before = (after - 1).clip(0)
    nearest = np.where(ticks - times_s[before] <= times_s[after] - ticks, before, after)
    return np.unique(nearest).astype(np.int64) + begin


def _find_video(folder: Path, camera: Camera) -> Path:
    """The camera's video: named by the metadata, where the folder has it."""
    files = sorted(folder.glob("metadata*.json"))
    if not files:
        raise TrajectoryError(f"{folder} has no metadata_*.json")
    try:
        named = json.loads(files[0].read_text(encoding="utf-8"))[f"{camera}_mp4_path"]
    except (ValueError, KeyError, TypeError) as error:
        raise TrajectoryError(f"{files[0]} names no {camera}_mp4_path") from error
    video = folder / "recordings" / "MP4" / Path(str(named)).name
    if not video.is_file():
        raise TrajectoryError(f"{video} is not there, though {files[0].name} names it")
    return video


def _count_frames(video: Path) -> int:
    try:
        return count_frames(video)
    except VideoError as error:
        raise TrajectoryError(str(error)) from error


def _read_rows(folder: Path, serial: str, config: DroidConfig) -> tuple[Array, Array, Array | None, list[str]]:
    """Poses [T,7], times [T] seconds, extrinsics [T,6] or None, and what is odd."""
    path = folder / ROWS_FILE
    try:
        with h5py.File(path, "r", locking=False) as file:
            for name in (POSE, GRIPPER):
                if name not in file:
                    raise TrajectoryError(f"{path} has no {name}")
            poses = np.asarray(file[POSE], np.float64)
            gripper = np.asarray(file[GRIPPER], np.float64).reshape(-1)
            times_s = _read_times(path, file)
            place = f"observation/camera_extrinsics/{serial}_left"
            extrinsics = np.asarray(file[place], np.float64) if place in file else None
    except OSError as error:
        raise TrajectoryError(f"{path} cannot be read as HDF5: copy it again") from error
    lengths = {len(poses), len(gripper), len(times_s)} | ({len(extrinsics)} if extrinsics is not None else set())
    if poses.ndim != 2 or poses.shape[1] != 6 or len(lengths) > 1 or not len(poses):
        raise TrajectoryError(f"{path} has poses of shape {poses.shape} and columns of {sorted(lengths)} rows")
    poses = np.column_stack([poses, gripper.clip(0, 1)])
    if not np.isfinite(poses).all():
        raise TrajectoryError(f"{path} has poses that are not finite numbers")
    notes = []
    largest = float(np.abs(poses[:, 3:6]).max())
    if config.angles == "degrees":
        poses[:, 3:6] = np.deg2rad(poses[:, 3:6])
    elif largest > FULL_TURN:
        notes.append(f"{path} has angles up to {largest:.0f}, which look like degrees: if they are, angles=degrees")
    return poses, times_s, extrinsics, notes


def _read_times(path: Path, file: Any) -> NDArray[np.float64]:
    """Seconds since the first row."""
    for names in TIME_STAMPS:
        if not all(name in file for name in names):
            continue
        stamps = [np.asarray(file[name], np.int64).reshape(-1) for name in names]
        if len(names) == 2:
            seconds, nanos = (column - column[:1] for column in stamps)
            times_s = seconds + nanos * 1e-9
        else:
            times_s = _to_seconds(stamps[0] - stamps[0][:1])
        if (np.diff(times_s) > 0).all():
            return times_s.astype(np.float64)
    raise TrajectoryError(
        f"{path} has no time stamps that increase (looked for {', '.join(n[0] for n in TIME_STAMPS)})"
    )


def _to_seconds(ticks: NDArray[np.int64]) -> Array:
    """Time stamps of unknown unit: DROID's are milliseconds, those of others nanoseconds."""
    step = float(np.median(np.diff(ticks))) if len(ticks) > 1 else 1.0
    unit = next((unit for unit in UNITS_S if 1e-3 <= step * unit < 1), UNITS_S[0])
    return ticks * unit
