"""What trajectory files of other programs have in common, whatever their format.

A format is a module beside this one (`robomimic.py`, `ogbench.py`, `minari.py`, `lerobot.py`) with a class that opens a
data set of that format, says what it holds (`Contents`, `Episode`) and reads an episode of it, and a function that
writes one from our own file. What its columns become here is not decided there but where the formats meet the
configuration (`commands.transfer.external`).

A data set that we wrote ourselves carries its facts (`DataSetInfo.store_info`), so that the way back
restores every number, name, seed and split.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import av
import h5py
import numpy as np
from numpy.typing import NDArray

from data.schema import NO_SEED, Column, StoreInfo
from data.store import Reader
from data.video import Pictures, View, convert_frame

Array = NDArray[Any]
EXPORT_KEY = "jepa"  # name of the attribute, member or file in which our own export leaves the facts of its source


class ExternalError(ValueError):
    """A file of another program cannot be used; the message is one sentence for the user."""


@dataclass(frozen=True)
class ExternalEpisode:
    """One trajectory: `name` and `location` are the format's. split: train, val or eval, None where the format says
    nothing of it. factors: what differs in the simulator's model."""

    name: Path
    location: Any
    split: str | None = None
    seed: int = NO_SEED
    factors: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DataSetInfo:
    """What a data set holds, as its first episode shows.

    env: the environment by the format's name; rate: frames a second, None where the format records none. numbers and
    images: columns with a row for every frame, and the shape of a row. proprio: the columns of proprioception, where
    the format marks them; state: those that set a simulator up again. names: of the numbers in a column, or in
    `action`, if the format gives them; bounds: low and high of the actions, likewise. unread: what else the files hold,
    in words.
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
    unread: str = ""
    store_info: StoreInfo | None = None


class ExternalDataSet(Protocol):
    """A data set of another format, opened. `render_hint`: what to do where it holds no pictures."""

    info: DataSetInfo
    episodes: Sequence[ExternalEpisode]
    render_hint: str

    def read_numbers(self, episode: ExternalEpisode, names: Sequence[str]) -> dict[str, Array]:
        """`action` [T-1,A], `reward` [T] where there is one, and these columns [T,...]. ExternalError if it cannot."""
        ...

    def read_pictures(self, episode: ExternalEpisode, name: str, size_px: int, view: View) -> Pictures:
        """[T,size,size,3]"""
        ...

    def external_name(self, column: str) -> str:
        """What a column of ours is called in a data set that we wrote."""
        ...


# --- reading


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file, to read; ExternalError where it is none, or cut short."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except OSError as error:
        raise ExternalError(f"{path} cannot be read as HDF5, or is cut short: copy it again") from error


def find_files(path: Path, suffixes: Sequence[str], what: str) -> list[Path]:
    """The file itself, or all files with such a suffix in a folder and below it, by name; ExternalError if none."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ExternalError(f"path={path} is neither a file nor a folder: give the {what}, or a folder that holds it")
    found = sorted(file for suffix in suffixes for file in path.rglob(f"*{suffix}"))
    if not found:
        raise ExternalError(f"there is no {what} ({', '.join(suffixes)}) in {path}")
    return found


def is_pictures(shape: Sequence[int], dtype: Any) -> bool:
    """Whether an array [T,...] is a stack of pictures in colour."""
    return len(shape) == 4 and shape[3] == 3 and min(shape[1:3]) >= 8 and np.dtype(dtype) == np.uint8


def is_numbers(shape: Sequence[int], dtype: Any) -> bool:
    """Whether an array [T,...] holds a number or a vector of numbers for each frame."""
    return 1 <= len(shape) <= 2 and np.dtype(dtype).kind in "fiub"


def decode_picture(encoded: Any) -> Pictures:
    """A JPEG's or PNG's bytes as a picture [H,W,3]; the numbers are those that PIL gives, which the formats use."""
    from PIL import Image

    try:
        return np.asarray(Image.open(io.BytesIO(bytes(encoded))).convert("RGB"))
    except (OSError, ValueError) as error:
        raise ExternalError("a picture cannot be decoded: copy the data set again") from error


def resize_to_square(frames_THWC: Array, size_px: int, view: View) -> Pictures:
    """Frames as squares of a size: untouched where they are that already, else as `data.video.picture` makes them."""
    if frames_THWC.shape[1:3] == (size_px, size_px):
        return np.ascontiguousarray(frames_THWC)
    frames = (av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24") for frame in frames_THWC)
    return np.stack([convert_frame(frame, (size_px, size_px), view) for frame in frames])


def check_names(where: str, wanted: Sequence[str], there: Sequence[str]) -> None:
    """ExternalError unless all names wanted are there; says which are."""
    lacking = [name for name in wanted if name not in there]
    if lacking:
        raise ExternalError(f"{where} has no {', '.join(lacking)} (it has: {', '.join(sorted(there)) or 'nothing'})")


def check_actions(where: str, actions: Array, frames: int) -> Array:
    """Actions [T-1,A] of T frames; ExternalError unless there is one between any two frames."""
    actions = np.asarray(actions, np.float32)
    actions = actions.reshape(len(actions), -1)
    if len(actions) != frames - 1:
        raise ExternalError(f"{where} has {len(actions)} actions between {frames} frames: {frames - 1} are needed")
    return actions


def require_equal(values: Mapping[str, Any], what: str) -> Any:
    """The value that all files share; ExternalError names two that differ."""
    names = list(values)
    for name in names[1:]:
        if values[name] != values[names[0]]:
            raise ExternalError(
                f"{names[0]} and {name} differ in {what} ({values[names[0]]} against {values[name]}): "
                "import them apart, each with a path= of its own"
            )
    return values[names[0]]


def parse_store_info(text: Any) -> StoreInfo | None:
    """The facts that our export left, None where there are none."""
    try:
        return None if text is None else StoreInfo.from_json(str(text))
    except (KeyError, TypeError, ValueError) as error:
        raise ExternalError(f"what jepa export left in the data set is damaged ({error})") from error


# --- writing


def list_number_columns(info: StoreInfo) -> list[Column]:
    """Columns of numbers with a row for every frame."""
    return [column for column in info.columns if column.name not in ("pixels", "action")]


def read_rewards(reader: Reader, episode: int) -> NDArray[np.float64]:
    """Rewards of an episode's actions [T-1]: those recorded, else zeros."""
    if "reward" not in {column.name for column in reader.info.columns}:
        return np.zeros(reader.num_frames(episode) - 1)
    return np.asarray(reader.column("reward", episode)[:-1], np.float64)


def pad_actions(reader: Reader, episode: int) -> NDArray[np.float32]:
    """Actions [T,A] for formats with a row an action at every frame: the last leads nowhere and is 0."""
    return np.concatenate([reader.column("action", episode), np.zeros((1, reader.info.action_size), np.float32)])


def encode_factors(reader: Reader, episode: int) -> str:
    """What differs in an episode's model, as JSON that keeps every digit."""
    return json.dumps({name: np.asarray(value).tolist() for name, value in reader.factors(episode).items()})
