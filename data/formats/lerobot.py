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

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pydantic

from data.checks import FileError, fill_template, parse_fields, read_json, resolve_inside
from data.formats import dataset, files
from data.formats.dataset import EXPORT_KEY, Array, DataSetInfo, ExternalEpisode, check_names
from data.formats.files import ExternalError
from data.formats.parquet import read_image, read_table, to_array
from data.pictures import Pictures, View, decode_picture
from data.video import VideoFile, decode_at_times, inspect_video

INFO, EPISODES, TASKS, STATS = "meta/info.json", "meta/episodes", "meta/tasks.parquet", "meta/stats.json"
EXPORT_FILE = f"meta/{EXPORT_KEY}.json"
CONVERTER = "LeRobot's convert_dataset_v21_to_v30 script"
BOOKKEEPING = ("timestamp", "frame_index", "episode_index", "index", "task_index")
REWARD, PROPRIO = "next.reward", "observation.state"
ENDS = ("next.done", "next.terminated", "next.truncated", "next.success")  # facts of the recording, no observation
NUMBERS = ("float32", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")
MAX_SPAN_DIFFERENCE = 1.5  # frames by which an episode's span of a video may differ from its rows
MAX_UNEVENNESS = 0.1  # steps by which the time between two frames may differ from the data set's rate
SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "eval", "eval": "eval"}
# Names of our columns in a data set that we write; others are jepa.NAME, so that no policy reads them as observations.
NAMES = {"proprio": PROPRIO, "truth": "observation.environment_state"}
CAMERA = "observation.images.camera"


def external_name(column: str) -> str:
    """The name of one of our columns in a data set that we write."""
    return NAMES.get(column, f"{EXPORT_KEY}.{column}")


Count = Annotated[int, pydantic.Field(ge=0, le=2**53)]


class Feature(pydantic.BaseModel):
    """A column of the data set. info, video_info: facts of a video."""

    dtype: str
    shape: tuple[Annotated[int, pydantic.Field(ge=1)], ...]
    names: Any = None
    info: dict[str, Any] | None = None
    video_info: dict[str, Any] | None = None

    @property
    def component_names(self) -> tuple[str, ...]:
        """Names of a vector's components: a list, or a list in a dictionary ({"motors": [...]})."""
        names = next(iter(self.names.values()), None) if isinstance(self.names, dict) else self.names
        return tuple(map(str, names)) if isinstance(names, list) else ()

    @property
    def is_depth(self) -> bool:
        """Whether the facts of its video say that it shows distances."""
        facts = {**(self.info or {}), **(self.video_info or {})}
        return any("is_depth_map" in name and value for name, value in facts.items())


class Info(pydantic.BaseModel):
    """meta/info.json."""

    codebase_version: str
    fps: dataset.Rate
    features: dict[str, Feature]
    data_path: str
    video_path: str | None = None
    robot_type: str | None = None
    splits: dict[str, Any] | None = None


class EpisodeRow(pydantic.BaseModel):
    """A row of meta/episodes."""

    episode_index: Count
    length: Annotated[int, pydantic.Field(ge=1, le=2**40)]
    data_chunk_index: Annotated[Count, pydantic.Field(alias="data/chunk_index")]
    data_file_index: Annotated[Count, pydantic.Field(alias="data/file_index")]


class VideoPlace(pydantic.BaseModel):
    """Where an episode's frames lie in the videos of a camera."""

    chunk_index: Count
    file_index: Count
    from_timestamp: Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)]
    to_timestamp: Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)]


class ExportedEpisode(pydantic.BaseModel):
    """Facts of an episode in a data set that we wrote."""

    split: str
    seed: int
    factors: dict[str, Any]


class Exported(pydantic.BaseModel):
    """EXPORT_FILE."""

    info: str
    episodes: list[ExportedEpisode]


