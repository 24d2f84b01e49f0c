"""Our episodes as a LeRobot data set, version 3; the layout is at the top of `data/formats/lerobot.py`.

Pictures go into a video, or into the table as PNGs. Of videos, `lossless` (H.264 in RGB) gives every pixel back;
`lossy` (H.264 in 4:2:0) is a fraction of the size, and how far it is off is measured and said.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np

from data.formats.dataset import Array, encode_factors, list_number_columns, pad_actions, read_rewards
from data.formats.lerobot import (
    BOOKKEEPING,
    CAMERA,
    INFO,
    OWN_FILE,
    REWARD,
    STATS,
    TASKS,
    external_name,
    import_pyarrow,
    parquet,
)
from data.store import Reader
from data.video import decode_at_times, inspect_video

PictureFormat = Literal["lossless", "lossy", "images"]
IMAGES: PictureFormat = "images"
CODECS = {  # encoder, its pictures, options
    "lossless": ("libx264rgb", "rgb24", {"qp": "0", "preset": "veryfast", "g": "30"}),
    "lossy": ("libx264", "yuv420p", {"crf": "18", "preset": "veryfast", "g": "30"}),
}
FRAMES_A_FILE = 50_000
FILE = {"chunk_index": 0, "file_index": 0}
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-000/file-000.parquet"
STATISTICS_EPISODES = 16  # whose pictures their mean and spread are taken from


def write_lerobot(reader: Reader, root: Path, kept: PictureFormat, task: str, progress: Callable[[], None]) -> str:
    """Our episodes as a data set in the folder; returns what that loses, in words."""
    arrow = import_pyarrow()
    episodes = reader.episodes().tolist()
    fps = _round_rate(1 / reader.info.step_s)
    data = root / DATA_PATH.format(**FILE)
    for file in (data, root / EPISODES_PATH):
        file.parent.mkdir(parents=True)
    video = None if kept == IMAGES else VideoWriter(root, kept, fps)
    rows, begun, writer = [], 0, None
    for number, episode in enumerate(episodes):
        length = reader.num_frames(episode)
        row: dict[str, Any] = {"episode_index": number, "tasks": [task], "length": length}
        row |= {"dataset_from_index": begun, "dataset_to_index": begun + length}
        row |= {f"data/{name}": value for name, value in FILE.items()}
        row |= {f"meta/episodes/{name}": value for name, value in FILE.items()}
        if video is not None:
            row |= video.write(reader.column("pixels", episode))
        table = arrow.table(_build_table(reader, episode, number, begun, fps, kept == IMAGES))
        writer = writer or parquet().ParquetWriter(data, table.schema)
        writer.write_table(table)  # one episode, one row group
        rows.append(row)
        begun += length
        progress()
    if writer is not None:
        writer.close()
    if video is not None:
        video.close()
    parquet().write_table(arrow.Table.from_pylist(rows), root / EPISODES_PATH)
    _write_meta(reader, root, kept, task, fps, begun)
    return _measure_loss(reader, root, rows[0], fps) if kept == "lossy" else ""


def _round_rate(rate: float) -> float:
    """The rate, as a whole number where it is one but for rounding."""
    return round(rate) if abs(rate - round(rate)) < 1e-6 else rate


def _build_table(reader: Reader, episode: int, number: int, begun: int, fps: float, images: bool) -> dict[str, Any]:
    """Columns of an episode's rows."""
    length = reader.num_frames(episode)
    index = np.arange(length)
    columns: dict[str, Any] = {"action": pad_actions(reader, episode)}
    columns |= {external_name(c.name): reader.column(c.name, episode) for c in list_number_columns(reader.info)}
    columns[REWARD] = np.append(read_rewards(reader, episode), 0).astype(np.float32)
    columns["next.done"] = index == length - 1
    columns |= {"timestamp": (index / fps).astype(np.float32), "frame_index": index, "index": begun + index}
    columns |= {"episode_index": np.full(length, number), "task_index": np.zeros(length, np.int64)}
    columns = {name: rows.reshape(length) if rows.size == length else list(rows) for name, rows in columns.items()}
    if images:
        columns[CAMERA] = [{"bytes": encode_png(frame), "path": None} for frame in reader.column("pixels", episode)]
    return columns


