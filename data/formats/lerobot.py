"""LeRobot's data sets, version 3: parquet tables and videos that hold many episodes each.

The layout, as docs/source/lerobot-dataset-v3.mdx and src/lerobot/datasets/{utils,dataset_metadata,dataset_reader,
io_utils}.py of huggingface/lerobot have it:

    meta/info.json        codebase_version v3.x, fps, features {NAME: dtype, shape, names}, data_path, video_path
    meta/episodes/chunk-000/file-000.parquet   a row an episode: episode_index, length, tasks, dataset_from_index,
                          data/{chunk,file}_index, videos/KEY/{chunk_index,file_index,from_timestamp,to_timestamp}
    meta/tasks.parquet, meta/stats.json
    data/chunk-000/file-000.parquet            a row a frame: action, observation.state, timestamp, episode_index, ...
    videos/KEY/chunk-000/file-000.mp4          frames of one camera; an episode's begin at from_timestamp

A feature of dtype `video` is in the videos, one of dtype `image` in the table as {bytes, path}. Row t has observation t
and the action that leaves it; an episode's last action leads nowhere. `data.formats.lerobot_writer` writes one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.formats import dataset
from data.formats.dataset import EXPORT_KEY, Array, DataSetInfo, ExternalEpisode, ExternalError, check_names
from data.pictures import Pictures, View, decode_picture
from data.video import VideoFile, decode_at_times, inspect_video

INFO, EPISODES, TASKS, STATS = "meta/info.json", "meta/episodes", "meta/tasks.parquet", "meta/stats.json"
EXPORT_FILE = f"meta/{EXPORT_KEY}.json"
BOOKKEEPING = ("timestamp", "frame_index", "episode_index", "index", "task_index")
REWARD, PROPRIO = "next.reward", "observation.state"
NUMBERS = ("float32", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")
MAX_UNEVENNESS = 0.1  # steps by which the time between two frames may differ from the data set's rate
SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "eval", "eval": "eval"}
# Names of our columns in a data set that we write; others are jepa.NAME, so that no policy reads them as observations.
NAMES = {"proprio": PROPRIO, "truth": "observation.environment_state"}
CAMERA = "observation.images.camera"


def external_name(column: str) -> str:
    """The name of one of our columns in a data set that we write."""
    return NAMES.get(column, f"{EXPORT_KEY}.{column}")


def import_pyarrow() -> Any:
    """pyarrow with its parquet module; an optional extra, and imported only here."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ExternalError("LeRobot's tables need pyarrow: pip install 'jepa-lab[lerobot]'") from error
    return pyarrow


