"""Files of other programs: finding them, opening them, and the names of their episodes.

Hidden files are passed over, unfinished ones named, and what leads out of a folder or points at other files is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import h5py
import numpy as np
import pydantic
from numpy.typing import NDArray

from data import hdf5
from data.checks import FileError, parse_json, resolve_inside
from data.schema import NO_SEED

LEFTOVERS = (".tmp", ".temp", ".part", ".partial", ".bak", ".crdownload")  # before the suffix of an unfinished file
Item = TypeVar("Item", h5py.Group, h5py.Dataset)


class ExternalError(FileError):
    """A file of another program cannot be used; the message is one sentence for the user."""


@contextmanager
def explain_damage(path: Path, kind: str, *errors: type[Exception]) -> Iterator[None]:
    """Turns errors of a library that reads the file into an ExternalError that names it."""
    try:
        yield
    except FileError:
        raise
    except errors as error:
        raise ExternalError(f"{path} cannot be read as {kind}, or is cut short: copy it again") from error


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file for reading; FileError if it is none, is damaged, or points at other files."""
    with explain_damage(path, "HDF5", *hdf5.DAMAGE), hdf5.open_hdf5(path) as file:
        yield file


def list_files(root: Path, pattern: str) -> list[Path]:
    """Regular files below a folder whose name matches, by path, without hidden ones and hidden folders.

    FileError for a symbolic link that leads out of the folder.
    """
    found = [path.relative_to(root) for path in root.rglob(pattern)]
    visible = sorted(path for path in found if not any(part.startswith(".") for part in path.parts))
    return [path for path in (resolve_inside(root, str(name), root) for name in visible) if path.is_file()]


def find_files(path: Path, suffixes: Sequence[str], what: str) -> tuple[list[Path], list[str]]:
    """The file itself, or all files with such a suffix in a folder and below it, by name; ExternalError if none.

    Also a sentence on each file that was left out, because its name tells that it is unfinished.
    """
    if path.is_file():
        return [path], []
    if not path.is_dir():
        raise ExternalError(f"path={path} is neither a file nor a folder: give the {what}, or a folder that holds it")
    found = sorted(file for suffix in suffixes for file in list_files(path, f"*{suffix}"))
    unfinished = [file for file in found if set(LEFTOVERS) & {suffix.lower() for suffix in file.suffixes[:-1]}]
    files = [file for file in found if file not in unfinished]
    if not files:
        but = f" but {unfinished[0].name}, which is unfinished by its name" if unfinished else ""
        raise ExternalError(f"there is no {what} ({', '.join(suffixes)}) in {path}{but}")
    return files, [f"{file} is unfinished by its name" for file in unfinished]


def sort_numbered(names: Iterable[str], stem: str, where: Path | str) -> tuple[list[str], list[str]]:
    """The names that are `stem` and a number, by number; and a sentence on each other name, which is left out."""
    matches = {name: re.fullmatch(rf"{stem}([0-9]{{1,18}})", name) for name in names}
    numbers = {name: int(match[1]) for name, match in matches.items() if match}
    strange = [f"{where} {name} is not named {stem}NUMBER" for name, match in matches.items() if not match]
    return sorted(numbers, key=lambda name: (numbers[name], name)), strange


# --- content of HDF5 files


def get_item(group: h5py.Group, name: str, kind: type[Item], where: str) -> Item:
    """A group or dataset of a group; ExternalError where it is missing, leads nowhere, or is of the other kind."""
    item = group.get(name)
    if item is None and name in group.keys():
        raise ExternalError(f"{where} has {name}, a link that leads nowhere")
    if item is None:
        raise ExternalError(f"{where} has no {name} (it has: {', '.join(sorted(group)) or 'nothing'})")
    if not isinstance(item, kind):
        raise ExternalError(f"{where} has {name}, which is no {kind.__name__.lower()}")
    return item


def read_rows(dataset: h5py.Dataset, where: str) -> NDArray[Any]:
    """All rows of a dataset; ExternalError for a dataset without rows. FileError if they would not fit into memory."""
    rows = np.asarray(hdf5.read_dataset(dataset, where))
    if not rows.ndim:
        raise ExternalError(f"{where} is a single value, and a row for every frame is needed")
    return rows


class EpisodeFacts(pydantic.BaseModel):
    """Facts of an episode that files of HDF5 keep as attributes; factors and split are of our exports."""

    seed: Annotated[int, pydantic.Field(ge=NO_SEED, le=2**63 - 1)] = NO_SEED
    split: str | None = None
    factors: dict[str, Any] = {}

    @pydantic.field_validator("seed", mode="before")
    @classmethod
    def _read_none(cls, value: Any) -> Any:
        return NO_SEED if value in ("None", "") else value  # as older versions of Minari write it

    @pydantic.field_validator("factors", mode="before")
    @classmethod
    def _parse(cls, value: Any) -> Any:
        return parse_json(value, "factors") if isinstance(value, str) else value
