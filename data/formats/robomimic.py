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
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import numpy as np
import pydantic

from data.checks import parse_fields, parse_json
from data.formats import dataset, files
from data.formats.dataset import EXPORT_KEY, Array, DataSetInfo, ExternalEpisode, check_names
from data.formats.files import ExternalError, get_item, open_hdf5
from data.hdf5 import read_attributes
from data.pictures import Pictures, View
from data.store import Reader

CAMERA = "camera_image"  # name of our pixels
MASKS = {"train": "train", "valid": "val", "eval": "eval"}  # masks that are splits; robomimic has no eval
FIRST_CAMERA = "agentview_image"
PROPRIO = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")  # robomimic's own choice of low_dim observations
GYM_TYPE = 2  # robomimic's EnvType


class EnvKwargs(pydantic.BaseModel, extra="allow"):
    """The arguments of the environment, of which one is read."""

    control_freq: dataset.Rate | None = None


class EnvArgs(pydantic.BaseModel):
    """The attribute env_args."""

    env_name: str
    env_kwargs: EnvKwargs


class Robomimic(dataset.ExternalDataSet):
    """A file, or all files of a folder, of one environment."""

    render_hint = (
        "robomimic's dataset_states_to_obs.py renders them from the recorded states "
        "(--camera_names agentview --camera_height 84 --camera_width 84)"
    )

    def __init__(self, path: Path) -> None:
        self.episodes, names, rates = [], {}, {}
        paths, self.left_out = files.find_files(path, (".hdf5", ".h5"), "robomimic file")
        for file in paths:
            with open_hdf5(file) as opened:
                args = _read_env_args(file, opened)
                names[str(file)], rates[str(file)] = args.env_name, args.env_kwargs.control_freq
                self._list_episodes(file, opened)
        if not self.episodes:
            raise ExternalError("; ".join([f"{path} holds no demonstration (data/demo_0, ...)", *self.left_out[:1]]))
        dataset.require_equal(names, "environment")
        dataset.require_equal(rates, "rate (control_freq)")
        self.info = self.describe_first(_describe_data_set)

    def _list_episodes(self, path: Path, file: h5py.File) -> None:
        """Add demonstrations by number, with their split by the masks."""
        demos, strange = files.sort_numbered(file["data"], "demo_", path)
        self.left_out += strange
        masks = _read_masks(path, file)
        for demo in demos:
            where = f"{path} {demo}"
            try:
                group = get_item(file["data"], demo, h5py.Group, str(path))
                facts = parse_fields(files.EpisodeFacts, read_attributes(group), where)
            except (ValueError, OSError) as error:
                self.left_out.append(str(error))
                continue
            split = next((split for split, names in masks.items() if demo in names), "train" if masks else None)
            self.episodes.append(ExternalEpisode(path / demo, (path, demo), split, facts.seed, facts.factors))

    def read_numbers(self, episode: ExternalEpisode, names: Sequence[str]) -> dict[str, Array]:
        file, demo = episode.location
        where, exported = f"{file} {demo}", self.info.store_info is not None
        with open_hdf5(file) as opened:
            group = get_item(opened, f"data/{demo}", h5py.Group, str(file))
            check_names(where, ("actions", "obs"), group)
            observed = get_item(group, "obs", h5py.Group, where)
            check_names(where, names, [*observed, *(["states"] if "states" in group else [])])
            columns = {name: self._read_rows(group, name, where) for name in names}
            actions = files.read_rows(get_item(group, "actions", h5py.Dataset, where), f"{where} actions")
            if not exported and "rewards" in group:
                columns["reward"] = files.read_rows(get_item(group, "rewards", h5py.Dataset, where), f"{where} rewards")
            flags = {
                name: files.read_rows(get_item(group, name, h5py.Dataset, where), f"{where} {name}")
                for name in dataset.ENDS
                if name in group
            }
        frames = len(actions) + exported
        for name, rows in columns.items():
            if len(rows) != frames:
                raise ExternalError(f"{where} has {len(actions)} actions and {len(rows)} rows of {name}")
        dataset.check_ends(where, flags, frames)
        return columns | {"action": dataset.check_actions(where, actions if exported else actions[:-1], frames)}

    def read_pictures(self, episode: ExternalEpisode, name: str, size_hw: tuple[int, int], view: View) -> Pictures:
        file, demo = episode.location
        where = f"{file} {demo}"
        with open_hdf5(file) as opened:
            group = get_item(opened, f"data/{demo}", h5py.Group, str(file))
            check_names(where, [name], get_item(group, "obs", h5py.Group, where))
            rows = self._read_rows(group, name, where)
        return self.convert_to_size(episode, name, rows, size_hw, view)

    def _read_rows(self, group: h5py.Group, name: str, where: str) -> Array:
        """Rows of an observation or of `states`; of our exports with the row after the last action."""
        owner = group["obs"] if name in group["obs"] else group
        rows = files.read_rows(get_item(owner, name, h5py.Dataset, where), f"{where} {name}")
        if self.info.store_info is None:
            return rows
        later = get_item(get_item(group, "next_obs", h5py.Group, where), name, h5py.Dataset, where)
        following = files.read_rows(later, f"{where} next_obs/{name}")
        if following.shape != rows.shape:
            raise ExternalError(f"{where} has {name} of shape {rows.shape} in obs and {following.shape} in next_obs")
        return np.concatenate([rows, following[-1:]])


