"""Our episodes as a LeRobot data set, version 3; the layout is at the top of `data/formats/lerobot.py`.

Pictures go into a video, or into the table as PNGs. A `lossless` video (H.264 in RGB) keeps every pixel. A
`lossy` one (H.264 in 4:2:0) is a fraction of the size; its error is measured and reported.
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

from data.formats import lerobot
from data.formats.dataset import Array, encode_factors, list_number_columns, pad_actions, read_rewards
from data.formats.lerobot import CAMERA, REWARD, external_name
from data.formats.parquet import import_pyarrow
from data.store import Reader
from data.video import decode_at_times, inspect_video

PictureFormat = Literal["lossless", "lossy", "images"]
IMAGES: PictureFormat = "images"
CODECS = {  # encoder, pixel format given to it, pixel format of the file, options
    "lossless": ("libx264rgb", "rgb24", "gbrp", {"qp": "0", "preset": "veryfast", "g": "30"}),
    "lossy": ("libx264", "yuv420p", "yuv420p", {"crf": "18", "preset": "veryfast", "g": "30"}),
}
FRAMES_A_FILE = 50_000
FILE = {"chunk_index": 0, "file_index": 0}
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-000/file-000.parquet"
STATISTICS_EPISODES = 16  # episodes whose pictures enter the statistics


def write_lerobot(reader: Reader, root: Path, pictures: PictureFormat, task: str, progress: Callable[[], None]) -> str:
    """Our episodes as a data set in the folder; returns what the format loses, for the user."""
    arrow = import_pyarrow()
    rate = 1 / reader.info.step_s
    fps = round(rate) if abs(rate - round(rate)) < 1e-6 else rate
    data = root / DATA_PATH.format(**FILE)
    for file in (data, root / EPISODES_PATH):
        file.parent.mkdir(parents=True)
    video = None if pictures == IMAGES else VideoWriter(root, pictures, fps)
    rows, begin, writer = [], 0, None
    for number, episode in enumerate(reader.episodes().tolist()):
        length = reader.num_frames(episode)
        row: dict[str, Any] = {"episode_index": number, "tasks": [task], "length": length}
        row |= {"dataset_from_index": begin, "dataset_to_index": begin + length}
        row |= {f"{folder}/{name}": value for folder in ("data", "meta/episodes") for name, value in FILE.items()}
        if video is not None:
            row |= video.write(reader.column("pixels", episode))
        table = arrow.table(_build_table(reader, episode, number, begin, fps, pictures == IMAGES))
        writer = writer or arrow.parquet.ParquetWriter(data, table.schema)
        writer.write_table(table)  # one episode, one row group
        rows.append(row)
        begin += length
        progress()
    if writer is not None:
        writer.close()
    if video is not None:
        video.close()
    arrow.parquet.write_table(arrow.Table.from_pylist(rows), root / EPISODES_PATH)
    _write_meta(reader, root, pictures, task, fps, begin)
    return _measure_loss(reader, root, rows[0]["length"], fps) if pictures == "lossy" else ""


def _build_table(reader: Reader, episode: int, number: int, begin: int, fps: float, images: bool) -> dict[str, Any]:
    """Columns of an episode's rows."""
    length = reader.num_frames(episode)
    index = np.arange(length)
    columns: dict[str, Any] = {"action": pad_actions(reader, episode)}
    columns |= {external_name(c.name): reader.column(c.name, episode) for c in list_number_columns(reader.info)}
    columns[REWARD] = np.append(read_rewards(reader, episode), 0).astype(np.float32)
    columns["next.done"] = index == length - 1
    columns |= {"timestamp": (index / fps).astype(np.float32), "frame_index": index, "index": begin + index}
    columns |= {"episode_index": np.full(length, number), "task_index": np.zeros(length, np.int64)}
    columns = {name: rows.reshape(length) if rows.size == length else list(rows) for name, rows in columns.items()}
    if images:
        columns[CAMERA] = [{"bytes": encode_png(frame), "path": None} for frame in reader.column("pixels", episode)]
    return columns


