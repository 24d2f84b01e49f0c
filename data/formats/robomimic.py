"""robomimic's HDF5 data sets (arXiv 2108.03298).

The layout, as docs/datasets/overview.md and robomimic/scripts/{dataset_states_to_obs,split_train_val}.py of
ARISE-Initiative/robomimic have it; N rows an episode, of which action t leads from obs t to next_obs t:

    data                  attributes: total, env_args = JSON of {env_name, env_type, env_kwargs}
    data/demo_K           attributes: num_samples, model_file (robosuite); actions [N,A],
                          states [N,D], rewards, dones [N]
    data/demo_K/obs/...   [N,...]: pictures uint8 [N,H,W,3] (agentview_image), numbers (robot0_eef_pos)
    data/demo_K/next_obs/...  the same, a step later (may be absent)
    mask/{train,valid,...}    names of demos

In files of others an episode is its N rows of `obs`: `states` has no row after the last action, so that action is left
out. Our own files have the frame after it in `next_obs`, and every column among the observations.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
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
    encode_factors,
    find_files,
    is_numbers,
    is_pictures,
    list_number_columns,
    open_hdf5,
    parse_store_info,
    read_rewards,
    require_equal,
    resize_to_square,
)
from data.schema import NO_SEED
from data.store import Reader
from data.video import Pictures, View

CAMERA = "camera_image"  # what our pixels are called there
MASKS = {"train": "train", "valid": "val", "eval": "eval"}  # filter keys that are splits; eval is ours alone
PREFERRED = "agentview_image"
PROPRIO = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")  # robomimic's own choice of low_dim observations
GYM_TYPE = 2  # robomimic's EnvType


class Robomimic:
    """A file, or all of a folder that are of one environment."""

    render_hint = (
        "robomimic's dataset_states_to_obs.py renders them from the recorded states "
        "(--camera_names agentview --camera_height 84 --camera_width 84)"
    )

    def __init__(self, path: Path) -> None:
        files = find_files(path, (".hdf5", ".h5"), "robomimic file")
        env: dict[str, Any] = {}
        found: list[ExternalEpisode] = []
        for file in files:
            with open_hdf5(file) as opened:
                env[str(file)] = _read_env_args(file, opened)
                found += _list_episodes(file, opened)
        if not found:
            raise ExternalError(f"{path} holds no demonstration (data/demo_0, ...)")
        self.episodes: Sequence[ExternalEpisode] = found
        name = require_equal({key: args["env_name"] for key, args in env.items()}, "environment")
        rate = require_equal({key: _read_rate(args) for key, args in env.items()}, "rate (control_freq)")
        first, demo = found[0].location
        with open_hdf5(first) as opened:
            self.info = _describe_data_set(first, opened, demo, str(name), env[str(first)], rate)

    def external_name(self, column: str) -> str:
        return column

    def read_numbers(self, episode: ExternalEpisode, names: Sequence[str]) -> dict[str, Array]:
        file, demo = episode.location
        with open_hdf5(file) as opened:
            group = opened[f"data/{demo}"]
            where = f"{file} {demo}"
            own = self.info.store_info is not None
            check_names(where, ("actions", "obs"), list(group))
            states = ["states"] if "states" in group else []
            check_names(where, names, [*group["obs"], *states])
            found = {
                name: _read_rows(group, name, own) if name in group["obs"] else np.asarray(group[name])
                for name in names
            }
            actions = np.asarray(group["actions"])
            frames = len(actions) + own
            if not own and "rewards" in group:
                found["reward"] = np.asarray(group["rewards"], np.float32)
            for name, rows in found.items():
                if len(rows) != frames:
                    raise ExternalError(f"{where} has {len(actions)} actions and {len(rows)} rows of {name}")
        return found | {"action": check_actions(where, actions if own else actions[:-1], frames)}

    def read_pictures(self, episode: ExternalEpisode, name: str, size_px: int, view: View) -> Pictures:
        file, demo = episode.location
        with open_hdf5(file) as opened:
            check_names(f"{file} {demo}", [name], list(opened[f"data/{demo}/obs"]))
            return resize_to_square(
                _read_rows(opened[f"data/{demo}"], name, self.info.store_info is not None), size_px, view
            )


def _read_rows(group: Any, name: str, with_last: bool) -> Array:
    """Rows of an observation; with the one after the last action, where that is wanted."""
    rows = np.asarray(group["obs"][name])
    if not with_last:
        return rows
    check_names(group.name, ["next_obs"], list(group))
    return np.concatenate([rows, np.asarray(group["next_obs"][name][-1:])])


def _read_env_args(path: Path, file: h5py.File) -> dict[str, Any]:
    if "data" not in file or "env_args" not in file["data"].attrs:
        there = list(file["data"].attrs) if "data" in file else list(file)
        raise ExternalError(f"{path} is no robomimic file: no group data with the attribute env_args (it has: {there})")
    try:
        args = json.loads(file["data"].attrs["env_args"])
    except ValueError as error:
        raise ExternalError(f"{path} has an attribute env_args that is no JSON") from error
    check_names(f"{path}, env_args", ["env_name", "env_kwargs"], list(args))
    return dict(args)


def _read_rate(args: Mapping[str, Any]) -> float | None:
    kwargs = args["env_kwargs"]
    return float(kwargs["control_freq"]) if "control_freq" in kwargs else None


def _list_episodes(path: Path, file: h5py.File) -> list[ExternalEpisode]:
    """Demonstrations by number, with the split their masks say."""
    demos = sorted((name for name in file["data"] if name.startswith("demo_")), key=lambda name: int(name[5:]))
    masks = {split: _decode_names(file[f"mask/{key}"]) for key, split in MASKS.items() if f"mask/{key}" in file}
    found = []
    for demo in demos:
        attrs = file["data"][demo].attrs
        split = next((split for split, names in masks.items() if demo in names), "train" if masks else None)
        seed = int(attrs["seed"]) if "seed" in attrs else NO_SEED
        factors = json.loads(attrs["factors"]) if "factors" in attrs else {}
        found.append(ExternalEpisode(path / demo, (path, demo), split, seed, factors))
    return found


def _decode_names(dataset: Any) -> set[str]:
    return {name.decode() if isinstance(name, bytes) else str(name) for name in dataset[()]}


def _describe_data_set(
    path: Path, file: h5py.File, demo: str, env: str, args: Mapping[str, Any], rate: float | None
) -> DataSetInfo:
    group = file[f"data/{demo}"]
    check_names(f"{path} {demo}", ("actions", "obs"), list(group))
    own = parse_store_info(file["data"].attrs[EXPORT_KEY]) if EXPORT_KEY in file["data"].attrs else None
    observed = {name: data for name, data in group["obs"].items() if isinstance(data, h5py.Dataset)}
    images = {name: data.shape[1:] for name, data in observed.items() if is_pictures(data.shape, data.dtype)}
    numbers = {name: data.shape[1:] for name, data in observed.items() if is_numbers(data.shape, data.dtype)}
    state: tuple[str, ...] = ()
    if "states" in group and len(group["states"]) == len(group["actions"]) and own is None:
        numbers["states"], state = group["states"].shape[1:], ("states",)
    proprio = PROPRIO if all(name in numbers for name in PROPRIO) else ()
    read = {"actions", "obs", "rewards", *state} | ({"next_obs", "states", "dones"} if own else set())
    rest = sorted(set(group) - read) + sorted(set(observed) - images.keys() - numbers.keys())
    first = {name: images[name] for name in (PREFERRED,) if name in images}
    return DataSetInfo(
        env, args["env_kwargs"], rate, numbers, first | images, proprio, state, unread=", ".join(rest), store_info=own
    )


# --- writing


def write_robomimic(reader: Reader, path: Path, env: str, progress: Callable[[], None]) -> str:
    """Our episodes as a robomimic file; returns what that loses, in words."""
    info = reader.info
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        args = {"env_name": env, "env_type": GYM_TYPE, "env_kwargs": dict(info.env_kwargs)}
        data.attrs["env_args"], data.attrs[EXPORT_KEY] = json.dumps(args), info.to_json()
        splits: dict[str, list[str]] = {}
        for number, episode in enumerate(reader.episodes().tolist()):
            name = f"demo_{number}"
            _write_episode(data.create_group(name), reader, episode)
            splits.setdefault(reader.split(episode), []).append(name)
            progress()
        data.attrs["total"] = int(reader.lengths(reader.episodes()).sum() - len(data))
        for key, split in MASKS.items():
            if split in splits:
                file[f"mask/{key}"] = np.array(splits[split], "S")
    return ""


def _write_episode(group: h5py.Group, reader: Reader, episode: int) -> None:
    steps = reader.num_frames(episode) - 1
    group.attrs["num_samples"], group.attrs["seed"] = steps, reader.seed(episode)
    group.attrs["factors"] = encode_factors(reader, episode)
    group["actions"] = reader.column("action", episode)
    group["states"] = reader.column("state", episode)[:-1]
    group["rewards"] = read_rewards(reader, episode)
    group["dones"] = (np.arange(steps) == steps - 1).astype(np.int64)
    frames = reader.column("pixels", episode)
    columns = {column.name: reader.column(column.name, episode) for column in list_number_columns(reader.info)}
    columns = {name: rows if rows.ndim > 1 else rows[:, None] for name, rows in columns.items()}
    for side, rows in (("obs", slice(None, -1)), ("next_obs", slice(1, None))):
        chunk = (1, *frames.shape[1:])
        group.create_dataset(f"{side}/{CAMERA}", data=frames[rows], chunks=chunk, compression="gzip")
        for name, values in columns.items():
            group[f"{side}/{name}"] = values[rows]
