"""Minari's HDF5 data sets (Farama Foundation).

The layout, as docs/content/dataset_standards.md and minari/dataset/{minari_storage,_storages/hdf5_storage}.py of
Farama-Foundation/Minari (0.5.4) have it; an episode of T steps:

    DATASET/data/metadata.json    total_episodes, data_format, observation_space, action_space (JSON in a string),
                                  env_spec (Gymnasium's, JSON in a string), dataset_id, jpeg_encoding, ...
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
from typing import Any

import h5py
import numpy as np

from data.formats import dataset
from data.formats.dataset import EXPORT_KEY, Array, DataSetInfo, ExternalEpisode, ExternalError, check_names, open_hdf5
from data.pictures import Pictures, View, decode_picture, is_pictures, looks_like_pictures
from data.schema import NO_SEED, SPLITS
from data.store import Reader

META, MAIN, FOLDER = "metadata.json", "main_data.hdf5", "data"
OBSERVATIONS, INFOS = "observations", "infos"
TIME = "time_s"  # the one column that our exports have among the infos
SPLIT, FACTORS = "split", "factors"  # attributes of an episode in our exports


class Minari(dataset.ExternalDataSet):
    """One data set: its folder, the `data` folder in it, or a folder above."""

    render_hint = (
        "record it with pictures: an observation or an info that holds the rendered frame (Gymnasium's "
        "AddRenderObservation below minari.DataCollector)"
    )

    def __init__(self, path: Path) -> None:
        self.folder = _find_folder(path)
        self.meta = _read_metadata(self.folder / META)
        self.file = self.folder / MAIN
        if not self.file.is_file():
            raise ExternalError(f"{self.file} is not there, though {META} is: copy the data set again")
        self._spaces = dict(_iterate_spaces(self._parse_space("observation_space"), OBSERVATIONS))
        with open_hdf5(self.file) as file:
            names = sorted((name for name in file if name.startswith("episode_")), key=lambda name: int(name[8:]))
            if not names:
                raise ExternalError(f"{self.file} holds no episode (episode_0, ...)")
            self.episodes = [self._read_episode(name, file[name].attrs) for name in names]
            self.info = self._describe(names[0], file[names[0]])

    def _parse_space(self, key: str) -> dict[str, Any]:
        text = self.meta.get(key, "{}")
        return dict(json.loads(text) if isinstance(text, str) else text)

    def _read_episode(self, name: str, attrs: h5py.AttributeManager) -> ExternalEpisode:
        split = attrs[SPLIT] if attrs.get(SPLIT) in SPLITS else None
        factors = json.loads(attrs[FACTORS]) if FACTORS in attrs and split else {}
        return ExternalEpisode(self.folder / name, name, split, int(attrs.get("seed", NO_SEED)), factors)

    def _describe(self, name: str, group: h5py.Group) -> DataSetInfo:
        check_names(f"{self.file} {name}", (OBSERVATIONS, "actions"), group)
        arrays = _list_arrays(group)
        images = {}
        for key, data in arrays.items():
            if self._is_jpeg(key, data):
                images[key] = tuple(self._spaces[key]["shape"])
            elif is_pictures(data.shape, data.dtype):
                images[key] = data.shape[1:]
        frames = len(group["actions"]) + 1
        numbers = dataset.select_numbers(
            {key: data for key, data in arrays.items() if key not in images and len(data) == frames}
        )
        env, kwargs = self.meta.get("dataset_id", self.folder.parent.name), {}
        if "env_spec" in self.meta:
            spec = json.loads(self.meta["env_spec"])
            env, kwargs = spec["id"], spec.get("kwargs", {})
        return DataSetInfo(
            env=str(env),
            env_kwargs=kwargs,
            rate=None,
            numbers=numbers,
            images=images,
            bounds=self._read_bounds(),
            unread=sorted(arrays.keys() - images.keys() - numbers.keys()),
            store_info=dataset.parse_store_info(self.meta.get(EXPORT_KEY)),
            refused=dataset.refuse_pictures({key: data for key, data in arrays.items() if key not in images}),
        )

    def _read_bounds(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        space = self._parse_space("action_space")
        if not {"low", "high"} <= space.keys():
            return None
        low, high = (np.asarray(space[key], np.float64).reshape(-1) for key in ("low", "high"))
        return (tuple(low), tuple(high)) if np.isfinite([low, high]).all() else None

    def _is_jpeg(self, key: str, data: h5py.Dataset) -> bool:
        """Whether the space of an array is one of pictures and its rows have another shape."""
        space = self._spaces.get(key, {})
        if not {"shape", "dtype"} <= space.keys():
            return False
        return looks_like_pictures((1, *space["shape"]), space["dtype"]) and data.shape[1:] != tuple(space["shape"])

    def external_name(self, column: str) -> str:
        return f"{INFOS if column == TIME else OBSERVATIONS}/{column}"

    def read_numbers(self, episode: ExternalEpisode, names: Sequence[str]) -> dict[str, Array]:
        with open_hdf5(self.file) as file:
            group, where = file[episode.location], f"{self.file} {episode.location}"
            check_names(where, (OBSERVATIONS, "actions"), group)
            arrays = _list_arrays(group)
            check_names(where, names, arrays)
            if not isinstance(group["actions"], h5py.Dataset):
                raise ExternalError(
                    f"{where} has actions in parts ({', '.join(group['actions'])}): one array is needed"
                )
            actions = dataset.check_actions(where, group["actions"], len(next(iter(arrays.values()))))
            columns = {"action": actions} | {name: np.asarray(arrays[name]) for name in names}
            if "rewards" in group and self.info.store_info is None:
                columns["reward"] = np.append(np.asarray(group["rewards"], np.float32), np.float32(np.nan))
        return columns

    def read_pictures(self, episode: ExternalEpisode, name: str, size_px: int, view: View) -> Pictures:
        with open_hdf5(self.file) as file:
            arrays = _list_arrays(file[episode.location])
            check_names(f"{self.file} {episode.location}", [name], arrays)
            data = arrays[name]
            if self._is_jpeg(name, data):
                return self.decode_to_squares(episode, name, data, size_px, view)
            return self.convert_to_squares(episode, name, np.asarray(data), size_px, view)

    def measure_episode(self, episode: ExternalEpisode, name: str) -> tuple[int, int]:
        with open_hdf5(self.file) as file, self.name_episode(episode):
            data = _list_arrays(file[episode.location])[name]
            if not self._is_jpeg(name, data):
                return super().measure_episode(episode, name)
            height, width, _ = decode_picture(bytes(data[0]), name, self.add_note).shape
            return height, width


def _find_folder(path: Path) -> Path:
    """The folder with metadata.json; ExternalError unless there is exactly one."""
    if not path.is_dir():
        raise ExternalError(f"path={path} is no folder: give that of a Minari data set (it has data/{META} in it)")
    folders = sorted(file.parent for file in path.rglob(META))
    if len(folders) != 1:
        content = f"{len(folders)} data sets ({', '.join(map(str, folders[:3]))})" if folders else f"no {META}"
        raise ExternalError(f"{path} holds {content}: give path= the folder of one Minari data set")
    return folders[0]


def _read_metadata(file: Path) -> dict[str, Any]:
    meta = dataset.read_json(file)
    if meta.get("data_format", "hdf5") != "hdf5":
        raise ExternalError(
            f"{file} says data_format={meta['data_format']}, and hdf5 alone is read: write it again with "
            "minari.create_dataset_from_buffers(..., data_format='hdf5')"
        )
    return meta


def _iterate_spaces(space: Mapping[str, Any], name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The leaves of a space by the names of their arrays."""
    children = space.get("subspaces")
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
            return
        for key in node:
            yield from walk(node[key], f"{name}/{key}")

    return dict(pair for name in (OBSERVATIONS, INFOS) if name in group for pair in walk(group[name], name))


def write_minari(reader: Reader, path: Path, env_spec: str | None, progress: Callable[[], None]) -> str:
    """Our episodes as a Minari data set in the folder; returns what the format loses, for the user."""
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
        **({} if env_spec is None else {"env_spec": env_spec}),
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
