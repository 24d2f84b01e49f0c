"""What trajectory files of other programs have in common, whatever their format.

A format is a module beside this one (`robomimic.py`, `ogbench.py`, `minari.py`, `lerobot.py`). It has an
`ExternalDataSet` that opens a data set, describes it (`DataSetInfo`) and reads its episodes, and a function that writes
one from our own file. Which columns become ours is decided where the formats meet the configuration
(`commands.transfer.external`). A data set that we exported also holds the `StoreInfo` of its source, so that
importing it restores every number, name, seed and split.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from data.pictures import (
    PictureError,
    Pictures,
    View,
    convert_pictures,
    decode_picture,
    find_fault,
    is_pictures,
    looks_like_pictures,
    resize_pictures,
)
from data.schema import NO_SEED, Column, StoreInfo
from data.store import Reader

Array = NDArray[Any]
EXPORT_KEY = "jepa"  # name of the attribute, array or file that holds the StoreInfo of an exported data set


class ExternalError(ValueError):
    """A file of another program cannot be used; the message is one sentence for the user."""


@dataclass(frozen=True)
class ExternalEpisode:
    """One trajectory.

    name: for messages. location: where the format finds it. split: train, val or eval; None where the format has none.
    factors: properties of the simulator's model that differ between episodes.
    """

    name: Path
    location: Any
    split: str | None = None
    seed: int = NO_SEED
    factors: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DataSetInfo:
    """A data set as its first episode shows it.

    env: the environment by the format's name. rate: frames per second; None where the format records none.
    numbers, images: columns with a row for every frame, and the shape of a row. proprio: the columns of proprioception,
    where the format marks them. state: the columns that set a simulator up again. names: of the components of a column
    or of `action`. bounds: low and high of the actions. unread: what else the files hold. store_info: of the source, if
    the data set is our own export. refused: why columns that look like pictures cannot be read.
    """

    env: str
    env_kwargs: Mapping[str, Any]
    rate: float | None
    numbers: Mapping[str, tuple[int, ...]]
    images: Mapping[str, tuple[int, ...]]
    proprio: tuple[str, ...] = ()
    state: tuple[str, ...] = ()
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    bounds: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    unread: Sequence[str] = ()
    store_info: StoreInfo | None = None
    refused: Mapping[str, str] = field(default_factory=dict)


class ExternalDataSet(ABC):
    """A data set of another format. `render_hint`: how to get pictures where it holds none. `notes`: what reading
    pictures has changed in them so far, a sentence each."""

    info: DataSetInfo
    episodes: list[ExternalEpisode]
    render_hint: str

    @cached_property
    def notes(self) -> list[str]:
        return []

    def measure_pictures(self, name: str) -> tuple[int, int]:
        """Height and width of a column's pictures, in the first episode in which they can be decoded."""
        errors, declared = [], self.info.images[name]
        for episode in self.episodes:
            try:
                height, width = self.measure_episode(episode, name)
            except ValueError as error:
                errors.append(error)
                continue
            if (height, width) not in (declared[:2], declared[1:]):  # channels last, or first
                self.add_note(f"{name} is declared as {list(declared)} and holds pictures of {height}x{width} pixels")
            return height, width
        raise errors[0]

    def measure_episode(self, episode: ExternalEpisode, name: str) -> tuple[int, int]:
        """Height and width of a column's first picture; a format that only declares them decodes it."""
        height, width = self.info.images[name][:2]
        return height, width

    def convert_to_squares(
        self, episode: ExternalEpisode, name: str, frames: Array, size_px: int, view: View
    ) -> Pictures:
        """Recorded arrays [T,H,W,...] as squares [T,size,size,3]. ExternalError names the episode."""
        with self.name_episode(episode):
            return resize_pictures(convert_pictures(frames, name, self.add_note), (size_px, size_px), view)

    def decode_to_squares(
        self, episode: ExternalEpisode, name: str, encoded: Iterable[bytes], size_px: int, view: View
    ) -> Pictures:
        """Image files as squares [T,size,size,3]. ExternalError names the episode."""
        with self.name_episode(episode):
            frames = (decode_picture(bytes(each), name, self.add_note) for each in encoded)
            return np.stack([resize_pictures(frame, (size_px, size_px), view) for frame in frames])

    @contextmanager
    def name_episode(self, episode: ExternalEpisode) -> Iterator[None]:
        """Turns an error of a picture into an ExternalError that names the episode."""
        try:
            yield
        except PictureError as error:
            raise ExternalError(f"{episode.name}: {error}") from error

    def add_note(self, note: str) -> None:
        """Remember a sentence about pictures, once."""
        if note not in self.notes:
            self.notes.append(note)

    @abstractmethod
    def read_numbers(self, episode: ExternalEpisode, names: Sequence[str]) -> dict[str, Array]:
        """`action` [T-1,A], `reward` [T] if there is one, and these columns [T,...]. ExternalError on damage."""

    @abstractmethod
    def read_pictures(self, episode: ExternalEpisode, name: str, size_px: int, view: View) -> Pictures:
        """An episode's frames as squares [T,size,size,3]."""

    def external_name(self, column: str) -> str:
        """The name that one of our columns has in our exports."""
        return column


