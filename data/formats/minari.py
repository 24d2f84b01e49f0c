"""Minari's HDF5 data sets (Farama Foundation).

The layout, as docs/content/dataset_standards.md and minari/dataset/{minari_storage,_storages/hdf5_storage}.py of
Farama-Foundation/Minari (0.5.4) have it; an episode of T steps:

    DATASET/data/metadata.json    total_episodes, data_format, observation_space, action_space (JSON in a string),
                                  env_spec, eval_env_spec (Gymnasium's, JSON in a string), requirements,
                                  dataset_id, jpeg_encoding, ...
    DATASET/data/main_data.hdf5   groups episode_0, ...: attributes id, seed, total_steps
        observations              [T+1,...], or a group of such for a Dict space (a Tuple's are _index_0, ...)
        actions                   [T,...]
        rewards, terminations, truncations  [T]
        infos/...                 [T+1,...], where they were recorded

Pictures of at least 32 x 32 are JPEGs there (rows of bytes) unless jpeg_encoding is false, which ours is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import h5py
import numpy as np
import pydantic

from data.checks import parse_fields, parse_json, read_json, resolve_inside
from data.formats import dataset, files
from data.formats.dataset import EXPORT_KEY, Array, DataSetInfo, ExternalEpisode, check_names
from data.formats.files import ExternalError, get_item, open_hdf5
from data.hdf5 import read_attributes
from data.pictures import Pictures, View, decode_picture, is_pictures, looks_like_pictures
from data.schema import NO_SEED, SPLITS
from data.store import Reader

META, MAIN, FOLDER = "metadata.json", "main_data.hdf5", "data"
OBSERVATIONS, INFOS = "observations", "infos"
TIME = "time_s"  # the one column that our exports have among the infos
SPLIT, FACTORS = "split", "factors"  # attributes of an episode in our exports
DEEPEST = 32  # groups within one another that are followed


class Space(pydantic.BaseModel):
    """A space of Gymnasium, as Minari writes it. low, high: of a Box."""

    dtype: str | None = None
    shape: tuple[Annotated[int, pydantic.Field(ge=0)], ...] | None = None
    low: Any = None
    high: Any = None
    subspaces: dict[str, Space] | list[Space] | None = None

    @pydantic.field_validator("dtype")
    @classmethod
    def _check_dtype(cls, value: str | None) -> str | None:
        try:
            np.dtype(value)
        except TypeError as error:
            raise ValueError("it is no type of numpy") from error
        return value


class EnvSpec(pydantic.BaseModel):
    """Gymnasium's specification of an environment."""

    id: str
    kwargs: dict[str, Any] = {}


def _parse_text(value: Any) -> Any:
    """Minari keeps some JSON objects as text within JSON."""
    return parse_json(value, "its text") if isinstance(value, str) else value


class Metadata(pydantic.BaseModel):
    """metadata.json."""

    data_format: str = "hdf5"
    dataset_id: str | None = None
    observation_space: Annotated[Space, pydantic.BeforeValidator(_parse_text)] = Space()
    action_space: Annotated[Space, pydantic.BeforeValidator(_parse_text)] = Space()
    env_spec: Annotated[EnvSpec | None, pydantic.BeforeValidator(_parse_text)] = None
    jepa: str | None = None  # EXPORT_KEY


