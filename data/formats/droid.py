"""Robot trajectories as DROID's raw release lays them out, brought to one rate.

A trajectory is a folder with

    metadata*.json         left_mp4_path, right_mp4_path or wrist_mp4_path: its name is the camera's serial number
    trajectory.h5          observation/robot_state/cartesian_position [T,6] metres and extrinsic xyz angles,
                           observation/robot_state/gripper_position [T] closedness,
                           observation/timestamp/...: see TIME_STAMPS,
                           observation/camera_extrinsics/SERIAL_left [T,6] (not in every one)
    recordings/MP4/SERIAL.mp4

Row i belongs to frame i of the video. The video's own rate is that of playback (60 a second), while rows come at about
15 a second, unevenly, so rows are selected by their time stamps alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from data.formats.dataset import Array, ExternalError, open_hdf5, read_json
from data.pictures import Pictures, View
from data.video import count_frames, decode_by_number

ROWS_FILE = "trajectory.h5"
POSE, GRIPPER = "observation/robot_state/cartesian_position", "observation/robot_state/gripper_position"
# When a row was recorded; the first that increases throughout is used: the robot's own clock, then the control loop's.
TIME_STAMPS = (
    (
        "observation/timestamp/robot_state/robot_timestamp_seconds",
        "observation/timestamp/robot_state/robot_timestamp_nanos",
    ),
    ("observation/timestamp/control/step_start",),
    ("observation/timestamp/robot_state/read_start",),
)
UNITS_S = (1e-3, 1e-6, 1e-9)  # of single time stamps: the one that puts the time between rows between 1 ms and 1 s
MAX_COUNT_DIFFERENCE = 0.1  # share of the rows by which rows and video frames may differ in number
FULL_TURN = 2 * np.pi + 0.01  # larger angles are hardly radians
LEAST_RATE = 0.75  # of the wanted rate, below which a trajectory gets a note
PAUSE_STEPS = 2.0  # steps, wanted or recorded, beyond which a gap is a pause
Camera = Literal["left", "right", "wrist"]


@dataclass(frozen=True)
class DroidConfig:
    """fps: rows per second that are retained. least_frames: shorter trajectories are left out."""

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
    """The T retained rows of one trajectory.

    rows: numbers of the recorded rows. time_s: since the first. pose: [T,7], gripper last. extrinsics: [T,6] or None.
    notes: warnings for the user, a sentence each.
    """

    folder: Path
    video: Path
    rows: NDArray[np.int64]
    time_s: NDArray[np.float64]
    pose: NDArray[np.float64]
    extrinsics: NDArray[np.float32] | None
    notes: tuple[str, ...]

    def read_pictures(self, size_px: int, view: View) -> Pictures:
        """Its frames [T,size,size,3]. VideoError if one cannot be decoded."""
        return decode_by_number(self.video, self.rows.tolist(), (size_px, size_px), view)


def find_trajectories(folder: Path) -> list[Path]:
    """Folders of trajectories in a folder, at any depth, by name. ExternalError if there is none."""
    if not folder.is_dir():
        raise ExternalError(f"path={folder} is no folder: give the folder that holds the trajectories")
    folders = sorted(path.parent for path in folder.rglob(ROWS_FILE))
    if not folders:
        raise ExternalError(f"no folder below {folder} holds a {ROWS_FILE}: give path= a folder of DROID trajectories")
    return folders


def read_trajectory(folder: Path, config: DroidConfig) -> Trajectory:
    """The rows of a trajectory at the wanted rate; reads no frame. ExternalError or VideoError names what is wrong."""
    video = _find_video(folder, config.camera)
    poses, times_s, extrinsics, notes = _read_rows(folder / ROWS_FILE, video.stem, config)
    frames = count_frames(video)
    counts = f"{folder} has {len(poses)} rows and its video {frames} frames"
    if abs(len(poses) - frames) > MAX_COUNT_DIFFERENCE * max(len(poses), frames):
        raise ExternalError(f"{counts}: they do not belong together")
    if len(poses) > frames:
        notes.append(f"{counts}: the last rows are dropped")
    rows = select_rows(times_s[:frames], config.fps)
    if len(rows) < config.least_frames:
        raise ExternalError(
            f"{folder} has {len(rows)} frames at {config.fps:g} a second, fewer than {config.least_frames}"
        )
    rate = 1 / float(np.median(np.diff(times_s[rows])))
    if rate < LEAST_RATE * config.fps:
        notes.append(f"{folder} has {rate:.1f} rows a second, fewer than fps={config.fps:g}: all of them are kept")
    extrinsics = None if extrinsics is None else extrinsics[rows].astype(np.float32)
    return Trajectory(folder, video, rows, times_s[rows] - times_s[rows[0]], poses[rows], extrinsics, tuple(notes))


def select_rows(times_s: NDArray[np.float64], fps: float) -> NDArray[np.int64]:
    """Numbers of the rows nearest to the ticks of a clock that starts with the first row; each row at most once.

    If the recording pauses, its longest part without a pause is taken, because a step over a pause is no action.
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
    """The camera's video, whose name is in the metadata."""
    metadata = next(iter(sorted(folder.glob("metadata*.json"))), None)
    if metadata is None:
        raise ExternalError(f"{folder} has no metadata_*.json")
    try:
        name = Path(str(read_json(metadata)[f"{camera}_mp4_path"])).name
    except (KeyError, ExternalError) as error:
        raise ExternalError(f"{metadata} names no {camera}_mp4_path") from error
    video = folder / "recordings" / "MP4" / name
    if not video.is_file():
        raise ExternalError(f"{video} is not there, though {metadata.name} names it")
    return video


