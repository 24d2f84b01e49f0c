"""What trajectory files of other programs have in common, whatever their format.

A format is a module beside this one (`robomimic.py`, `ogbench.py`, `minari.py`, `lerobot.py`, `table.py`,
`dino_wm.py`). It has an `ExternalDataSet` that opens a data set, describes it (`DataSetInfo`) and reads its episodes,
and, but for the last two, a function that writes one from our own file. Which columns become ours is decided where the
formats meet the configuration (`commands.transfer.external`). A data set that we exported also holds the `StoreInfo` of
its source, so that importing it restores every number, name, seed and split.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import h5py
import numpy as np
import pydantic
from numpy.typing import NDArray

from data.checks import FileError
from data.formats.files import ExternalError
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
from data.schema import NO_SEED, NUMBER_KINDS, Column, StoreInfo
from data.store import Reader

Array = NDArray[Any]
EXPORT_KEY = "jepa"  # name of the attribute, array or file that holds the StoreInfo of an exported data set
LEAST_SIDE_PX = 8  # of an array that counts as a picture
LEAST_FPS, MOST_FPS = 1e-3, 1e5
Rate = Annotated[float, pydantic.Field(ge=LEAST_FPS, le=MOST_FPS)]  # frames a second
# Columns that tell where an episode ends, by the last part of their name. They are facts of the recording, no
# observation. At the first kind an episode is over; the second may be repeated after a success.
ENDS = ("terminals", "terminations", "timeouts", "truncations", "terminated", "truncated", "TimeLimit.truncated")
OTHER_ENDS = ("dones", "done", "next.done", "next.terminated", "next.truncated", "is_last", "is_terminal")


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
    where the format marks them. state: the columns that set a simulator up again. truth: those of ground truth, where
    the format marks them. names: of the components of a column
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
    truth: tuple[str, ...] = ()
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    bounds: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    unread: Sequence[str] = ()
    store_info: StoreInfo | None = None
    refused: Mapping[str, str] = field(default_factory=dict)


class ExternalDataSet(ABC):
    """A data set of another format. left_out: a sentence on each file or episode that cannot be used. render_hint: how
    to get pictures where it holds none. `notes`: what reading pictures has changed in them so far, a sentence each."""

    info: DataSetInfo
    episodes: list[ExternalEpisode]
    left_out: list[str]
    render_hint: str

    @cached_property
    def notes(self) -> list[str]:
        return []

    def measure_pictures(self, name: str) -> tuple[int, int]:
        """Height and width of a column's pictures, in the first episode in which they can be decoded; as declared where
        there is no episode."""
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
        if errors:
            raise errors[0]
        return declared[0], declared[1]

    def measure_episode(self, episode: ExternalEpisode, name: str) -> tuple[int, int]:
        """Height and width of a column's first picture; a format that only declares them decodes it."""
        height, width = self.info.images[name][:2]
        return height, width

    def convert_to_size(
        self, episode: ExternalEpisode, name: str, frames: Array, size_hw: tuple[int, int], view: View
    ) -> Pictures:
        """Recorded arrays [T,H,W,...] of one size [T,H,W,3]. ExternalError names the episode."""
        with self.name_episode(episode):
            return resize_pictures(convert_pictures(frames, name, self.add_note), size_hw, view)

    def decode_to_size(
        self, episode: ExternalEpisode, name: str, encoded: Iterable[bytes], size_hw: tuple[int, int], view: View
    ) -> Pictures:
        """Image files of one size [T,H,W,3]. ExternalError names the episode."""
        with self.name_episode(episode):
            frames = (decode_picture(bytes(each), name, self.add_note) for each in encoded)
            return np.stack([resize_pictures(frame, size_hw, view) for frame in frames])

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
    def read_pictures(self, episode: ExternalEpisode, name: str, size_hw: tuple[int, int], view: View) -> Pictures:
        """An episode's frames of one size [T,H,W,3]."""

    def external_name(self, column: str) -> str:
        """The name that one of our columns has in our exports."""
        return column

    def describe_first(self, describe: Callable[[ExternalEpisode], DataSetInfo]) -> DataSetInfo:
        """The data set as its first episode that can be read shows it; those before it are left out.

        ExternalError where there is none.
        """
        reasons = []
        for number, episode in enumerate(self.episodes):
            try:
                info = describe(episode)
            except FileError as error:
                reasons.append(str(error))
            else:
                self.left_out += reasons
                self.episodes = self.episodes[number:]
                return info
        raise ExternalError(reasons[0])


