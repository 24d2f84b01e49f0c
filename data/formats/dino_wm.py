"""DINO-WM's data sets (arXiv 2411.04983): Push-T, point maze and wall.

The layout, as datasets/{pusht,point_maze,wall}_dset.py of gaoyuezhou/dino_wm have it; N episodes of up to T steps, of
which action t leads from frame t to frame t + 1:

    states.pth            [N,T,D]: the simulator's state, without velocities in Push-T
    rel_actions.pth, actions.pth or abs_actions.pth       [N,T,A], the first that is there
    velocities.pth (Push-T), door_locations.pth, wall_locations.pth (wall)    [N,T,...]
    seq_lengths.pth (or .pkl, a list)                     [N]: steps of each episode; without it all have T
    obses/episode_000.mp4 (or .pth)                       its frames: [T,H,W,3], in the wall [T,3,H,W], in 0..255

Rows and frames beyond an episode's length are padding. Push-T has all of this twice, in train/ and val/. Its
`rel_actions` are 100 times what its environment takes, which makes no difference to a model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.checks import check_memory, resolve_inside
from data.formats import dataset
from data.formats.dataset import Array, DataSetInfo, ExternalEpisode, check_names
from data.formats.files import ExternalError
from data.formats.tensors import open_tensor, read_integers, read_rows
from data.pictures import CHANNELS, Pictures, View
from data.video import VideoError, count_frames, decode_by_number, inspect_video

STATES = "states"
OTHER_NUMBERS = ("velocities", "door_locations", "wall_locations")
ACTIONS = ("rel_actions", "actions", "abs_actions")
LENGTHS, PICTURES = "seq_lengths", "obses"
SUFFIXES = (".mp4", ".pth")
FOLDERS = ("train", "val")
LEVELS = 255


@dataclass(frozen=True)
class Part:
    """A folder with states.pth. numbers: tensors [N,T,...]. actions: the name of one and the tensor [N,T,A]."""

    root: Path
    numbers: dict[str, torch.Tensor]
    actions: tuple[str, torch.Tensor]
    lengths: list[int]


class DinoWM(dataset.ExternalDataSet):
    """A folder with states.pth, or with train/ and val/ that have one each."""

    render_hint = "copy its obses folder, too"

    def __init__(self, path: Path) -> None:
        self.root, self.left_out, self.episodes = path, [], []
        roots = [path] if (path / f"{STATES}.pth").exists() else [path / n for n in FOLDERS if (path / n).is_dir()]
        roots = [root for root in roots if (root / f"{STATES}.pth").exists()]
        if not roots:
            raise ExternalError(
                f"path={path} is no DINO-WM data set: there is no {STATES}.pth in it, nor in {' and '.join(FOLDERS)}"
            )
        self._parts = [_open_part(root, path) for root in roots]
        dataset.require_equal({str(p.root): p.actions[0] for p in self._parts}, "file of actions")
        shapes = {str(p.root): {name: tuple(t.shape[2:]) for name, t in p.numbers.items()} for p in self._parts}
        dataset.require_equal(shapes, "numbers")
        for part in self._parts:
            for number in range(len(part.lengths)):
                name = part.root / f"episode_{number}"
                split = part.root.name if len(self._parts) > 1 else None
                self.episodes.append(ExternalEpisode(name, (part, number), split))
        self.info = self.describe_first(self._describe)

    def _describe(self, episode: ExternalEpisode) -> DataSetInfo:
        part = episode.location[0]
        numbers = {name: tuple(tensor.shape[2:]) for name, tensor in part.numbers.items()}
        numbers = {name: () if shape == (1,) else shape for name, shape in numbers.items()}
        used = {*numbers, part.actions[0], LENGTHS}
        there = {file.stem for file in part.root.iterdir() if file.suffix in (".pth", ".pkl")}
        return DataSetInfo(
            env=self.root.resolve().name,
            env_kwargs={},
            rate=None,
            numbers=numbers,
            images={PICTURES: (*self.measure_episode(episode, PICTURES), 3)},
            state=tuple(numbers),
            unread=sorted(there - used),
        )

    def measure_episode(self, episode: ExternalEpisode, name: str) -> tuple[int, int]:
        file = self._find_pictures(episode)
        if file.suffix == ".pth":
            height, width = _open_pictures(file).shape[1:3]
            return height, width
        try:
            return inspect_video(file).frame_hw
        except VideoError as error:
            raise ExternalError(str(error)) from error

    def _find_pictures(self, episode: ExternalEpisode) -> Path:
        """The file of an episode's frames."""
        part, number = episode.location
        names = [f"{PICTURES}/episode_{number:03d}{suffix}" for suffix in SUFFIXES]
        found = [resolve_inside(part.root, name, part.root) for name in names]
        there = [file for file in found if file.is_file()]
        if not there:
            raise ExternalError(f"{found[0]} is not there, nor as {SUFFIXES[1]}: copy the data set again")
        return there[0]

    def read_numbers(self, episode: ExternalEpisode, names: Sequence[str]) -> dict[str, Array]:
        (part, number), where = episode.location, str(episode.name)
        check_names(where, names, part.numbers)
        self._find_pictures(episode)
        length = part.lengths[number]
        columns = {name: read_rows(part.numbers[name][number, :length], f"{where} {name}") for name in names}
        actions = read_rows(part.actions[1][number, : length - 1], f"{where} {part.actions[0]}")
        return columns | {"action": dataset.check_actions(where, actions, length)}

    def read_pictures(self, episode: ExternalEpisode, name: str, size_hw: tuple[int, int], view: View) -> Pictures:
        check_names(str(episode.name), [name], self.info.images)
        part, number = episode.location
        file, length = self._find_pictures(episode), part.lengths[number]
        tensor = _open_pictures(file) if file.suffix == ".pth" else None
        frames = count_frames(file) if tensor is None else len(tensor)
        if frames < length:
            raise ExternalError(f"{file} has {frames} frames, and episode {number} has {length} steps by {LENGTHS}")
        if tensor is not None:
            return self.convert_to_size(episode, name, _read_levels(tensor[:length], str(file)), size_hw, view)
        check_memory(str(file), length * size_hw[0] * size_hw[1] * 3, "its episodes are too long to be read")
        return decode_by_number(file, range(length), size_hw, view)