def _read_rows(path: Path, serial: str, config: DroidConfig) -> tuple[Array, Array, Array | None, list[str]]:
    """Poses [T,7], times [T] in seconds, extrinsics [T,6] or None, and warnings."""
    with open_hdf5(path) as file:
        for name in (POSE, GRIPPER):
            if name not in file:
                raise ExternalError(f"{path} has no {name}")
        columns = [np.asarray(file[POSE], np.float64), np.asarray(file[GRIPPER], np.float64).reshape(-1)]
        columns.append(_read_times(path, file))
        camera = f"observation/camera_extrinsics/{serial}_left"
        if camera in file:
            columns.append(np.asarray(file[camera], np.float64))
    poses, gripper, times_s, *extrinsics = columns
    lengths = {len(column) for column in columns}
    if poses.ndim != 2 or poses.shape[1] != 6 or len(lengths) > 1 or not len(poses):
        raise ExternalError(f"{path} has poses of shape {poses.shape} and columns of {sorted(lengths)} rows")
    poses = np.column_stack([poses, gripper.clip(0, 1)])
    if not np.isfinite(poses).all():
        raise ExternalError(f"{path} has poses that are not finite numbers")
    notes = []
    largest = float(np.abs(poses[:, 3:6]).max())
    if config.angles == "degrees":
        poses[:, 3:6] = np.deg2rad(poses[:, 3:6])
    elif largest > FULL_TURN:
        notes.append(f"{path} has angles up to {largest:.0f}, which look like degrees: if they are, angles=degrees")
    return poses, times_s, extrinsics[0] if extrinsics else None, notes


def _read_times(path: Path, file: h5py.File) -> NDArray[np.float64]:
    """Seconds since the first row."""
    for names in TIME_STAMPS:
        if not all(name in file for name in names):
            continue
        ticks, *nanos = (stamps - stamps[:1] for stamps in (np.asarray(file[n], np.int64).reshape(-1) for n in names))
        times_s = ticks + nanos[0] * 1e-9 if nanos else ticks * _find_unit(ticks)
        if (np.diff(times_s) > 0).all():
            return times_s.astype(np.float64)
    tried = ", ".join(names[0] for names in TIME_STAMPS)
    raise ExternalError(f"{path} has no time stamps that increase (looked for {tried})")


def _find_unit(ticks: NDArray[np.int64]) -> float:
    """Seconds of a time stamp: DROID's are milliseconds, those of others nanoseconds."""
    step = float(np.median(np.diff(ticks))) if len(ticks) > 1 else 1.0
    return next((unit for unit in UNITS_S if 1e-3 <= step * unit < 1), UNITS_S[0])