def encode_png(frame_HWC: Array) -> bytes:
    """A picture's bytes as a PNG, which is lossless."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(frame_HWC).save(buffer, format="PNG")
    return buffer.getvalue()


class VideoWriter:
    """Videos of one camera, with several episodes in each; a new file begins every FRAMES_A_FILE frames."""

    def __init__(self, root: Path, pictures: PictureFormat, fps: float) -> None:
        self.root, self.pictures, self.fps = root, pictures, Fraction(fps).limit_denominator(1001)
        self.file_index, self._frames = -1, 0
        self._container: Any = None

    def write(self, frames_THWC: Array) -> dict[str, Any]:
        """Appends an episode; returns its columns of meta/episodes."""
        if self._container is None or self._frames >= FRAMES_A_FILE:
            self.close()
            self._open_next(frames_THWC.shape[1:3])
        begin = self._frames
        for picture in frames_THWC:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts = self._frames
            self._container.mux(self._stream.encode(frame))
            self._frames += 1
        columns: dict[str, float] = {"chunk_index": 0, "file_index": self.file_index}
        columns |= {"from_timestamp": float(begin / self.fps), "to_timestamp": float(self._frames / self.fps)}
        return {f"videos/{CAMERA}/{name}": value for name, value in columns.items()}

    def _open_next(self, hw: tuple[int, int]) -> None:
        self.file_index, self._frames = self.file_index + 1, 0
        path = self.root / VIDEO_PATH.format(video_key=CAMERA, chunk_index=0, file_index=self.file_index)
        path.parent.mkdir(parents=True, exist_ok=True)
        encoder, pixel_format, _, options = CODECS[self.pictures]
        self._container = av.open(str(path), "w")
        self._stream = self._container.add_stream(encoder, rate=self.fps, options=options)
        self._stream.height, self._stream.width = hw
        self._stream.pix_fmt, self._stream.time_base = pixel_format, 1 / self.fps

    def close(self) -> None:
        """Ends the open file."""
        if self._container is not None:
            self._container.mux(self._stream.encode(None))
            self._container.close()
            self._container = None


def _measure_loss(reader: Reader, root: Path, length: int, fps: float) -> str:
    """How far the first episode's pictures are off in a lossy video."""
    file = inspect_video(root / VIDEO_PATH.format(video_key=CAMERA, **FILE))
    frames = reader.column("pixels", int(reader.episodes()[0]))
    decoded = decode_at_times(file, np.arange(length) / fps, frames.shape[1:3], "whole")
    off = np.abs(decoded.astype(np.int16) - frames)
    return f"pictures, which are {off.mean():.1f} of 255 off on average and {off.max()} at most (pictures=lossless)"


def _write_meta(reader: Reader, root: Path, pictures: PictureFormat, task: str, fps: float, frames: int) -> None:
    info, episodes = reader.info, reader.episodes().tolist()
    meta = {
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
        "video_path": None if pictures == IMAGES else VIDEO_PATH,
        "features": _describe_features(reader, pictures, fps),
    }
    facts = [
        {"split": reader.split(e), "seed": reader.seed(e), "factors": json.loads(encode_factors(reader, e))}
        for e in episodes
    ]
    for path, value in (
        (lerobot.INFO, meta),
        (lerobot.STATS, _compute_statistics(reader)),
        (lerobot.EXPORT_FILE, {"info": info.to_json(), "episodes": facts}),
    ):
        (root / path).write_text(json.dumps(value, indent=1), encoding="utf-8")
    arrow = import_pyarrow()
    tasks = arrow.table({"task_index": np.zeros(1, np.int64), "task": [task]})
    tasks = tasks.replace_schema_metadata({"pandas": json.dumps(_INDEXED_BY_TASK)})
    arrow.parquet.write_table(tasks, root / lerobot.TASKS)


def _describe_features(reader: Reader, pictures: PictureFormat, fps: float) -> dict[str, Any]:
    info = reader.info

    def feature(dtype: str, shape: tuple[int, ...], names: Any = None) -> dict[str, Any]:
        return {"dtype": dtype, "shape": list(shape) or [1], "names": names}

    features = {"action": feature("float32", (info.action_size,), list(info.action_names))}
    for column in list_number_columns(info):
        names = list(info.truth_names) if column.name == "truth" else None
        features[external_name(column.name)] = feature(column.dtype, column.shape, names)
    features[REWARD], features["next.done"] = feature("float32", ()), feature("bool", ())
    for name in lerobot.BOOKKEEPING:
        features[name] = feature("float32" if name == "timestamp" else "int64", ())
    dtype = "image" if pictures == IMAGES else "video"
    features[CAMERA] = feature(dtype, info.frame_hwc, ["height", "width", "channels"])
    if pictures != IMAGES:
        height, width, _ = info.frame_hwc
        video = {"height": height, "width": width, "codec": "h264", "pix_fmt": CODECS[pictures][2], "fps": fps}
        features[CAMERA]["info"] = {f"video.{k}": v for k, v in (video | {"channels": 3}).items()} | {
            "has_audio": False
        }
    return features


def _compute_statistics(reader: Reader) -> dict[str, Any]:
    """Mean, std and range of what policies read; pictures in 0..1, channels first."""
    episodes = reader.episodes().tolist()
    statistics: dict[str, Any] = {}
    for name in ("action", "truth", *(column.name for column in reader.info.extra)):
        rows = np.concatenate([reader.column(name, episode) for episode in episodes]).astype(np.float64)
        statistics["action" if name == "action" else external_name(name)] = _summarise(rows.reshape(len(rows), -1))
    some = episodes[:: -(-len(episodes) // STATISTICS_EPISODES)]
    pixels = np.concatenate([reader.column("pixels", episode).reshape(-1, 3) for episode in some]) / 255
    statistics[CAMERA] = {
        name: value if name == "count" else np.reshape(value, (3, 1, 1)).tolist()
        for name, value in _summarise(pixels).items()
    }
    return statistics


def _summarise(rows_ND: Array) -> dict[str, list[float]]:
    values = {name: getattr(rows_ND, name)(0).tolist() for name in ("min", "max", "mean", "std")}
    return values | {"count": [len(rows_ND)]}


# Metadata by which pandas takes the column `task` as the table's index, as LeRobot does.
_INDEXED_BY_TASK = {
    "index_columns": ["task"],
    "column_indexes": [],
    "columns": [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": stored, "metadata": None}
        for name, kind, stored in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
    ],
    "pandas_version": "2.2.0",
}