# --- reading


@contextmanager
def explain_damage(path: Path, kind: str, *errors: type[Exception]) -> Iterator[None]:
    """Turns errors of a library that reads the file into an ExternalError that names it."""
    try:
        yield
    except ExternalError:
        raise
    except errors as error:
        raise ExternalError(f"{path} cannot be read as {kind}, or is cut short: copy it again") from error


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file for reading; ExternalError if it is none, or damaged."""
    with explain_damage(path, "HDF5", OSError), h5py.File(path, "r", locking=False) as file:
        yield file


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; ExternalError if the file holds none."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise ExternalError(f"{path} is no JSON: copy the data set again") from error


def find_files(path: Path, suffixes: Sequence[str], what: str) -> list[Path]:
    """The file itself, or all files with such a suffix in a folder and below it, by name; ExternalError if none."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ExternalError(f"path={path} is neither a file nor a folder: give the {what}, or a folder that holds it")
    files = sorted(file for suffix in suffixes for file in path.rglob(f"*{suffix}"))
    if not files:
        raise ExternalError(f"there is no {what} ({', '.join(suffixes)}) in {path}")
    return files


def select_pictures(arrays: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes [H,W,...] of those arrays (anything with shape and dtype) that are stacks of pictures, colour first."""
    found = {name: tuple(a.shape[1:]) for name, a in arrays.items() if is_pictures(a.shape, a.dtype)}
    return dict(sorted(found.items(), key=lambda item: item[1][2:] in ((), (1,))))


def refuse_pictures(arrays: Mapping[str, Any]) -> dict[str, str]:
    """Why those arrays that look like stacks of pictures are none that can be read."""
    faults = {n: find_fault(a.shape, a.dtype) for n, a in arrays.items() if looks_like_pictures(a.shape, a.dtype)}
    return {name: fault for name, fault in faults.items() if fault is not None}


def select_numbers(arrays: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of a row of those arrays that hold a number or a vector of numbers for each frame."""
    return {n: tuple(a.shape[1:]) for n, a in arrays.items() if 1 <= len(a.shape) <= 2 and a.dtype.kind in "fiub"}


def check_names(where: str, wanted: Sequence[str], available: Collection[str]) -> None:
    """ExternalError unless all wanted names are available; lists those that are."""
    missing = [name for name in wanted if name not in available]
    if missing:
        names = ", ".join(sorted(available)) or "nothing"
        raise ExternalError(f"{where} has no {', '.join(missing)} (it has: {names})")


def check_actions(where: str, actions: Array, frames: int) -> Array:
    """Actions [T-1,A] of T frames; ExternalError if their number is another."""
    actions = np.asarray(actions, np.float32)
    actions = actions.reshape(len(actions), -1)
    if len(actions) != frames - 1:
        raise ExternalError(f"{where} has {len(actions)} actions between {frames} frames: {frames - 1} are needed")
    return actions


def require_equal(values: Mapping[str, Any], what: str) -> Any:
    """The value that all files share; ExternalError names two files that differ."""
    first, *others = values
    for name in others:
        if values[name] != values[first]:
            raise ExternalError(
                f"{first} and {name} differ in {what} ({values[first]} against {values[name]}): "
                "import them apart, each with a path= of its own"
            )
    return values[first]


def parse_store_info(text: Any) -> StoreInfo | None:
    """The StoreInfo in an exported data set; None in any other."""
    try:
        return None if text is None else StoreInfo.from_json(str(text))
    except (KeyError, TypeError, ValueError) as error:
        raise ExternalError(f"the facts that jepa export wrote into the data set are damaged ({error})") from error


# --- writing


def list_number_columns(info: StoreInfo) -> list[Column]:
    """Columns of numbers with a row for every frame."""
    return [column for column in info.columns if column.name not in ("pixels", "action")]


def read_rewards(reader: Reader, episode: int) -> NDArray[np.float64]:
    """Rewards of an episode's actions [T-1]; zeros where none were recorded."""
    if "reward" not in {column.name for column in reader.info.columns}:
        return np.zeros(reader.num_frames(episode) - 1)
    return np.asarray(reader.column("reward", episode)[:-1], np.float64)


def pad_actions(reader: Reader, episode: int) -> NDArray[np.float32]:
    """Actions [T,A] for formats with an action at every frame: the last leads nowhere and is 0."""
    return np.concatenate([reader.column("action", episode), np.zeros((1, reader.info.action_size), np.float32)])


def encode_factors(reader: Reader, episode: int) -> str:
    """An episode's factors as JSON that keeps every digit."""
    return json.dumps({name: np.asarray(value).tolist() for name, value in reader.factors(episode).items()})


def write_frames(group: h5py.Group, name: str, frames_THWC: Array) -> None:
    """Compressed pictures in an HDF5 file, one a chunk."""
    group.create_dataset(name, data=frames_THWC, chunks=(1, *frames_THWC.shape[1:]), compression="gzip")