def _read_env_args(path: Path, file: h5py.File) -> EnvArgs:
    data = file.get("data")
    if not isinstance(data, h5py.Group) or "env_args" not in data.attrs:
        present = list(data.attrs) if data is not None else list(file)
        raise ExternalError(
            f"{path} is no robomimic file: no group data with the attribute env_args (it has: {present})"
        )
    where = f"{path}, env_args,"
    return parse_fields(EnvArgs, parse_json(read_attributes(data)["env_args"], where), where)


def _read_masks(path: Path, file: h5py.File) -> dict[str, set[str]]:
    """The demonstrations of each split that a mask names."""
    masks = {}
    for key, split in MASKS.items():
        if f"mask/{key}" in file:
            names = files.read_rows(get_item(file, f"mask/{key}", h5py.Dataset, str(path)), f"{path} mask/{key}")
            masks[split] = {name.decode() if isinstance(name, bytes) else str(name) for name in names.reshape(-1)}
    return masks


def _describe_data_set(episode: ExternalEpisode) -> DataSetInfo:
    path, demo = episode.location
    with open_hdf5(path) as file:
        return _describe_episode(path, file, demo)


def _describe_episode(path: Path, file: h5py.File, demo: str) -> DataSetInfo:
    args, where = _read_env_args(path, file), f"{path} {demo}"
    group = get_item(file, f"data/{demo}", h5py.Group, str(path))
    check_names(where, ("actions", "obs"), group)
    store_info = dataset.parse_store_info(read_attributes(file["data"]).get(EXPORT_KEY))
    observations = get_item(group, "obs", h5py.Group, where)
    observed = {name: data for name, data in observations.items() if isinstance(data, h5py.Dataset)}
    numbers, images = dataset.select_numbers(observed), dataset.select_pictures(observed)
    state: tuple[str, ...] = ()
    actions = get_item(group, "actions", h5py.Dataset, where)
    if "states" in group and store_info is None:
        states = get_item(group, "states", h5py.Dataset, where)
        if not states.shape:
            raise ExternalError(f"{where} states is a single value, and a row for every frame is needed")
        if states.shape[:1] == actions.shape[:1]:
            numbers["states"], state = states.shape[1:], ("states",)
    read = {"actions", "obs", "rewards", *state} | ({"next_obs", "states", "dones"} if store_info else set())
    return DataSetInfo(
        env=args.env_name,
        env_kwargs=args.env_kwargs.model_dump(exclude_unset=True),
        rate=args.env_kwargs.control_freq,
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