def _open_part(root: Path, path: Path) -> Part:
    """The files of a folder of the data set at `path`. ExternalError names those that disagree, and their numbers."""

    def find(name: str) -> Path:
        return resolve_inside(path, str((root / name).relative_to(path)), path)

    present = {name: find(f"{name}.pth") for name in (STATES, *OTHER_NUMBERS, *ACTIONS)}
    present = {name: file for name, file in present.items() if file.is_file()}
    actions = next((name for name in ACTIONS if name in present), None)
    if actions is None:
        raise ExternalError(f"{root} has no {', '.join(f'{name}.pth' for name in ACTIONS)}: one of them is needed")
    tensors = {name: open_tensor(present[name]) for name in (STATES, *OTHER_NUMBERS, actions) if name in present}
    for name, tensor in tensors.items():
        if tensor.ndim < 2 or not tensor.numel():
            raise ExternalError(f"{present[name]} is {list(tensor.shape)}: [episodes, steps, numbers] is needed")
        for axis, what in enumerate(("episodes", "steps")):
            ours, theirs = tensors[STATES].shape[axis], tensor.shape[axis]
            if ours != theirs:
                raise ExternalError(f"{present[STATES]} has {ours} {what}, and {present[name]} has {theirs}")
    episodes, steps = tensors[STATES].shape[:2]
    as_pickle = find(f"{LENGTHS}.pkl")
    file = as_pickle if as_pickle.is_file() and not find(f"{LENGTHS}.pth").is_file() else find(f"{LENGTHS}.pth")
    lengths = _read_lengths(file) if file.is_file() else [steps] * episodes
    if len(lengths) != episodes:
        raise ExternalError(f"{file} has {len(lengths)} episodes, and {present[STATES]} has {episodes}")
    for number, length in enumerate(lengths):
        if not 1 <= length <= steps:
            raise ExternalError(f"{file} says {length} steps of episode {number}, and {present[STATES]} has {steps}")
    _check_number(root / PICTURES, episodes)
    return Part(root, {n: t for n, t in tensors.items() if n != actions}, (actions, tensors[actions]), lengths)


def _read_lengths(file: Path) -> list[int]:
    """Steps of each episode."""
    if file.suffix == ".pkl":
        return read_integers(file)
    lengths = open_tensor(file)
    rows = read_rows(lengths, str(file))
    if rows.ndim != 1 or rows.dtype.kind not in "iu" and not np.array_equal(rows, np.rint(rows)):
        raise ExternalError(f"{file} is {rows.dtype} {list(rows.shape)}: a whole number an episode is needed")
    return [int(length) for length in rows]


def _check_number(folder: Path, episodes: int) -> None:
    """ExternalError for frames of an episode that the other files do not have."""
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = re.fullmatch(r"episode_([0-9]{1,9})\.(?:mp4|pth)", file.name)
        if match and int(match[1]) >= episodes:
            raise ExternalError(
                f"{file} is of episode {int(match[1])} (from 0), and {STATES}.pth has {episodes} episodes"
            )


def _open_pictures(file: Path) -> Any:
    """Frames [T,H,W,C] of a file, mapped into memory; those with channels first are turned."""
    tensor = open_tensor(file)
    if tensor.ndim == 4 and tensor.shape[3] not in CHANNELS and tensor.shape[1] in CHANNELS:
        tensor = tensor.permute(0, 2, 3, 1)
    if tensor.ndim != 4 or tensor.shape[3] not in CHANNELS or not tensor.numel():
        raise ExternalError(f"{file} is {list(tensor.shape)}: [steps, height, width, 3] is needed")
    return tensor


def _read_levels(tensor: torch.Tensor, where: str) -> Array:
    """Frames in 8 bits, where they are whole numbers in 0..255 of another type; else as they are."""
    frames = read_rows(tensor, where)
    if frames.dtype == np.uint8 or frames.dtype.kind not in "iuf":
        return frames
    levels = (
        frames.astype(np.uint8) if np.isfinite(frames).all() and 0 <= frames.min() <= frames.max() <= LEVELS else None
    )
    if levels is None or not np.array_equal(levels, frames):
        low, high = frames.min(), frames.max()
        raise ExternalError(
            f"{where} is {frames.dtype} from {low:g} to {high:g}: frames are whole numbers in 0..{LEVELS}"
        )
    return levels
