"""A small synthetic folder in DROID's layout, to try commands on: `python -m data.formats.droid_example FOLDER`.

A coloured square stands for the gripper: its position is x and y of the pose, its size z, its colour the closedness.
Rows come at 15 a second with jitter; the video claims 60 a second, as DROID's do.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import h5py
import numpy as np
from numpy.typing import NDArray

SERIAL = "12345678"
ROW_HZ, PLAYBACK_HZ = 15.0, 60
JITTER_S = 0.01
START_S = 1_700_000_000  # of the first row, since 1970


def write_example(
    folder: Path, trajectories: int = 12, rows: int = 120, frame_hw: tuple[int, int] = (72, 128), seed: int = 0
) -> list[Path]:
    """Writes trajectories of so many rows each; returns their folders."""
    folders = []
    for number in range(trajectories):
        rng = np.random.default_rng([seed, number])
        poses = _draw_path(rng, rows)
        times_s = np.arange(rows) / ROW_HZ + rng.uniform(-JITTER_S, JITTER_S, rows)
        path = folder / f"trajectory_{number:03d}"
        folders.append(write_trajectory(path, poses, times_s - times_s[0], frame_hw))
    return folders


def write_trajectory(
    folder: Path, poses_T7: NDArray[np.float64], times_s: NDArray[np.float64], frame_hw: tuple[int, int]
) -> Path:
    """One trajectory with these poses (gripper last) at these times."""
    video = folder / "recordings" / "MP4" / f"{SERIAL}.mp4"
    video.parent.mkdir(parents=True, exist_ok=True)
    nanos = np.round(times_s * 1e9).astype(np.int64)
    with h5py.File(folder / "trajectory.h5", "w") as file:
        file["observation/robot_state/cartesian_position"] = poses_T7[:, :6]
        file["observation/robot_state/gripper_position"] = poses_T7[:, 6]
        file["observation/timestamp/robot_state/robot_timestamp_seconds"] = START_S + nanos // 10**9
        file["observation/timestamp/robot_state/robot_timestamp_nanos"] = nanos % 10**9
        file["observation/timestamp/control/step_start"] = START_S * 1000 + nanos // 10**6
        extrinsics = np.tile([0.1, 0.4, 0.3, -1.6, 0.0, -2.2], (len(nanos), 1))
        file[f"observation/camera_extrinsics/{SERIAL}_left"] = extrinsics
    path = f"{folder.name}/recordings/MP4/{video.name}"
    metadata = {"uuid": folder.name, "trajectory_length": len(nanos), "left_mp4_path": path}
    (folder / f"metadata_{folder.name}.json").write_text(json.dumps(metadata, indent=1))
    with av.open(str(video), "w") as container:
        stream = container.add_stream("libx264", rate=PLAYBACK_HZ)
        stream.height, stream.width = frame_hw
        stream.pix_fmt, stream.time_base = "yuv420p", Fraction(1, PLAYBACK_HZ)
        stream.options = {"crf": "18", "preset": "veryfast"}
        for number, pose in enumerate(poses_T7):
            frame = av.VideoFrame.from_ndarray(draw_gripper(pose, frame_hw), format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return folder


def draw_gripper(pose_7: NDArray[np.float64], frame_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """The picture [H,W,3] of a pose."""
    height, width = frame_hw
    rows, columns = np.mgrid[:height, :width]
    middle_row, middle_column = height * (0.5 - pose_7[1]), width / 2 + height * (pose_7[0] - 0.5)
    half = height * (0.06 + 0.1 * pose_7[2])
    inside = (abs(rows - middle_row) < half) & (abs(columns - middle_column) < half)
    picture = np.full((height, width, 3), (60, 70, 80), np.uint8)
    picture[inside] = (230, round(40 + 200 * pose_7[6]), 60)
    return picture


def _draw_path(rng: np.random.Generator, rows: int) -> NDArray[np.float64]:
    """A smooth path of poses [T,7]: each coordinate is a sum of slow waves."""
    times_s = np.arange(rows)[:, None] / ROW_HZ
    waves = sum(
        np.sin(2 * np.pi * times_s * rng.uniform(0.1, 0.4, 7) + rng.uniform(0, 2 * np.pi, 7)) / count
        for count in (2, 3)
    )
    middle, reach = np.array([0.5, 0, 0.3, 3.0, 0, 0.2, 0.5]), np.array([0.3, 0.3, 0.2, 0.3, 0.3, 0.5, 0.55])
    poses = middle + reach * waves
    poses[:, 6] = poses[:, 6].clip(0, 1)
    return np.asarray(poses)


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes an example; exits with 2 on a wrong command line."""
    parser = argparse.ArgumentParser(prog="python -m data.formats.droid_example", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("trajectories", type=int, nargs="?", default=12)
    args = parser.parse_args(arguments)
    folders = write_example(args.folder, args.trajectories)
    print(f"{len(folders)} trajectories in {args.folder}")


if __name__ == "__main__":
    main()
