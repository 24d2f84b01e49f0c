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

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.formats.dataset import (
    EXPORT_KEY,
    Array,
    DataSetInfo,
    ExternalEpisode,
    ExternalError,
    check_actions,
    check_names,
    decode_picture,
    is_pictures,
    parse_store_info,
    resize_to_square,
)
from data.video import Pictures, VideoError, VideoFile, View, decode_at_times, inspect_video

INFO, EPISODES, TASKS, STATS = "meta/info.json", "meta/episodes", "meta/tasks.parquet", "meta/stats.json"
OWN_FILE = f"meta/{EXPORT_KEY}.json"
BOOKKEEPING = ("timestamp", "frame_index", "episode_index", "index", "task_index")
REWARD, PROPRIO = "next.reward", "observation.state"
NUMBERS = ("float32", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")
UNEVEN = 0.1  # of a step, by which a frame's time may differ from its place at the data set's rate
# What our columns are called there; others are jepa.NAME, so that no policy takes them for an observation.
NAMES = {"proprio": PROPRIO, "truth": "observation.environment_state"}
CAMERA = "observation.images.camera"


def external_name(column: str) -> str:
    """What one of our columns is called in a data set that we write."""
    return NAMES[column] if column in NAMES else f"{EXPORT_KEY}.{column}"


def import_pyarrow() -> Any:
    """pyarrow with its parquet module; an optional extra, and imported only here."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ExternalError("LeRobot's tables need pyarrow: pip install 'jepa-lab[lerobot]'") from error
    return pyarrow


def parquet() -> Any:
    """pyarrow's parquet module."""
    return import_pyarrow().parquet


class LeRobot:
    """A data set's folder."""

    render_hint = "record it with a camera: a feature of dtype video or image"

    def __init__(self, path: Path) -> None:
        self.root = path
        self.about = _read_info(path)
        self.features: dict[str, dict[str, Any]] = self.about["features"]
        self._tables: tuple[Path, Any] | None = None
        self._videos: dict[Path, VideoFile] = {}
        own = path / OWN_FILE
        ours = json.loads(own.read_text(encoding="utf-8")) if own.is_file() else None
        self.info = self._contents(None if ours is None else ours["info"])
        self._video_keys = [key for key, made in self.features.items() if made["dtype"] == "video"]
        splits = _parse_splits(self.about)
        self.episodes: Sequence[ExternalEpisode] = [
            self._episode(row, splits, None if ours is None else ours["episodes"]) for row in self._episode_rows()
        ]

    def _contents(self, own: str | None) -> DataSetInfo:
        images = {}
        for key, made in self.features.items():
            depth = "depth" in key or any("is_depth_map" in name and on for name, on in _infos(made))
            if made["dtype"] in ("video", "image") and not depth:
                images[key] = _order_hwc(made)
        numbers = {
            key: () if tuple(made["shape"]) == (1,) else tuple(made["shape"])
            for key, made in self.features.items()
            if made["dtype"] in NUMBERS and len(made["shape"]) == 1 and key not in (*BOOKKEEPING, "action", REWARD)
        }
        proprio = (PROPRIO,) if PROPRIO in numbers else ()
        used = {*images, *numbers, *BOOKKEEPING, "action", REWARD}
        robot = self.about["robot_type"] if "robot_type" in self.about else None
        env = str(robot or self.root.resolve().name)
        rest = ", ".join(sorted(self.features.keys() - used))
        names = {key: _read_names(self.features[key]) for key in (*numbers, "action")}
        rate = float(self.about["fps"])
        return DataSetInfo(
            env, {}, rate, numbers, images, proprio, names=names, unread=rest, store_info=parse_store_info(own)
        )

    def _episode_rows(self) -> Iterator[dict[str, Any]]:
        """What meta/episodes says of each, statistics left out."""
        needed = ["episode_index", "length", "data/chunk_index", "data/file_index"]
        for key in self._video_keys:
            needed += [f"videos/{key}/{name}" for name in ("chunk_index", "file_index", "from_timestamp")]
        files = sorted((self.root / EPISODES).glob("*/*.parquet"))
        if not files:
            raise ExternalError(f"{self.root / EPISODES} holds no parquet file: copy the data set again")
        for file in files:
            with explain_damage(file):
                there = parquet().read_schema(file).names
                check_names(str(file), needed, [name for name in there if not name.startswith("stats/")])
                yield from parquet().read_table(file, columns=needed).to_pylist()

    def _episode(self, row: dict[str, Any], splits: Mapping[int, str], ours: Any) -> ExternalEpisode:
        index = int(row["episode_index"])
        name = self.root / f"episode_{index}"
        if ours is None:
            return ExternalEpisode(name, row, splits[index] if index in splits else None)
        return ExternalEpisode(name, row, ours[index]["split"], ours[index]["seed"], ours[index]["factors"])

    def external_name(self, column: str) -> str:
        return external_name(column)

    def read_numbers(self, episode: ExternalEpisode, names: Sequence[str]) -> dict[str, Array]:
        table = self._rows(episode, ["action", "timestamp"])
        check_names(str(episode.name), names, table.column_names)
        found = {name: _to_array(table[name]) for name in names}
        if REWARD in table.column_names and self.info.store_info is None:
            found["reward"] = _to_array(table[REWARD]).reshape(-1)
        times_s = _to_array(table["timestamp"]).astype(np.float64).reshape(-1)
        assert self.info.rate is not None
        apart = np.diff(times_s) * self.info.rate
        if len(apart) and np.abs(apart - 1).max() > UNEVEN:
            raise ExternalError(
                f"{episode.name} has mixed rates: frames {apart.min() / self.info.rate:.3g} to "
                f"{apart.max() / self.info.rate:.3g} s apart, where fps={self.info.rate:g} in {INFO}"
            )
        actions = _to_array(table["action"])
        return found | {"action": check_actions(str(episode.name), actions[:-1], len(times_s))}

    def read_pictures(self, episode: ExternalEpisode, name: str, size_px: int, view: View) -> Pictures:
        check_names(str(self.root), [name], list(self.info.images))
        if name not in self._video_keys:
            cells = self._rows(episode, [name])[name].to_pylist()
            frames = [decode_picture(c["bytes"] or (self.root / c["path"]).read_bytes()) for c in cells]
            return resize_to_square(np.stack(frames), size_px, view)
        row = episode.location
        file = self.root / self._template("video_path").format(
            video_key=name,
            chunk_index=row[f"videos/{name}/chunk_index"],
            file_index=row[f"videos/{name}/file_index"],
        )
        try:
            if file not in self._videos:
                self._videos[file] = inspect_video(file)
            video = self._videos[file]
            begins_s = row[f"videos/{name}/from_timestamp"] - video.start_s
            times_s = begins_s + np.arange(row["length"]) / self.about["fps"]
            if times_s[-1] > video.length_s + 1 / self.about["fps"]:
                raise ExternalError(f"{file} ends after {video.length_s:.2f} s, before {episode.name} does")
            return decode_at_times(video, times_s.clip(0), (size_px, size_px), view)
        except VideoError as error:
            raise ExternalError(str(error)) from error

    def _rows(self, episode: ExternalEpisode, needed: Sequence[str]) -> Any:
        """The table of an episode's frames; the file last read is kept, for the next episode is in it."""
        row = episode.location
        file = self.root / self._template("data_path").format(
            chunk_index=row["data/chunk_index"], file_index=row["data/file_index"]
        )
        if self._tables is None or self._tables[0] != file:
            with explain_damage(file):
                check_names(str(file), ["episode_index", "action", "timestamp"], parquet().read_schema(file).names)
                self._tables = (file, parquet().read_table(file))
        table = self._tables[1]
        mine = np.flatnonzero(_to_array(table["episode_index"]).reshape(-1) == row["episode_index"])
        check_names(str(file), needed, table.column_names)
        if len(mine) != row["length"]:
            raise ExternalError(f"{episode.name} has {len(mine)} rows in {file}, and {row['length']} in {EPISODES}")
        return table.take(mine)

    def _template(self, key: str) -> str:
        if key not in self.about or not self.about[key]:
            raise ExternalError(f"{self.root / INFO} has no {key}: copy the data set again")
        return str(self.about[key])


def _read_info(root: Path) -> dict[str, Any]:
    """meta/info.json, of a version that is read."""
    file = root / INFO
    if not file.is_file():
        raise ExternalError(f"path={root} is no LeRobot data set: there is no {INFO} in it")
    try:
        about = dict(json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ExternalError(f"{file} is no JSON: copy the data set again") from error
    check_names(str(file), ("codebase_version", "fps", "features", "data_path"), list(about))
    version = str(about["codebase_version"])
    if not version.startswith("v3."):
        older = version.startswith(("v1", "v2"))
        mend = "LeRobot's convert_dataset_v21_to_v30 script brings it to v3.0" if older else "v3 alone is read here"
        raise ExternalError(f"{file} says codebase_version={version}: {mend}")
    check_names(f"{file}, features,", ["action"], list(about["features"]))
    return about


def _infos(made: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key in ("info", "video_info"):
        if key in made and made[key]:
            yield from made[key].items()


def _read_names(made: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of a vector's numbers: a list, or a list in a dictionary ({"motors": [...]})."""
    names = made["names"] if "names" in made else None
    if isinstance(names, dict):
        names = next(iter(names.values()), None)
    return tuple(str(name) for name in names) if isinstance(names, list) else ()


def _order_hwc(made: Mapping[str, Any]) -> tuple[int, ...]:
    """Of a picture: the shape may be written channels first."""
    shape = tuple(made["shape"])
    return shape if is_pictures((1, *shape), np.uint8) else (*shape[1:], shape[0])


def _parse_splits(about: Mapping[str, Any]) -> dict[int, str]:
    """Split of each episode where the data set parts them ("train": "0:45"); {} where all are train."""
    ours = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "eval", "eval": "eval"}
    splits = about["splits"] if "splits" in about and about["splits"] else {}
    found: dict[int, str] = {}
    for name, reach in splits.items():
        first, _, end = str(reach).partition(":")
        if name in ours and first.isdigit() and end.isdigit():
            found |= dict.fromkeys(range(int(first), int(end)), ours[name])
    return found if len(set(found.values())) > 1 else {}


class explain_damage:
    """What pyarrow raises of a damaged file becomes a ExternalError that names it."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __enter__(self) -> None:
        if not self.file.is_file():
            raise ExternalError(f"{self.file} is not there: copy the data set again")

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, OSError | ValueError) and not isinstance(error, ExternalError):
            raise ExternalError(f"{self.file} cannot be read as parquet, or is cut short: copy it again") from error


def _to_array(column: Any) -> Array:
    """A column of numbers, or of lists of equally many, as an array."""
    whole = column.combine_chunks()
    if hasattr(whole, "flatten") and "list" in str(whole.type):
        return np.asarray(whole.flatten().to_numpy(zero_copy_only=False)).reshape(len(whole), -1)
    return np.asarray(whole.to_numpy(zero_copy_only=False))