class LeRobot(dataset.ExternalDataSet):
    """A data set's folder."""

    render_hint = "record it with a camera: a feature of dtype video or image"

    def __init__(self, path: Path) -> None:
        self.root = path
        self.meta = _read_info(path)
        self.fps = float(self.meta["fps"])
        self.features: dict[str, dict[str, Any]] = self.meta["features"]
        self._table: tuple[Path, Any] | None = None
        self._videos: dict[Path, VideoFile] = {}
        self._video_keys = [key for key, feature in self.features.items() if feature["dtype"] == "video"]
        exported = dataset.read_json(path / EXPORT_FILE) if (path / EXPORT_FILE).is_file() else {}
        self.info = self._describe(exported.get("info"))
        splits = _parse_splits(self.meta)
        self.episodes = []
        for row in self._iterate_rows():
            index = int(row["episode_index"])
            facts = exported["episodes"][index] if exported else {"split": splits.get(index)}
            self.episodes.append(ExternalEpisode(path / f"episode_{index}", row, **facts))

    def _describe(self, exported: str | None) -> DataSetInfo:
        images, numbers = {}, {}
        for key, feature in self.features.items():
            shape = tuple(feature["shape"])
            if feature["dtype"] in ("video", "image") and not _is_depth(key, feature):
                images[key] = shape  # as declared: `measure_pictures` decodes one
            elif feature["dtype"] in NUMBERS and len(shape) == 1 and key not in (*BOOKKEEPING, "action", REWARD):
                numbers[key] = () if shape == (1,) else shape
        return DataSetInfo(
            env=str(self.meta.get("robot_type") or self.root.resolve().name),
            env_kwargs={},
            rate=self.fps,
            numbers=numbers,
            images=images,
            proprio=(PROPRIO,) if PROPRIO in numbers else (),
            names={key: _read_names(self.features[key]) for key in (*numbers, "action")},
            unread=sorted(self.features.keys() - {*images, *numbers, *BOOKKEEPING, "action", REWARD}),
            store_info=dataset.parse_store_info(exported),
        )

    def _iterate_rows(self) -> Iterator[dict[str, Any]]:
        """The rows of meta/episodes, one an episode, without statistics."""
        needed = ["episode_index", "length", "data/chunk_index", "data/file_index"]
        for key in self._video_keys:
            needed += [f"videos/{key}/{name}" for name in ("chunk_index", "file_index", "from_timestamp")]
        files = sorted((self.root / EPISODES).glob("*/*.parquet"))
        if not files:
            raise ExternalError(f"{self.root / EPISODES} holds no parquet file: copy the data set again")
        for file in files:
            yield from _read_table(file, needed, needed).to_pylist()

    def external_name(self, column: str) -> str:
        return external_name(column)

    def read_numbers(self, episode: ExternalEpisode, names: Sequence[str]) -> dict[str, Array]:
        table = self._read_frames(episode, ["action", "timestamp"])
        check_names(str(episode.name), names, table.column_names)
        columns = {name: _to_array(table[name]) for name in names}
        if REWARD in table.column_names and self.info.store_info is None:
            columns["reward"] = _to_array(table[REWARD]).reshape(-1)
        times_s = _to_array(table["timestamp"]).astype(np.float64).reshape(-1)
        steps_s = np.diff(times_s)
        if len(steps_s) and np.abs(steps_s * self.fps - 1).max() > MAX_UNEVENNESS:
            raise ExternalError(
                f"{episode.name} has mixed rates: frames {steps_s.min():.3g} to {steps_s.max():.3g} s apart, "
                f"where fps={self.fps:g} in {INFO}"
            )
        actions = _to_array(table["action"])[:-1]
        return columns | {"action": dataset.check_actions(str(episode.name), actions, len(times_s))}

    def read_pictures(self, episode: ExternalEpisode, name: str, size_px: int, view: View) -> Pictures:
        check_names(str(self.root), [name], self.info.images)
        if name not in self._video_keys:
            return self.decode_to_squares(episode, name, self._iterate_images(episode, name), size_px, view)
        row, video = episode.location, self._inspect_video(episode, name)
        begin_s = row[f"videos/{name}/from_timestamp"] - video.start_s
        times_s = begin_s + np.arange(row["length"]) / self.fps
        if times_s[-1] > video.length_s + 1 / self.fps:
            raise ExternalError(f"{video.path} ends after {video.length_s:.2f} s, before {episode.name} does")
        return decode_at_times(video, times_s.clip(0), (size_px, size_px), view)

    def measure_episode(self, episode: ExternalEpisode, name: str) -> tuple[int, int]:
        if name in self._video_keys:
            return self._inspect_video(episode, name).frame_hw
        with self.name_episode(episode):
            first = next(self._iterate_images(episode, name))
            height, width, _ = decode_picture(first, name, self.add_note).shape
        return height, width

    def _inspect_video(self, episode: ExternalEpisode, name: str) -> VideoFile:
        index = {key: episode.location[f"videos/{name}/{key}"] for key in ("chunk_index", "file_index")}
        file = self._format_path("video_path", video_key=name, **index)
        if file not in self._videos:
            self._videos[file] = inspect_video(file)
        return self._videos[file]

    def _iterate_images(self, episode: ExternalEpisode, name: str) -> Iterator[bytes]:
        """The image files of an episode's frames."""
        for cell in self._read_frames(episode, [name])[name].to_pylist():
            yield cell["bytes"] or (self.root / cell["path"]).read_bytes()

    def _read_frames(self, episode: ExternalEpisode, needed: Sequence[str]) -> Any:
        """The table of an episode's frames; the file read last is cached, because it holds the next episode, too."""
        row = episode.location
        index = {key: row[f"data/{key}"] for key in ("chunk_index", "file_index")}
        file = self._format_path("data_path", **index)
        if self._table is None or self._table[0] != file:
            self._table = (file, _read_table(file, ["episode_index", "action", "timestamp"]))
        table = self._table[1]
        check_names(str(file), needed, table.column_names)
        rows = np.flatnonzero(_to_array(table["episode_index"]).reshape(-1) == row["episode_index"])
        if len(rows) != row["length"]:
            raise ExternalError(f"{episode.name} has {len(rows)} rows in {file}, and {row['length']} in {EPISODES}")
        return table.take(rows)

    def _format_path(self, key: str, **values: Any) -> Path:
        if not self.meta.get(key):
            raise ExternalError(f"{self.root / INFO} has no {key}: copy the data set again")
        return self.root / self.meta[key].format(**values)


