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

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Literal

import h5py
import numpy as np
import pydantic
from numpy.typing import NDArray

from data.checks import parse_fields, read_json, resolve_inside
from data.formats.dataset import Array, check_fps, check_rows
from data.formats.files import ExternalError, get_item, list_files, open_hdf5, read_rows
from data.pictures import Pictures, View, join_cameras
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
UNITS_S = (1.0, 1e-3, 1e-6, 1e-9)  # of single time stamps: the one that puts rows between 1 ms and 1 s apart
USUAL_UNIT_S = 1e-3  # of time stamps that no unit makes plausible
MAX_COUNT_DIFFERENCE = 0.1  # share of the rows by which rows and video frames may differ in number
FULL_TURN = 2 * np.pi + 0.01  # larger angles are hardly radians
LEAST_RATE = 0.75  # of the wanted rate, below which a trajectory gets a note
PAUSE_STEPS = 2.0  # steps, wanted or recorded, beyond which a gap is a pause
Camera = Literal["left", "right", "wrist"]


@dataclass(frozen=True)
class DroidConfig:
    """fps: rows per second that are retained. least_frames: shorter trajectories are left out."""

    fps: float = 4.0
    camera: Camera | Sequence[Camera] = "left"
    """whose video: left, right or wrist; several are placed side by side"""
    angles: Literal["radians", "degrees"] = "radians"
    """unit of the recorded angles: radians or degrees"""
    least_frames: int = 2

    def __post_init__(self) -> None:
        check_fps(self.fps)
        if self.least_frames < 2:
            raise ValueError(f"least_frames={self.least_frames}: give at least 2, which an action lies between")

    @property
    def cameras(self) -> tuple[Camera, ...]:
        """From left to right."""
        return (self.camera,) if isinstance(self.camera, str) else tuple(self.camera)


class Metadata(pydantic.BaseModel):
    """metadata*.json: paths on the machine that recorded the trajectory, whose last part alone matters."""

    left_mp4_path: str | None = None
    right_mp4_path: str | None = None
    wrist_mp4_path: str | None = None


@dataclass(frozen=True)
class Trajectory:
    """The T retained rows of one trajectory.

    videos: of the cameras, from left to right. rows: numbers of the recorded rows. time_s: since the first. pose:
    [T,7], gripper last. extrinsics: [T,6]; None where none were recorded, and for several cameras. notes: warnings for
    the user, a sentence each.
    """

    folder: Path
    videos: tuple[Path, ...]
    rows: NDArray[np.int64]
    time_s: NDArray[np.float64]
    pose: NDArray[np.float64]
    extrinsics: NDArray[np.float32] | None
    notes: tuple[str, ...]

    def read_pictures(self, size_hw: tuple[int, int], view: View) -> Pictures:
        """Its frames [T,H,W,3]. VideoError if one cannot be decoded."""
        rows = self.rows.tolist()
        return join_cameras([partial(decode_by_number, video, rows) for video in self.videos])(size_hw, view)


def find_trajectories(folder: Path) -> list[Path]:
    """Folders of trajectories in a folder, at any depth, by name. ExternalError if there is none."""
    if not folder.is_dir():
        raise ExternalError(f"path={folder} is no folder: give the folder that holds the trajectories")
    folders = [path.parent for path in list_files(folder, ROWS_FILE)]
    if not folders:
        raise ExternalError(f"no folder below {folder} holds a {ROWS_FILE}: give path= a folder of DROID trajectories")
    return folders


def read_trajectory(folder: Path, config: DroidConfig) -> Trajectory:
    """The rows of a trajectory at the wanted rate; reads no frame. ExternalError or VideoError names what is wrong."""
    videos = tuple(_find_video(folder, camera) for camera in config.cameras)
    poses, times_s, extrinsics, notes = _read_rows(folder / ROWS_FILE, videos, config)
    frames = min(map(count_frames, videos))
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
    return Trajectory(folder, videos, rows, times_s[rows] - times_s[rows[0]], poses[rows], extrinsics, tuple(notes))


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
    metadata = resolve_inside(folder, metadata.name, folder)
    recorded = getattr(parse_fields(Metadata, read_json(metadata), metadata), f"{camera}_mp4_path")
    if not recorded:
        raise ExternalError(f"{metadata} names no {camera}_mp4_path")
    name = PureWindowsPath(recorded).name  # of paths with slashes, too
    video = resolve_inside(folder, f"recordings/MP4/{name}", metadata)
    if not video.is_file():
        raise ExternalError(f"{video} is not there, though {metadata.name} names it")
    return video


