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

from data.formats.dataset import (
    EXPORT_KEY,
    Array,
    DataSetInfo,
    ExternalEpisode,
    ExternalError,
    check_actions,
    check_names,
    decode_picture,
    encode_factors,
    is_numbers,
    is_pictures,
    list_number_columns,
    open_hdf5,
    parse_store_info,
    read_rewards,
    resize_to_square,
)
from data.schema import NO_SEED, SPLITS
from data.store import Reader
from data.video import Pictures, View

META, MAIN, FOLDER = "metadata.json", "main_data.hdf5", "data"
OBSERVED, INFOS, TIME = "observations", "infos", "time_s"  # time is an info of ours, all else an observation
OWN_SPLIT, OWN_FACTORS = "split", "factors"  # attributes that we add to an episode


class Minari:
    """One data set: its folder, the `data` folder in it, or a folder somewhere above."""

    render_hint = (
        "record it with pictures: an observation or an info that holds the rendered frame (Gymnasium's "
        "AddRenderObservation below minari.DataCollector)"
    )

    def __init__(self, path: Path) -> None:
        self.folder = _find_folder(path)
        self.about = _read_metadata(self.folder / META)
        self.file = self.folder / MAIN
        if not self.file.is_file():
            raise ExternalError(f"{self.file} is not there, though {META} is: copy the data set again")
        self._spaces = dict(_iterate_spaces(self._space("observation_space"), OBSERVED))
        with open_hdf5(self.file) as file:
            names = sorted((name for name in file if name.startswith("episode_")), key=lambda name: int(name[8:]))
            if not names:
                raise ExternalError(f"{self.file} holds no episode (episode_0, ...)")
            self.episodes: Sequence[ExternalEpisode] = [self._episode(name, file[name].attrs) for name in names]
            self.info = self._contents(names[0], file[names[0]])

    def _space(self, key: str) -> dict[str, Any]:
        text = self.about[key] if key in self.about else "{}"
        return dict(json.loads(text) if isinstance(text, str) else text)

    def _episode(self, name: str, attrs: Any) -> ExternalEpisode:
        seed = int(attrs["seed"]) if "seed" in attrs else NO_SEED
        split = str(attrs[OWN_SPLIT]) if OWN_SPLIT in attrs and attrs[OWN_SPLIT] in SPLITS else None
        factors = json.loads(attrs[OWN_FACTORS]) if OWN_FACTORS in attrs and split else {}
        return ExternalEpisode(self.folder / name, name, split, seed, factors)

    def _contents(self, name: str, group: h5py.Group) -> DataSetInfo:
        check_names(f"{self.file} {name}", (OBSERVED, "actions"), list(group))
        found = dict(_iterate_arrays(group))
        images = {key: self._shape(key, data) for key, data in found.items() if self._is_pictures(key, data)}
        numbers = {
            key: data.shape[1:]
            for key, data in found.items()
            if key not in images and is_numbers(data.shape, data.dtype) and len(data) == len(group["actions"]) + 1
        }
        env, kwargs = self._env()
        own = parse_store_info(self.about[EXPORT_KEY]) if EXPORT_KEY in self.about else None
        rest = sorted(found.keys() - images.keys() - numbers.keys())
        return DataSetInfo(
            env, kwargs, None, numbers, images, bounds=self._bounds(), unread=", ".join(rest), store_info=own
        )

    def _env(self) -> tuple[str, dict[str, Any]]:
        if "env_spec" in self.about:
            spec = json.loads(self.about["env_spec"])
            return str(spec["id"]), dict(spec["kwargs"]) if "kwargs" in spec else {}
        return str(self.about["dataset_id"]) if "dataset_id" in self.about else self.folder.parent.name, {}

    def _bounds(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        space = self._space("action_space")
        if space.keys() < {"low", "high"}:
            return None
        low, high = (np.asarray(space[key], np.float64).reshape(-1) for key in ("low", "high"))
        return (tuple(low), tuple(high)) if np.isfinite([low, high]).all() else None

    def _shape(self, key: str, data: h5py.Dataset) -> tuple[int, ...]:
        return tuple(self._spaces[key]["shape"]) if self._is_jpeg(key, data) else data.shape[1:]

    def _is_jpeg(self, key: str, data: h5py.Dataset) -> bool:
        """Whether the space speaks of pictures and the rows are something else."""
        space = self._spaces[key] if key in self._spaces else {}
        if "shape" not in space or "dtype" not in space:
            return False
        return is_pictures((1, *space["shape"]), space["dtype"]) and data.shape[1:] != tuple(space["shape"])

    def _is_pictures(self, key: str, data: h5py.Dataset) -> bool:
        return is_pictures(data.shape, data.dtype) or self._is_jpeg(key, data)

    def external_name(self, column: str) -> str:
        return f"{INFOS if column == TIME else OBSERVED}/{column}"

    def read_numbers(self, episode: ExternalEpisode, names: Sequence[str]) -> dict[str, Array]:
        with open_hdf5(self.file) as file:
            group, where = file[episode.location], f"{self.file} {episode.location}"
            check_names(where, (OBSERVED, "actions"), list(group))
            found = dict(_iterate_arrays(group))
            check_names(where, names, list(found))
            columns = {name: np.asarray(found[name]) for name in names}
            shown = np.asarray(group["actions"]) if isinstance(group["actions"], h5py.Dataset) else None
            if shown is None:
                raise ExternalError(
                    f"{where} has actions in parts ({', '.join(group['actions'])}): one array is needed"
                )
            frames = len(next(iter(found.values())))
            if "rewards" in group and self.info.store_info is None:
                columns["reward"] = np.append(np.asarray(group["rewards"], np.float32), np.float32(np.nan))
        return columns | {"action": check_actions(where, shown, frames)}

    def read_pictures(self, episode: ExternalEpisode, name: str, size_px: int, view: View) -> Pictures:
        with open_hdf5(self.file) as file:
            found = dict(_iterate_arrays(file[episode.location]))
            check_names(f"{self.file} {episode.location}", [name], list(found))
            data = found[name]
            frames = np.stack([decode_picture(row) for row in data]) if self._is_jpeg(name, data) else np.asarray(data)
        return resize_to_square(frames, size_px, view)


def _find_folder(path: Path) -> Path:
    """The folder with metadata.json; ExternalError unless there is one alone."""
    if not path.is_dir():
        raise ExternalError(f"path={path} is no folder: give that of a Minari data set (it has data/{META} in it)")
    found = sorted(file.parent for file in path.rglob(META))
    if len(found) != 1:
        named = f"{len(found)} data sets ({', '.join(str(f) for f in found[:3])})" if found else f"no {META}"
        raise ExternalError(f"{path} holds {named}: give path= the folder of one Minari data set")
    return found[0]


def _read_metadata(file: Path) -> dict[str, Any]:
    try:
        about = dict(json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ExternalError(f"{file} is no JSON: copy the data set again") from error
    stored = about["data_format"] if "data_format" in about else "hdf5"
    if stored != "hdf5":
        raise ExternalError(
            f"{file} says data_format={stored}, and hdf5 alone is read: write it again with "
            "minari.create_dataset_from_buffers(..., data_format='hdf5')"
        )
    return about


def _iterate_spaces(space: Mapping[str, Any], name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The leaves of a space by the names that their arrays have."""
    inner = space["subspaces"] if "subspaces" in space else None
    if inner is None:
        yield name, space
        return
    parts = inner.items() if isinstance(inner, dict) else ((f"_index_{k}", part) for k, part in enumerate(inner))
    for key, part in parts:
        yield from _iterate_spaces(part, f"{name}/{key}")


def _iterate_arrays(group: h5py.Group) -> Iterator[tuple[str, h5py.Dataset]]:
    """Arrays of an episode with a row for every frame: its observations, then its infos."""
    for name in (OBSERVED, INFOS):
        if name in group:
            yield from _below(group[name], name)


def _below(node: Any, name: str) -> Iterator[tuple[str, h5py.Dataset]]:
    if isinstance(node, h5py.Dataset):
        yield name, node
        return
    for key in node:
        yield from _below(node[key], f"{name}/{key}")


# --- writing


def write_minari(reader: Reader, path: Path, env_spec: str | None, progress: Callable[[], None]) -> str:
    """Our episodes as a Minari data set in the folder; returns what that loses, in words."""
    folder = path / FOLDER
    folder.mkdir(parents=True)
    info, episodes = reader.info, reader.episodes().tolist()
    observed = {"pixels": _make_box(info.frame_hwc, "uint8", 0, 255)}
    for column in list_number_columns(info):
        if column.name != TIME:
            observed[column.name] = _make_box(column.shape, column.dtype, -np.inf, np.inf)
    with h5py.File(folder / MAIN, "w", track_order=True) as file:
        for number, episode in enumerate(episodes):
            _write_episode(file.create_group(f"episode_{number}"), reader, number, episode)
            progress()
    action = _make_box((info.action_size,), "float32", info.action_low, info.action_high)
    about = {
        "dataset_id": path.name,
        "total_episodes": len(episodes),
        "total_steps": int(reader.lengths(reader.episodes()).sum()) - len(episodes),
        "data_format": "hdf5",
        "jpeg_encoding": False,
        "observation_space": json.dumps({"type": "Dict", "subspaces": observed}),
        "action_space": json.dumps(action),
        "dataset_size": round((folder / MAIN).stat().st_size / 1e6, 1),
        "minari_version": "0.5.4",
        EXPORT_KEY: info.to_json(),
        **({} if env_spec is None else {"env_spec": env_spec}),
    }
    (folder / META).write_text(json.dumps(about, indent=1), encoding="utf-8")
    return ""


def _make_box(shape: Sequence[int], dtype: str, low: Any, high: Any) -> dict[str, Any]:
    bounds = {key: np.broadcast_to(np.asarray(v), shape).tolist() for key, v in (("low", low), ("high", high))}
    return {"type": "Box", "dtype": dtype, "shape": list(shape), **bounds}


def _write_episode(group: h5py.Group, reader: Reader, number: int, episode: int) -> None:
    steps = reader.num_frames(episode) - 1
    attrs: dict[str, Any] = {"id": number, "total_steps": steps}
    if reader.seed(episode) != NO_SEED:
        attrs["seed"] = reader.seed(episode)
    attrs |= {OWN_SPLIT: reader.split(episode), OWN_FACTORS: encode_factors(reader, episode)}
    group.attrs.update(attrs)
    frames = reader.column("pixels", episode)
    chunk = (1, *frames.shape[1:])
    group.create_dataset(f"{OBSERVED}/pixels", data=frames, chunks=chunk, compression="gzip")
    for column in list_number_columns(reader.info):
        place = INFOS if column.name == TIME else OBSERVED
        group[f"{place}/{column.name}"] = reader.column(column.name, episode)
    group["actions"], group["rewards"] = reader.column("action", episode), read_rewards(reader, episode)
    group["terminations"] = np.zeros(steps, bool)
    group["truncations"] = np.arange(steps) == steps - 1