def encode_png(frame_HWC: Array) -> bytes:
    """A picture's bytes as a PNG, which loses nothing."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(frame_HWC).save(buffer, format="PNG")
    return buffer.getvalue()


class VideoWriter:
    """Videos of one camera, one after another as they grow long; several episodes in each."""

    def __init__(self, root: Path, kept: PictureFormat, fps: float) -> None:
        self.root, self.kept, self.fps = root, kept, Fraction(fps).limit_denominator(1001)
        self.file_index, self._frames = -1, 0
        self._container: Any = None

    def write(self, frames_THWC: Array) -> dict[str, Any]:
        """Appends an episode; returns its columns of meta/episodes."""
        if self._container is None or self._frames >= FRAMES_A_FILE:
            self.close()
            self._begin(frames_THWC.shape[1:3])
        begin = self._frames
        for frame in frames_THWC:
            shown = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            shown.pts = self._frames
            self._container.mux(self._stream.encode(shown))
            self._frames += 1
        found: dict[str, float] = {"chunk_index": 0, "file_index": self.file_index}
        found |= {"from_timestamp": float(begin / self.fps), "to_timestamp": float(self._frames / self.fps)}
        return {f"videos/{CAMERA}/{name}": value for name, value in found.items()}

    def _begin(self, hw: tuple[int, int]) -> None:
        self.file_index, self._frames = self.file_index + 1, 0
        path = self.root / VIDEO_PATH.format(video_key=CAMERA, chunk_index=0, file_index=self.file_index)
        path.parent.mkdir(parents=True, exist_ok=True)
        encoder, pixels, options = CODECS[self.kept]
        self._container = av.open(str(path), "w")
        self._stream = self._container.add_stream(encoder, rate=self.fps, options=options)
        self._stream.height, self._stream.width = hw
        self._stream.pix_fmt, self._stream.time_base = pixels, 1 / self.fps

    def close(self) -> None:
        """Ends the file that is being written."""
        if self._container is not None:
            self._container.mux(self._stream.encode(None))
            self._container.close()
            self._container = None


def _measure_loss(reader: Reader, root: Path, row: dict[str, Any], fps: float) -> str:
    """How far the first episode's pictures are off in a lossy video."""
    file = inspect_video(root / VIDEO_PATH.format(video_key=CAMERA, **FILE))
    frames = reader.column("pixels", int(reader.episodes()[0]))
    found = decode_at_times(file, np.arange(row["length"]) / fps, frames.shape[1:3], "whole")
    off = np.abs(found.astype(np.int16) - frames)
    return f"pictures, which are {off.mean():.1f} of 255 off on average and {off.max()} at most (pictures=lossless)"


def _write_meta(reader: Reader, root: Path, kept: PictureFormat, task: str, fps: float, frames: int) -> None:
    info, episodes = reader.info, reader.episodes().tolist()
    about = {
        "codebase_version": "v3.0",
        "robot_type": info.env_id,
        "total_episodes": len(episodes),
        "total_frames": frames,
        "total_tasks": 1,
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": fps,
        "splits": {},
        "data_path": DATA_PATH,
        "video_path": None if kept == IMAGES else VIDEO_PATH,
        "features": _describe_features(reader, kept, fps),
    }
    own = [
        {"split": reader.split(e), "seed": reader.seed(e), "factors": json.loads(encode_factors(reader, e))}
        for e in episodes
    ]
    _write_json(root / INFO, about)
    _write_json(root / STATS, _compute_statistics(reader))
    _write_json(root / OWN_FILE, {"info": info.to_json(), "episodes": own})
    arrow = import_pyarrow()
    tasks = arrow.table({"task_index": np.zeros(1, np.int64), "task": [task]})
    parquet().write_table(tasks.replace_schema_metadata({"pandas": json.dumps(_INDEXED_BY_TASK)}), root / TASKS)


def _write_json(path: Path, what: Any) -> None:
    path.write_text(json.dumps(what, indent=1), encoding="utf-8")


def _describe_features(reader: Reader, kept: PictureFormat, fps: float) -> dict[str, Any]:
    info = reader.info

    def feature(dtype: str, shape: tuple[int, ...], names: Any = None) -> dict[str, Any]:
        return {"dtype": dtype, "shape": list(shape) or [1], "names": names}

    found = {"action": feature("float32", (info.action_size,), list(info.action_names))}
    for column in list_number_columns(info):
        names = list(info.truth_names) if column.name == "truth" else None
        found[external_name(column.name)] = feature(column.dtype, column.shape, names)
    found[REWARD], found["next.done"] = feature("float32", ()), feature("bool", ())
    for name in BOOKKEEPING:
        found[name] = feature("float32" if name == "timestamp" else "int64", ())
    camera = feature("image" if kept == IMAGES else "video", info.frame_hwc, ["height", "width", "channels"])
    if kept != IMAGES:
        height, width, _ = info.frame_hwc
        pixels = {"lossless": "gbrp", "lossy": "yuv420p"}[kept]
        about = {"height": height, "width": width, "codec": "h264", "pix_fmt": pixels, "fps": fps, "channels": 3}
        camera["info"] = {f"video.{name}": value for name, value in about.items()} | {"has_audio": False}
    return found | {CAMERA: camera}


def _compute_statistics(reader: Reader) -> dict[str, Any]:
    """Mean, spread and range of what policies read; pictures in 0..1, channels first."""
    episodes = reader.episodes().tolist()
    found: dict[str, Any] = {}
    for name in ("action", "truth", *(column.name for column in reader.info.extra)):
        rows = np.concatenate([reader.column(name, episode) for episode in episodes]).astype(np.float64)
        found["action" if name == "action" else external_name(name)] = _summarise(rows.reshape(len(rows), -1))
    some = episodes[:: -(-len(episodes) // STATISTICS_EPISODES)]
    pixels = np.concatenate([reader.column("pixels", episode).reshape(-1, 3) for episode in some]) / 255
    summary = _summarise(pixels)
    found[CAMERA] = {
        name: value if name == "count" else np.reshape(value, (3, 1, 1)).tolist() for name, value in summary.items()
    }
    return found


def _summarise(rows_ND: Array) -> dict[str, list[float]]:
    made = {"min": rows_ND.min(0), "max": rows_ND.max(0), "mean": rows_ND.mean(0), "std": rows_ND.std(0)}
    return {name: value.tolist() for name, value in made.items()} | {"count": [len(rows_ND)]}


# What pandas needs in the table to take the column `task` for its index, as LeRobot does.
_INDEXED_BY_TASK = {
    "index_columns": ["task"],
    "column_indexes": [],
    "columns": [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": stored, "metadata": None}
        for name, kind, stored in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
    ],
    "pandas_version": "2.2.0",
}