class Minari(dataset.ExternalDataSet):
    """One data set: its folder, the `data` folder in it, or a folder above."""

    render_hint = (
        "record it with pictures: an observation or an info that holds the rendered frame (Gymnasium's "
        "AddRenderObservation below minari.DataCollector)"
    )

    def __init__(self, path: Path) -> None:
        self.folder = _find_folder(path)
        self.meta = _read_metadata(self.folder / META)
        self.file = resolve_inside(self.folder, MAIN, self.folder / META)
        if not self.file.is_file():
            raise ExternalError(f"{self.file} is not there, though {META} is: copy the data set again")
        self._spaces = dict(_iterate_spaces(self.meta.observation_space, OBSERVATIONS))
        self.episodes = []
        with open_hdf5(self.file) as file:
            names, self.left_out = files.sort_numbered(file, "episode_", self.file)
            for name in names:
                try:
                    self.episodes.append(self._read_episode(name, get_item(file, name, h5py.Group, str(self.file))))
                except (ValueError, OSError) as error:
                    self.left_out.append(str(error))
        if not self.episodes:
            raise ExternalError("; ".join([f"{self.file} holds no episode (episode_0, ...)", *self.left_out[:1]]))
        self.info = self.describe_first(self._describe_episode)

    def _read_episode(self, name: str, group: h5py.Group) -> ExternalEpisode:
        facts = parse_fields(files.EpisodeFacts, read_attributes(group), f"{self.file} {name}")
        split = facts.split if facts.split in SPLITS else None
        return ExternalEpisode(self.folder / name, name, split, facts.seed, facts.factors if split else {})

    def _describe_episode(self, episode: ExternalEpisode) -> DataSetInfo:
        with open_hdf5(self.file) as file:
            return self._describe(episode.location, get_item(file, episode.location, h5py.Group, str(self.file)))

    def _describe(self, name: str, group: h5py.Group) -> DataSetInfo:
        check_names(f"{self.file} {name}", (OBSERVATIONS, "actions"), group)
        arrays = _list_arrays(group)
        images = {}
        for key, data in arrays.items():
            if self._is_jpeg(key, data):
                images[key] = tuple(self._spaces[key].shape or ())
            elif data.shape and is_pictures(data.shape, data.dtype):
                images[key] = data.shape[1:]
        actions = get_item(group, "actions", h5py.Dataset, f"{self.file} {name}")
        frames = len(actions) + 1 if actions.shape else 0
        numbers = dataset.select_numbers(
            {key: data for key, data in arrays.items() if key not in images and data.shape and len(data) == frames}
        )
        spec = self.meta.env_spec
        return DataSetInfo(
            env=self.meta.dataset_id or self.folder.parent.name if spec is None else spec.id,
            env_kwargs={} if spec is None else spec.kwargs,
            rate=None,
            numbers=numbers,
            images=images,
            bounds=self._read_bounds(),
            unread=sorted(arrays.keys() - images.keys() - numbers.keys()),
            store_info=dataset.parse_store_info(self.meta.jepa),
            refused=dataset.refuse_pictures({key: data for key, data in arrays.items() if key not in images}),
        )

    def _read_bounds(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Low and high of the actions; None where the space is no Box or has no bounds."""
        space, where = self.meta.action_space, f"{self.folder / META} action_space"
        if space.low is None or space.high is None:
            return None
        try:
            low, high = (np.asarray(side, np.float64).reshape(-1) for side in (space.low, space.high))
        except (TypeError, ValueError) as error:
            raise ExternalError(f"{where} has bounds that are no numbers ({error})") from error
        if np.isinf(low).any() or np.isinf(high).any():
            return None
        if len(low) != len(high) or not (low < high).all():  # false for nan, too
            raise ExternalError(f"{where} has low={low.tolist()} and high={high.tolist()}: low must lie below high")
        return tuple(low.tolist()), tuple(high.tolist())

    def _is_jpeg(self, key: str, data: h5py.Dataset) -> bool:
        """Whether the space of an array is one of pictures and its rows have another shape."""
        space = self._spaces.get(key, Space())
        if space.shape is None or space.dtype is None or not data.shape:
            return False
        return looks_like_pictures((1, *space.shape), space.dtype) and data.shape[1:] != space.shape

    def external_name(self, column: str) -> str:
        return f"{INFOS if column == TIME else OBSERVATIONS}/{column}"

    def read_numbers(self, episode: ExternalEpisode, names: Sequence[str]) -> dict[str, Array]:
        with open_hdf5(self.file) as file:
            where = f"{self.file} {episode.location}"
            group = get_item(file, episode.location, h5py.Group, str(self.file))
            check_names(where, (OBSERVATIONS, "actions"), group)
            arrays = _list_arrays(group)
            check_names(where, names, arrays)
            if isinstance(parts := group.get("actions"), h5py.Group):
                raise ExternalError(f"{where} has actions in parts ({', '.join(parts)}): one array is needed")
            recorded = files.read_rows(get_item(group, "actions", h5py.Dataset, where), f"{where} actions")
            shapes = [array.shape for array in arrays.values() if array.shape]
            actions = dataset.check_actions(where, recorded, shapes[0][0] if shapes else 0)
            columns = {"action": actions} | {n: files.read_rows(arrays[n], f"{where} {n}") for n in names}
            if "rewards" in group and self.info.store_info is None:
                rewards = files.read_rows(get_item(group, "rewards", h5py.Dataset, where), f"{where} rewards")
                dataset.check_rows(where, "rewards", rewards, len(actions), ())
                columns["reward"] = np.append(rewards.astype(np.float32), np.float32(np.nan))
            ends = {name: group[name] for name in dataset.ENDS if name in group} | arrays
            flags = {n: files.read_rows(d, f"{where} {n}") for n, d in ends.items() if dataset.is_end(n)}
        dataset.check_ends(where, flags, len(actions) + 1)
        return columns

    def read_pictures(self, episode: ExternalEpisode, name: str, size_hw: tuple[int, int], view: View) -> Pictures:
        where = f"{self.file} {episode.location}"
        with open_hdf5(self.file) as file:
            arrays = _list_arrays(get_item(file, episode.location, h5py.Group, str(self.file)))
            check_names(where, [name], arrays)
            rows, jpeg = files.read_rows(arrays[name], f"{where} {name}"), self._is_jpeg(name, arrays[name])
        if not len(rows):
            raise ExternalError(f"{where} has no row of {name}")
        if jpeg:
            return self.decode_to_size(episode, name, rows, size_hw, view)
        return self.convert_to_size(episode, name, rows, size_hw, view)

    def measure_episode(self, episode: ExternalEpisode, name: str) -> tuple[int, int]:
        where = f"{self.file} {episode.location}"
        with open_hdf5(self.file) as file, self.name_episode(episode):
            arrays = _list_arrays(get_item(file, episode.location, h5py.Group, str(self.file)))
            check_names(where, [name], arrays)
            if not self._is_jpeg(name, arrays[name]):
                return super().measure_episode(episode, name)
            if not len(arrays[name]):
                raise ExternalError(f"{where} has no row of {name}")
            height, width, _ = decode_picture(bytes(arrays[name][0]), name, self.add_note).shape
            return height, width


def _find_folder(path: Path) -> Path:
    """The folder with metadata.json; ExternalError unless there is exactly one."""
    if not path.is_dir():
        raise ExternalError(f"path={path} is no folder: give that of a Minari data set (it has data/{META} in it)")
    folders = [file.parent for file in files.list_files(path, META)]
    if len(folders) != 1:
        content = f"{len(folders)} data sets ({', '.join(map(str, folders[:3]))})" if folders else f"no {META}"
        raise ExternalError(f"{path} holds {content}: give path= the folder of one Minari data set")
    return folders[0]


def _read_metadata(file: Path) -> Metadata:
    meta = parse_fields(Metadata, read_json(file), file)
    if meta.data_format != "hdf5":
        raise ExternalError(
            f"{file} says data_format={meta.data_format}, and hdf5 alone is read: write it again with "
            "minari.create_dataset_from_buffers(..., data_format='hdf5')"
        )
    return meta


def _iterate_spaces(space: Space, name: str) -> Iterator[tuple[str, Space]]:
    """The leaves of a space by the names of their arrays."""
    children = space.subspaces
    if children is None:
        yield name, space
        return
    pairs = children.items() if isinstance(children, dict) else ((f"_index_{k}", c) for k, c in enumerate(children))
    for key, child in pairs:
        yield from _iterate_spaces(child, f"{name}/{key}")


def _list_arrays(group: h5py.Group) -> dict[str, h5py.Dataset]:
    """Arrays of an episode with a row for every frame: its observations, then its infos."""

    def walk(node: Any, name: str) -> Iterator[tuple[str, h5py.Dataset]]:
        if isinstance(node, h5py.Dataset):
            yield name, node
        elif isinstance(node, h5py.Group):
            if name.count("/") > DEEPEST:
                place = f"{group.file.filename} {group.name.strip('/')}"
                raise ExternalError(f"{place} has groups within groups without end ({name[:40]}...)")
            for key in node:
                yield from walk(node.get(key), f"{name}/{key}")

    return dict(pair for name in (OBSERVATIONS, INFOS) if name in group for pair in walk(group[name], name))


def write_minari(reader: Reader, path: Path, facts: Mapping[str, Any], progress: Callable[[], None]) -> str:
    """Our episodes as a Minari data set in the folder; returns what the format loses, for the user.

    facts: of the environment, for metadata.json.
    """
    folder = path / FOLDER
    folder.mkdir(parents=True)
    info, episodes = reader.info, reader.episodes().tolist()
    spaces = {"pixels": _make_box(info.frame_hwc, "uint8", 0, 255)}
    for column in dataset.list_number_columns(info):
        if column.name != TIME:
            spaces[column.name] = _make_box(column.shape, column.dtype, -np.inf, np.inf)
    with h5py.File(folder / MAIN, "w", track_order=True) as file:
        for number, episode in enumerate(episodes):
            _write_episode(file.create_group(f"episode_{number}"), reader, number, episode)
            progress()
    action = _make_box((info.action_size,), "float32", info.action_low, info.action_high)
    meta = {
        "dataset_id": path.name,
        "total_episodes": len(episodes),
        "total_steps": int(reader.lengths(reader.episodes()).sum()) - len(episodes),
        "data_format": "hdf5",
        "jpeg_encoding": False,
        "observation_space": json.dumps({"type": "Dict", "subspaces": spaces}),
        "action_space": json.dumps(action),
        "dataset_size": round((folder / MAIN).stat().st_size / 1e6, 1),
        "minari_version": "0.5.4",
        EXPORT_KEY: info.to_json(),
        **facts,
    }
    (folder / META).write_text(json.dumps(meta, indent=1), encoding="utf-8")
    return ""


def _make_box(shape: Sequence[int], dtype: str, low: Any, high: Any) -> dict[str, Any]:
    bounds = {key: np.broadcast_to(np.asarray(v), shape).tolist() for key, v in (("low", low), ("high", high))}
    return {"type": "Box", "dtype": dtype, "shape": list(shape), **bounds}


def _write_episode(group: h5py.Group, reader: Reader, number: int, episode: int) -> None:
    steps = reader.num_frames(episode) - 1
    group.attrs.update({"id": number, "total_steps": steps})
    if reader.seed(episode) != NO_SEED:
        group.attrs["seed"] = reader.seed(episode)
    group.attrs.update({SPLIT: reader.split(episode), FACTORS: dataset.encode_factors(reader, episode)})
    dataset.write_frames(group, f"{OBSERVATIONS}/pixels", reader.column("pixels", episode))
    for column in dataset.list_number_columns(reader.info):
        group[f"{INFOS if column.name == TIME else OBSERVATIONS}/{column.name}"] = reader.column(column.name, episode)
    group["actions"], group["rewards"] = reader.column("action", episode), dataset.read_rewards(reader, episode)
    group["terminations"] = np.zeros(steps, bool)
    group["truncations"] = np.arange(steps) == steps - 1
