"""robomimic's HDF5 data sets (arXiv 2108.03298).

The layout, as docs/datasets/overview.md and robomimic/scripts/{dataset_states_to_obs,split_train_val}.py of
ARISE-Initiative/robomimic have it; N rows an episode, of which action t leads from obs t to next_obs t:

    data                  attributes: total, env_args = JSON of {env_name, env_type, env_kwargs}
    data/demo_K           attributes: num_samples, model_file (robosuite); actions [N,A],
                          states [N,D], rewards, dones [N]
    data/demo_K/obs/...   [N,...]: pictures uint8 [N,H,W,3] (agentview_image), numbers (robot0_eef_pos)
    data/demo_K/next_obs/...  the same, a step later (may be absent)
    mask/{train,valid,...}    names of demos

In files made elsewhere an episode is its N rows of `obs`: `states` has no row after the last action, so that action is
left out. Our exports have the frame after it in `next_obs`, and every column among the observations.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data.formats import dataset
from data.formats.dataset import EXPORT_KEY, Array, DataSetInfo, ExternalEpisode, ExternalError, check_names, open_hdf5
from data.pictures import Pictures, View
from data.schema import NO_SEED
from data.store import Reader

CAMERA = "camera_image"  # name of our pixels
MASKS = {"train": "train", "valid": "val", "eval": "eval"}  # masks that are splits; robomimic has no eval
FIRST_CAMERA = "agentview_image"
PROPRIO = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")  # robomimic's own choice of low_dim observations
GYM_TYPE = 2  # robomimic's EnvType


class Robomimic(dataset.ExternalDataSet):
    """A file, or all files of a folder, of one environment."""

    render_hint = (
        "robomimic's dataset_states_to_obs.py renders them from the recorded states "
        "(--camera_names agentview --camera_height 84 --camera_width 84)"
    )

    def __init__(self, path: Path) -> None:
        self.episodes, names, rates = [], {}, {}
        for file in dataset.find_files(path, (".hdf5", ".h5"), "robomimic file"):
            with open_hdf5(file) as opened:
                args = _read_env_args(file, opened)
                names[str(file)], rates[str(file)] = args["env_name"], _read_rate(args)
                self.episodes += _list_episodes(file, opened)
        if not self.episodes:
            raise ExternalError(f"{path} holds no demonstration (data/demo_0, ...)")
        dataset.require_equal(names, "environment")
        dataset.require_equal(rates, "rate (control_freq)")
        file, demo = self.episodes[0].location
        with open_hdf5(file) as opened:
            self.info = _describe_data_set(file, opened, demo)

    def read_numbers(self, episode: ExternalEpisode, names: Sequence[str]) -> dict[str, Array]:
        file, demo = episode.location
        where, exported = f"{file} {demo}", self.info.store_info is not None
        with open_hdf5(file) as opened:
            group = opened[f"data/{demo}"]
            check_names(where, ("actions", "obs"), group)
            check_names(where, names, [*group["obs"], *(["states"] if "states" in group else [])])
            columns = {name: self._read_rows(group, name) for name in names}
            actions = np.asarray(group["actions"])
            if not exported and "rewards" in group:
                columns["reward"] = np.asarray(group["rewards"], np.float32)
        frames = len(actions) + exported
        for name, rows in columns.items():
            if len(rows) != frames:
                raise ExternalError(f"{where} has {len(actions)} actions and {len(rows)} rows of {name}")
        return columns | {"action": dataset.check_actions(where, actions if exported else actions[:-1], frames)}

    def read_pictures(self, episode: ExternalEpisode, name: str, size_px: int, view: View) -> Pictures:
        file, demo = episode.location
        with open_hdf5(file) as opened:
            group = opened[f"data/{demo}"]
            check_names(f"{file} {demo}", [name], group["obs"])
            return self.convert_to_squares(episode, name, self._read_rows(group, name), size_px, view)

    def _read_rows(self, group: h5py.Group, name: str) -> Array:
        """Rows of an observation or of `states`; of our exports with the row after the last action."""
        rows = np.asarray(group["obs"][name] if name in group["obs"] else group[name])
        if self.info.store_info is None:
            return rows
        check_names(group.name, ["next_obs"], group)
        return np.concatenate([rows, group["next_obs"][name][-1:]])


def _read_env_args(path: Path, file: h5py.File) -> Mapping[str, Any]:
    if "data" not in file or "env_args" not in file["data"].attrs:
        present = list(file["data"].attrs) if "data" in file else list(file)
        raise ExternalError(
            f"{path} is no robomimic file: no group data with the attribute env_args (it has: {present})"
        )
    try:
        args = dict(json.loads(file["data"].attrs["env_args"]))
    except ValueError as error:
        raise ExternalError(f"{path} has an attribute env_args that is no JSON") from error
    check_names(f"{path}, env_args", ["env_name", "env_kwargs"], args)
    return args


def _read_rate(args: Mapping[str, Any]) -> float | None:
    kwargs = args["env_kwargs"]
    return float(kwargs["control_freq"]) if "control_freq" in kwargs else None


def _list_episodes(path: Path, file: h5py.File) -> list[ExternalEpisode]:
    """Demonstrations by number, with their split by the masks."""
    demos = sorted((name for name in file["data"] if name.startswith("demo_")), key=lambda name: int(name[5:]))
    masks = {split: set(file[f"mask/{key}"].asstr()[()]) for key, split in MASKS.items() if f"mask/{key}" in file}
    episodes = []
    for demo in demos:
        attrs = file["data"][demo].attrs
        split = next((split for split, names in masks.items() if demo in names), "train" if masks else None)
        factors = json.loads(attrs["factors"]) if "factors" in attrs else {}
        episodes.append(ExternalEpisode(path / demo, (path, demo), split, int(attrs.get("seed", NO_SEED)), factors))
    return episodes


def _describe_data_set(path: Path, file: h5py.File, demo: str) -> DataSetInfo:
    group, args = file[f"data/{demo}"], _read_env_args(path, file)
    check_names(f"{path} {demo}", ("actions", "obs"), group)
    store_info = dataset.parse_store_info(file["data"].attrs.get(EXPORT_KEY))
    observed = {name: data for name, data in group["obs"].items() if isinstance(data, h5py.Dataset)}
    numbers, images = dataset.select_numbers(observed), dataset.select_pictures(observed)
    state: tuple[str, ...] = ()
    if "states" in group and len(group["states"]) == len(group["actions"]) and store_info is None:
        numbers["states"], state = group["states"].shape[1:], ("states",)
    read = {"actions", "obs", "rewards", *state} | ({"next_obs", "states", "dones"} if store_info else set())
    return DataSetInfo(
        env=str(args["env_name"]),
        env_kwargs=args["env_kwargs"],
        rate=_read_rate(args),
        numbers=numbers,
        images=dict(sorted(images.items(), key=lambda item: item[0] != FIRST_CAMERA)),
        proprio=PROPRIO if all(name in numbers for name in PROPRIO) else (),
        state=state,
        unread=sorted(set(group) - read) + sorted(observed.keys() - images.keys() - numbers.keys()),
        store_info=store_info,
        refused=dataset.refuse_pictures(observed),
    )


def write_robomimic(reader: Reader, path: Path, env: str, progress: Callable[[], None]) -> str:
    """Our episodes as a robomimic file; returns what the format loses, for the user."""
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
    group.attrs["factors"] = dataset.encode_factors(reader, episode)
    group["actions"] = reader.column("action", episode)
    group["states"] = reader.column("state", episode)[:-1]
    group["rewards"] = dataset.read_rewards(reader, episode)
    group["dones"] = (np.arange(steps) == steps - 1).astype(np.int64)
    for side, rows in (("obs", slice(None, -1)), ("next_obs", slice(1, None))):
        dataset.write_frames(group, f"{side}/{CAMERA}", reader.column("pixels", episode)[rows])
        for column in dataset.list_number_columns(reader.info):
            values = reader.column(column.name, episode)[rows]
            group[f"{side}/{column.name}"] = values if values.ndim > 1 else values[:, None]