class LeRobot(dataset.ExternalDataSet):
    """A data set's folder."""

    render_hint = "record it with a camera: a feature of dtype video or image"

    def __init__(self, path: Path) -> None:
        self.root, self.left_out = path, []
        self.meta = _read_info(path)
        self.fps, self.features = self.meta.fps, self.meta.features
        self._table: tuple[Path, Any] | None = None
        self._videos: dict[Path, VideoFile] = {}
        self._video_keys = [key for key, feature in self.features.items() if feature.dtype == "video"]
        self._format_path("data_path", chunk_index=0, file_index=0)
        if self._video_keys:
            self._format_path("video_path", video_key=self._video_keys[0], chunk_index=0, file_index=0)
        file = resolve_inside(path, EXPORT_FILE, path)
        exported = parse_fields(Exported, read_json(file), file) if file.is_file() else None
        self.info = self._describe(None if exported is None else exported.info)
        splits = _parse_splits(self.meta.splits)
        self.episodes = []
        for row in self._iterate_rows():
            facts: dict[str, Any] = {"split": _find_split(splits, row["episode_index"])}
            if exported is not None:
                if row["episode_index"] >= len(exported.episodes):
                    raise ExternalError(f"{file} has no episode {row['episode_index']}: copy the data set again")
                facts = dict(exported.episodes[row["episode_index"]])
            self.episodes.append(ExternalEpisode(path / f"episode_{row['episode_index']}", row, **facts))

    def _describe(self, exported: str | None) -> DataSetInfo:
        images, numbers = {}, {}
        for key, feature in self.features.items():
            shape = feature.shape
            if feature.dtype in ("video", "image") and not ("depth" in key or feature.is_depth):
                images[key] = shape  # as declared: `measure_pictures` decodes one
            elif feature.dtype in NUMBERS and len(shape) == 1 and key not in (*BOOKKEEPING, "action", REWARD, *ENDS):
                numbers[key] = () if shape == (1,) else shape
        return DataSetInfo(
            env=self.meta.robot_type or self.root.resolve().name,
            env_kwargs={},
            rate=self.fps,
            numbers=numbers,
            images=images,
            proprio=(PROPRIO,) if PROPRIO in numbers else (),
            names={key: self.features[key].component_names for key in (*numbers, "action")},
            unread=sorted(self.features.keys() - {*images, *numbers, *BOOKKEEPING, "action", REWARD}),
            store_info=dataset.parse_store_info(exported),
        )

    def _iterate_rows(self) -> Iterator[dict[str, Any]]:
        """The rows of meta/episodes, one an episode, without statistics. Those that cannot be are left out."""
        needed = ["episode_index", "length", "data/chunk_index", "data/file_index"]
        for key in self._video_keys:
            needed += [f"videos/{key}/{name}" for name in VideoPlace.model_fields]
        folder = resolve_inside(self.root, EPISODES, self.root / INFO)
        tables = files.list_files(folder, "*.parquet") if folder.is_dir() else []
        if not tables:
            raise ExternalError(f"{folder} holds no parquet file: copy the data set again")
        for file in tables:
            for number, row in enumerate(read_table(file, needed, needed).to_pylist()):
                where = f"{file} row {number}"
                try:
                    fields = parse_fields(EpisodeRow, row, where).model_dump(by_alias=True)
                    for key in self._video_keys:
                        place = {name: row[f"videos/{key}/{name}"] for name in VideoPlace.model_fields}
                        fields[key] = parse_fields(VideoPlace, place, f"{where}, videos/{key},")
                except FileError as error:
                    self.left_out.append(str(error))
                else:
                    yield fields

    def external_name(self, column: str) -> str:
        return external_name(column)

    def read_numbers(self, episode: ExternalEpisode, names: Sequence[str]) -> dict[str, Array]:
        table = self._read_frames(episode, ["action", "timestamp"])
        check_names(str(episode.name), names, table.column_names)
        where = str(episode.name)
        columns = {name: to_array(table[name], where, name) for name in names}
        if REWARD in table.column_names and self.info.store_info is None:
            columns["reward"] = to_array(table[REWARD], where, REWARD).reshape(-1)
        times_s = to_array(table["timestamp"], where, "timestamp").astype(np.float64).reshape(-1)
        if not np.isfinite(times_s).all():
            raise ExternalError(f"{where} has time stamps that are not finite numbers")
        steps_s = np.diff(times_s)
        if len(steps_s) and np.abs(steps_s * self.fps - 1).max() > MAX_UNEVENNESS:
            raise ExternalError(
                f"{episode.name} has mixed rates: frames {steps_s.min():.3g} to {steps_s.max():.3g} s apart, "
                f"where fps={self.fps:g} in {INFO}"
            )
        actions = to_array(table["action"], where, "action")[:-1]
        return columns | {"action": dataset.check_actions(where, actions, len(times_s))}

    def read_pictures(self, episode: ExternalEpisode, name: str, size_hw: tuple[int, int], view: View) -> Pictures:
        check_names(str(self.root), [name], self.info.images)
        if name not in self._video_keys:
            return self.decode_to_size(episode, name, self._iterate_images(episode, name), size_hw, view)
        place, video = episode.location[name], self._inspect_video(episode, name)
        span, length = (place.to_timestamp - place.from_timestamp) * self.fps, episode.location["length"]
        if abs(span - length) > MAX_SPAN_DIFFERENCE:
            raise ExternalError(f"{episode.name} has {length} rows, and {span:.1f} frames of {name} by its time stamps")
        begin_s = place.from_timestamp - video.start_s
        times_s = begin_s + np.arange(length) / self.fps
        if times_s[-1] > video.length_s + 1 / self.fps:
            raise ExternalError(f"{video.path} ends after {video.length_s:.2f} s, before {episode.name} does")
        return decode_at_times(video, times_s.clip(0), size_hw, view)

    def measure_episode(self, episode: ExternalEpisode, name: str) -> tuple[int, int]:
        if name in self._video_keys:
            return self._inspect_video(episode, name).frame_hw
        with self.name_episode(episode):
            first = next(self._iterate_images(episode, name))
            height, width, _ = decode_picture(first, name, self.add_note).shape
        return height, width

    def _inspect_video(self, episode: ExternalEpisode, name: str) -> VideoFile:
        index = episode.location[name].model_dump(include={"chunk_index", "file_index"})
        file = self._format_path("video_path", video_key=name, **index)
        if file not in self._videos:
            self._videos[file] = inspect_video(file)
        return self._videos[file]

    def _iterate_images(self, episode: ExternalEpisode, name: str) -> Iterator[bytes]:
        """The image files of an episode's frames."""
        for cell in self._read_frames(episode, [name])[name].to_pylist():
            yield read_image(cell, self.root, str(episode.name), name)

    def _read_frames(self, episode: ExternalEpisode, needed: Sequence[str]) -> Any:
        """The table of an episode's frames; the file read last is cached, because it holds the next episode, too."""
        row = episode.location
        file = self._format_path("data_path", **{key: row[f"data/{key}"] for key in ("chunk_index", "file_index")})
        if self._table is None or self._table[0] != file:
            self._table = (file, read_table(file, ["episode_index", "action", "timestamp"]))
        table = self._table[1]
        check_names(str(file), needed, table.column_names)
        numbers = to_array(table["episode_index"], str(file), "episode_index").reshape(-1)
        rows = np.flatnonzero(numbers == row["episode_index"])
        if len(rows) != row["length"]:
            raise ExternalError(f"{episode.name} has {len(rows)} rows in {file}, and {row['length']} in {EPISODES}")
        return table.take(rows)

    def _format_path(self, key: str, **values: str | int) -> Path:
        """The file that a path template of info.json gives. FileError if it lies outside the data set."""
        template, source = getattr(self.meta, key), self.root / INFO
        if not template:
            raise ExternalError(f"{source} has no {key}: copy the data set again")
        try:
            return resolve_inside(self.root, fill_template(template, values, source), f"{source}, {key},")
        except FileError as error:
            if "{episode_" not in template:
                raise
            raise ExternalError(
                f"{source} says codebase_version={self.meta.codebase_version}, and its {key}={template} is the layout "
                f"of v2.1, with a file for every episode: {CONVERTER} brings it to v3.0"
            ) from error