def _read_info(root: Path) -> dict[str, Any]:
    """meta/info.json; ExternalError for a version other than 3."""
    file = root / INFO
    if not file.is_file():
        raise ExternalError(f"path={root} is no LeRobot data set: there is no {INFO} in it")
    meta = dataset.read_json(file)
    check_names(str(file), ("codebase_version", "fps", "features", "data_path"), meta)
    version = str(meta["codebase_version"])
    if not version.startswith("v3."):
        older = version.startswith(("v1", "v2"))
        mend = "LeRobot's convert_dataset_v21_to_v30 script brings it to v3.0" if older else "v3 alone is read here"
        raise ExternalError(f"{file} says codebase_version={version}: {mend}")
    check_names(f"{file}, features,", ["action"], meta["features"])
    return meta


def _is_depth(key: str, feature: Mapping[str, Any]) -> bool:
    marks = {**(feature.get("info") or {}), **(feature.get("video_info") or {})}
    return "depth" in key or any("is_depth_map" in name and value for name, value in marks.items())


def _read_names(feature: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of a vector's components: a list, or a list in a dictionary ({"motors": [...]})."""
    names = feature.get("names")
    if isinstance(names, dict):
        names = next(iter(names.values()), None)
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _parse_splits(meta: Mapping[str, Any]) -> dict[int, str]:
    """Split of each episode, from ranges as {"train": "0:45"}; {} if there is only one split."""
    splits: dict[int, str] = {}
    for name, span in (meta.get("splits") or {}).items():
        first, _, end = str(span).partition(":")
        if name in SPLIT_NAMES and first.isdigit() and end.isdigit():
            splits |= dict.fromkeys(range(int(first), int(end)), SPLIT_NAMES[name])
    return splits if len(set(splits.values())) > 1 else {}


def _read_table(file: Path, needed: Sequence[str], columns: list[str] | None = None) -> Any:
    """A parquet file's table; ExternalError if it is missing or damaged, or lacks a needed column."""
    if not file.is_file():
        raise ExternalError(f"{file} is not there: copy the data set again")
    parquet = import_pyarrow().parquet
    with dataset.explain_damage(file, "parquet", OSError, ValueError):
        names = parquet.read_schema(file).names
        check_names(str(file), needed, [name for name in names if not name.startswith("stats/")])
        return parquet.read_table(file, columns=columns)


def _to_array(column: Any) -> Array:
    """A column of numbers, or of lists of one length, as an array."""
    cells = column.combine_chunks()
    if hasattr(cells, "flatten") and "list" in str(cells.type):
        return np.asarray(cells.flatten().to_numpy(zero_copy_only=False)).reshape(len(cells), -1)
    return np.asarray(cells.to_numpy(zero_copy_only=False))