# --- arrays


def select_pictures(arrays: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes [H,W,...] of those arrays (anything with shape and dtype) that are stacks of pictures, colour first."""
    found = {name: tuple(a.shape[1:]) for name, a in arrays.items() if is_pictures(a.shape, a.dtype)}
    return dict(sorted(found.items(), key=lambda item: item[1][2:] in ((), (1,))))


def refuse_pictures(arrays: Mapping[str, Any]) -> dict[str, str]:
    """Why those arrays that look like stacks of pictures are none that can be read."""
    faults = {n: find_fault(a.shape, a.dtype) for n, a in arrays.items() if looks_like_pictures(a.shape, a.dtype)}
    return {name: fault for name, fault in faults.items() if fault is not None}


def select_numbers(arrays: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of a row of those arrays that hold a number or a vector for each frame, but for ends of episodes."""
    return {
        name: tuple(a.shape[1:])
        for name, a in arrays.items()
        if a.shape is not None
        and 1 <= len(a.shape) <= 2
        and math.prod(a.shape[1:])
        and a.dtype.kind in NUMBER_KINDS
        and not is_end(name)
        and name.rpartition("/")[2] not in OTHER_ENDS
    }


def is_end(name: str) -> bool:
    """Whether a column tells at which step an episode ends."""
    return name.rpartition("/")[2] in ENDS


def check_rows(where: str, name: str, rows: Array, frames: int, shape: Sequence[int] | None = None) -> None:
    """ExternalError unless these are real numbers for so many frames, of the size that a row of that shape has."""
    if rows.dtype.kind not in NUMBER_KINDS:
        raise ExternalError(f"{where} has {name} of type {rows.dtype}: real numbers are needed")
    if len(rows) != frames:
        raise ExternalError(f"{where} has {frames} frames and {len(rows)} rows of {name}")
    size, wanted = math.prod(rows.shape[1:]), None if shape is None else math.prod(shape)
    if wanted is not None and size != wanted:
        raise ExternalError(f"{where} has {name} of {size} numbers, and the first episode has {wanted}")


def check_ends(where: str, flags: Mapping[str, Array], frames: int) -> None:
    """ExternalError if one of these columns of `is_end` is set before the last of T - 1 actions."""
    for name, rows in flags.items():
        if (early := np.flatnonzero(rows[: max(frames - 2, 0)])).size:
            raise ExternalError(
                f"{where} ends by {name} after step {early[0] + 1} of {frames - 1}: several recordings in one episode "
                "have no action between them, so save each as an episode"
            )


def check_names(where: str, wanted: Sequence[str], available: Collection[str]) -> None:
    """ExternalError unless all wanted names are available; lists those that are."""
    missing = [name for name in wanted if name not in available]
    if missing:
        names = ", ".join(sorted(available)) or "nothing"
        raise ExternalError(f"{where} has no {', '.join(missing)} (it has: {names})")


def check_actions(where: str, actions: Array, frames: int) -> Array:
    """Actions [T-1,A] of T frames; ExternalError if their number is another, or they are no real numbers."""
    actions = np.asarray(actions)
    if actions.dtype.kind not in NUMBER_KINDS or not actions.ndim or not math.prod(actions.shape[1:]):
        raise ExternalError(
            f"{where} has actions of type {actions.dtype} and shape {list(actions.shape)}: a row of real numbers for "
            "every step is needed"
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused as such
        actions = actions.reshape(len(actions), math.prod(actions.shape[1:])).astype(np.float32)
    if len(actions) != frames - 1:
        raise ExternalError(f"{where} has {len(actions)} actions between {frames} frames: {frames - 1} are needed")
    return actions


def check_fps(fps: float) -> float:
    """A rate in frames a second; ValueError for one that no recording has."""
    if not LEAST_FPS <= fps <= MOST_FPS:
        raise ValueError(f"fps={fps}: give a rate above 0, {LEAST_FPS:g} to {MOST_FPS:g} frames a second")
    return float(fps)


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
    except ValueError as error:
        raise ExternalError(f"the facts that jepa export wrote into the data set are damaged: {error}") from error


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