def _read_info(root: Path) -> Info:
    """meta/info.json; ExternalError for a version other than 3."""
    file = resolve_inside(root, INFO, root)
    if not file.is_file():
        raise ExternalError(f"path={root} is no LeRobot data set: there is no {INFO} in it")
    content = read_json(file)
    check_names(str(file), ("codebase_version", "fps", "features", "data_path"), content)
    version = str(content["codebase_version"])
    if not version.startswith("v3."):
        older = version.startswith(("v1", "v2"))
        mend = f"{CONVERTER} brings it to v3.0" if older else "v3 alone is read here"
        raise ExternalError(f"{file} says codebase_version={version}: {mend}")
    meta = parse_fields(Info, content, file)
    check_names(f"{file}, features,", ["action"], meta.features)
    return meta


def _parse_splits(spans: dict[str, Any] | None) -> list[tuple[range, str]]:
    """Ranges of episodes and their splits, from spans as {"train": "0:45"}; [] if there is only one split."""
    splits: list[tuple[range, str]] = []
    for name, span in (spans or {}).items():
        match = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})", str(span))
        if name in SPLIT_NAMES and match:
            splits.append((range(int(match[1]), int(match[2])), SPLIT_NAMES[name]))
    return splits if len({split for _, split in splits}) > 1 else []


def _find_split(splits: list[tuple[range, str]], episode: int) -> str | None:
    """The split of an episode; of ranges that overlap the last counts."""
    return next((split for episodes, split in reversed(splits) if episode in episodes), None)