def _read_rows(path: Path, videos: Sequence[Path], config: DroidConfig) -> tuple[Array, Array, Array | None, list[str]]:
    """Poses [T,7], times [T] in seconds, extrinsics [T,6] or None, and warnings."""
    camera = f"observation/camera_extrinsics/{videos[0].stem}_left"
    with open_hdf5(path) as file:
        names = [POSE, GRIPPER, *([camera] if camera in file and len(videos) == 1 else [])]
        columns = {name: _read_column(path, file, name) for name in names}
        times_s = _read_times(path, file)
    poses, gripper = columns[POSE], columns[GRIPPER].reshape(-1)
    if poses.ndim != 2 or poses.shape[1] != 6 or not len(poses):
        raise ExternalError(f"{path} has {POSE} of shape {list(poses.shape)}: a row of 6 numbers a frame is needed")
    for name, rows, size in ((GRIPPER, gripper, 1), ("time stamps", times_s, 1), (camera, columns.get(camera), 6)):
        if rows is not None:
            check_rows(str(path), name, rows, len(poses), (size,))
    poses = np.column_stack([poses, gripper.clip(0, 1)])
    if not np.isfinite(poses).all():
        raise ExternalError(f"{path} has poses that are not finite numbers")
    notes = []
    largest = float(np.abs(poses[:, 3:6]).max())
    if config.angles == "degrees":
        poses[:, 3:6] = np.deg2rad(poses[:, 3:6])
    elif largest > FULL_TURN:
        notes.append(f"{path} has angles up to {largest:.0f}, which look like degrees: if they are, angles=degrees")
    return poses, times_s, columns.get(camera), notes


def _read_column(path: Path, file: h5py.File, name: str) -> NDArray[np.float64]:
    """A column of real numbers."""
    rows = read_rows(get_item(file, name, h5py.Dataset, str(path)), f"{path} {name}")
    check_rows(str(path), name, rows, len(rows))
    return rows.astype(np.float64)


def _read_times(path: Path, file: h5py.File) -> NDArray[np.float64]:
    """Seconds since the first row."""
    for names in TIME_STAMPS:
        if not all(name in file for name in names):
            continue
        stamps = [read_rows(get_item(file, n, h5py.Dataset, str(path)), f"{path} {n}").reshape(-1) for n in names]
        for name, rows in zip(names, stamps, strict=True):
            check_rows(str(path), name, rows, len(stamps[0]))
        # Integers stay integers: nanoseconds since 1970 have more digits than a float holds.
        kinds = [np.float64 if rows.dtype.kind == "f" else np.int64 for rows in stamps]
        ticks, *nanos = (np.asarray(rows - rows[:1], kind) for rows, kind in zip(stamps, kinds, strict=True))
        if nanos and ticks.dtype.kind == "i":
            times_s = ticks + nanos[0] * 1e-9
        else:  # seconds with a fraction hold the nanoseconds already
            times_s = ticks * (1.0 if nanos else _find_unit(ticks))
        if (np.diff(times_s) > 0).all():
            return times_s.astype(np.float64)
    tried = ", ".join(names[0] for names in TIME_STAMPS)
    raise ExternalError(f"{path} has no time stamps that increase (looked for {tried})")


def _find_unit(ticks: Array) -> float:
    """Seconds of a time stamp: DROID's are milliseconds, those of others nanoseconds, or seconds with a fraction."""
    step = float(np.median(np.diff(ticks))) if len(ticks) > 1 else 1.0
    return next((unit for unit in UNITS_S if 1e-3 <= step * unit < 1), USUAL_UNIT_S)
