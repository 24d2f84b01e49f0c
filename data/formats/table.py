"""Flat tables with a row a step, in HDF5 or parquet, as stable-worldmodel writes them (arXiv 2605.21800).

The layout, as stable_worldmodel/{data/formats/hdf5,data/formats/lance,world/world}.py and docs/api/dataset.md of
galilai-group/stable-worldmodel have it; N rows over all episodes, those of an episode one after another:

    pixels                 uint8 [N,H,W,3]; in parquet image files (bytes, or {bytes, path}), or lists
    action                 [N,A]: of row t leads to row t + 1. The last of an episode leads nowhere and is NaN
    proprio, state, ...    [N,...]
    reward                 [N]: of row t is that of the action that led to it; NaN in an episode's first row
    terminated, truncated  [N]
    episode_idx, step_idx  [N]: the episode, and the step in it; older files call the first ep_idx
    ep_len, ep_offset      of HDF5 alone, a row an episode: number of rows, and the first of them. Files of its HDF5
                           writer have no episode_idx

`World.collect` moves the NaN of a reset, which leads to the first row, behind the actions that follow it. Until July
2026 it dropped the row of the reset; the last action row of an episode is then the first action. It is not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol

import h5py
import numpy as np

from data.checks import check_memory
from data.formats import dataset, files
from data.formats.dataset import Array, DataSetInfo, ExternalEpisode, check_names
from data.formats.files import ExternalError, get_item, open_hdf5
from data.formats.parquet import ColumnFacts, ParquetTable
from data.pictures import PictureError, Pictures, View, decode_picture, resize_pictures

HDF5, PARQUET = (".h5", ".hdf5"), (".parquet",)
EPISODE, OLD_EPISODE, STEP = "episode_idx", "ep_idx", "step_idx"
LENGTHS, OFFSETS = "ep_len", "ep_offset"
BOOKKEEPING = (EPISODE, OLD_EPISODE, STEP, "id")
ACTION, REWARD, PIXELS, PROPRIO, STATE = "action", "reward", "pixels", "proprio", "state"
NO_TRUTH = ("variation", "goal")  # begin the names of columns that are the same all through an episode
FIRST_STEPS = (0, 1)  # of an episode: 1 where the row of the reset was dropped
FILTER_NAMES = "hdf5plugin"  # a package with filters of HDF5 that h5py does not have


class StepTable(Protocol):
    """A table with a row a step. columns: of numbers or pictures. encoded: those of image files. unread: other ones."""

    num_rows: int
    columns: Mapping[str, ColumnFacts]
    encoded: Sequence[str]
    unread: Sequence[str]

    def read(self, name: str, start: int, stop: int, where: str) -> Array:
        """Rows [start, stop) of one of `columns`."""

    def read_images(self, name: str, start: int, stop: int, where: str) -> Iterator[bytes]:
        """The image files in rows [start, stop) of one of `encoded`."""


class HDF5Table:
    """A table in one HDF5 file. lengths: rows of each episode, where the file has ep_len."""

    encoded = ()

    def __init__(self, path: Path) -> None:
        self.path, self.lengths = path, None
        with open_hdf5(path) as file:
            found = {name: item for name, item in file.items() if isinstance(item, h5py.Dataset) and item.shape}
            self.unread = sorted(file.keys() - found.keys())
            if LENGTHS in found and OFFSETS in found:
                self.lengths = self._read_lengths(file)
            self.columns = {
                name: ColumnFacts(item.shape, item.dtype)
                for name, item in found.items()
                if name not in (LENGTHS, OFFSETS)
            }
        check_names(str(path), [ACTION], self.columns)
        self.num_rows = self.columns[ACTION].shape[0]
        for name, facts in self.columns.items():
            if facts.shape[0] != self.num_rows:
                raise ExternalError(f"{path} has {self.num_rows} rows of {ACTION} and {facts.shape[0]} of {name}")
        if not self.num_rows:
            raise ExternalError(f"{path} holds no rows")

    def _read_lengths(self, file: h5py.File) -> Array:
        """ep_len, once ep_offset says the same."""
        lengths, offsets = (
            read_integers(
                files.read_rows(get_item(file, name, h5py.Dataset, str(self.path)), f"{self.path} {name}"), name
            )
            for name in (LENGTHS, OFFSETS)
        )
        if len(lengths) != len(offsets) or (lengths < 1).any():
            raise ExternalError(f"{self.path} has {len(lengths)} rows of {LENGTHS} and {len(offsets)} of {OFFSETS}")
        if wrong := np.flatnonzero(offsets != np.cumsum(lengths) - lengths).tolist():
            raise ExternalError(
                f"{self.path} has {OFFSETS} {offsets[wrong[0]]} of episode {wrong[0]}, and the episodes before it have "
                f"{lengths[: wrong[0]].sum()} rows"
            )
        return lengths

    def read(self, name: str, start: int, stop: int, where: str) -> Array:
        with open_hdf5(self.path) as file:
            rows = get_item(file, name, h5py.Dataset, str(self.path))
            size = int(np.prod(rows.shape[1:], dtype=np.int64)) * rows.dtype.itemsize
            check_memory(f"{where} {name}", (stop - start) * size, "its episodes are too long to be read")
            check_filters(rows, f"{self.path} {name}")
            return np.asarray(rows[start:stop])

    def read_images(self, name: str, start: int, stop: int, where: str) -> Iterator[bytes]:
        raise NotImplementedError


def check_filters(rows: h5py.Dataset, where: str) -> None:
    """ExternalError if the dataset is compressed by what is not installed here."""
    facts = rows.id.get_create_plist()
    numbers = [facts.get_filter(k)[0] for k in range(facts.get_nfilters())]
    missing = [number for number in numbers if not h5py.h5z.filter_avail(number)]
    if not missing:
        return
    try:
        import_module(FILTER_NAMES)
    except ImportError as error:
        raise ExternalError(
            f"{where} is compressed by HDF5's filter {missing[0]}, which h5py has not: pip install {FILTER_NAMES}, or "
            "write the file again by h5repack -f GZIP=1"
        ) from error


def read_integers(rows: Array, where: str) -> Array:
    """A column of one whole number a row."""
    if rows.dtype.kind not in "iu" or rows.size != len(rows):
        raise ExternalError(f"{where} is {rows.dtype} {list(rows.shape)}: a whole number a row is needed")
    return rows.reshape(-1).astype(np.int64)


class Table(dataset.ExternalDataSet):
    """An HDF5 file, a parquet file, or all parquet files of a folder, read in the order of their names."""

    render_hint = "collect it with pixels: a column of uint8 [N, H, W, 3], or of PNG or JPEG files"

    def __init__(self, path: Path) -> None:
        self.path = path
        paths, self.left_out = files.find_files(path, (*HDF5, *PARQUET), "table")
        self.table = _open_table(path, paths)
        check_names(str(path), [ACTION], self.table.columns)
        numbers, begins = self._find_episodes()
        spans = list(zip(begins, [*begins[1:], self.table.num_rows], strict=True))
        self.episodes = []
        steps = None
        if STEP in self.table.columns:
            steps = read_integers(self.table.read(STEP, 0, self.table.num_rows, str(path)), f"{path} {STEP}")
        for number, (start, stop) in zip(numbers, spans, strict=True):
            name = path / f"episode_{number}"
            fault = None if steps is None else _find_step_fault(steps[start:stop])
            if fault is None:
                self.episodes.append(ExternalEpisode(name, (start, stop)))
            else:
                self.left_out.append(f"{name} {fault}")
        if not self.episodes:
            raise ExternalError(self.left_out[-1])
        self.info = self._describe()

    def _find_episodes(self) -> tuple[list[int], list[int]]:
        """The number of each episode, and its first row."""
        lengths = self.table.lengths if isinstance(self.table, HDF5Table) else None
        if lengths is not None and lengths.sum() != self.table.num_rows:
            raise ExternalError(f"{self.path} has {self.table.num_rows} rows, and {lengths.sum()} by {LENGTHS}")
        name = next((name for name in (EPISODE, OLD_EPISODE) if name in self.table.columns), None)
        if name is None and lengths is not None:
            return list(range(len(lengths))), (np.cumsum(lengths) - lengths).tolist()
        check_names(str(self.path), [name or EPISODE], [*self.table.columns, *self.table.encoded])
        if lengths is None:
            check_names(str(self.path), [STEP], [*self.table.columns, *self.table.encoded])
        rows = read_integers(self.table.read(str(name), 0, self.table.num_rows, str(self.path)), f"{self.path} {name}")
        if (back := np.flatnonzero(np.diff(rows) < 0)).size:
            raise ExternalError(self._describe_disorder(str(name), rows, int(back[0]) + 1))
        begins = [0, *(np.flatnonzero(np.diff(rows)) + 1).tolist()]
        if lengths is not None and begins != (np.cumsum(lengths) - lengths).tolist():
            raise ExternalError(f"{self.path} has episodes of other lengths by {name} than by {LENGTHS}")
        return rows[begins].tolist(), begins

    def _describe_disorder(self, name: str, rows: Array, row: int) -> str:
        """Why a row of an earlier episode than the one before it is refused."""
        found = f"row {row} has {name} {rows[row]} after {rows[row - 1]}"
        if isinstance(self.table, ParquetTable):
            before, after = self.table.locate(row - 1).file, self.table.locate(row).file
            if before != after:
                return (
                    f"{after} begins with {name} {rows[row]}, and {before.name}, which is before it by name, ends with "
                    f"{rows[row - 1]}: name the files in the order of their episodes (part-02, part-10)"
                )
            found = f"{after}: {found}"
        else:
            found = f"{self.path}: {found}"
        return f"{found}: sort the rows by {name} and {STEP}"

    def _describe(self) -> DataSetInfo:
        table = self.table
        observed = {name: facts for name, facts in table.columns.items() if name not in BOOKKEEPING}
        numbers = {n: s for n, s in dataset.select_numbers(observed).items() if n not in (ACTION, REWARD)}
        images, refused = dataset.select_pictures(observed), dict(dataset.refuse_pictures(observed))
        for name in table.encoded:
            try:
                first = next(table.read_images(name, 0, 1, str(self.path)))
                images[name] = decode_picture(first, name, self.add_note).shape
            except PictureError as error:
                refused[name] = str(error).removeprefix(f"{name} ")
        unread = {*table.unread, *table.columns, *table.encoded} - {*numbers, *images, *BOOKKEEPING, ACTION, REWARD}
        truth = [name for name in numbers if name != PROPRIO and not name.startswith(NO_TRUTH)]
        return DataSetInfo(
            env=self.path.stem if self.path.is_file() else self.path.resolve().name,
            env_kwargs={},
            rate=None,
            numbers=numbers,
            images=dict(sorted(images.items(), key=lambda item: item[0] != PIXELS)),
            proprio=(PROPRIO,) if PROPRIO in numbers else (),
            state=(STATE,) if STATE in numbers else (),
            truth=tuple(truth),
            unread=sorted(name for name in unread if not dataset.is_end(name)),
            refused=refused,
        )

    def read_numbers(self, episode: ExternalEpisode, names: Sequence[str]) -> dict[str, Array]:
        (start, stop), where = episode.location, str(episode.name)
        check_names(where, names, self.info.numbers)
        columns = {name: self.table.read(name, start, stop, where) for name in names}
        actions = self.table.read(ACTION, start, stop, where)
        if actions.dtype.kind == "f" and np.isnan(actions[0]).any() and not np.isnan(actions[-1]).any():
            raise ExternalError(
                f"{where} has its first action NaN, as of a reset: it keeps each action with the frame it led to, so "
                f"move the column {ACTION} one row up in each episode"
            )
        if REWARD in self.table.columns:
            reward = self.table.read(REWARD, start, stop, where).reshape(stop - start, -1)
            columns[REWARD] = np.append(reward[1:], np.full_like(reward[:1], np.nan, dtype=np.float64), axis=0)
        flags = {name: self.table.read(name, start, stop, where) for name in self.table.columns if dataset.is_end(name)}
        dataset.check_ends(where, flags, stop - start)
        return columns | {ACTION: dataset.check_actions(where, actions[:-1], stop - start)}

    def read_pictures(self, episode: ExternalEpisode, name: str, size_hw: tuple[int, int], view: View) -> Pictures:
        (start, stop), where = episode.location, str(episode.name)
        check_names(where, [name], self.info.images)
        if name not in self.table.encoded:
            return self.convert_to_size(episode, name, self.table.read(name, start, stop, where), size_hw, view)
        first_hw = self.info.images[name][:2]
        check_memory(f"{where} {name}", (stop - start) * size_hw[0] * size_hw[1] * 3, "its episodes are too long")
        frames = np.empty((stop - start, *size_hw, 3), np.uint8)
        with self.name_episode(episode):
            for row, encoded in enumerate(self.table.read_images(name, start, stop, where)):
                frame = decode_picture(encoded, name, self.add_note)
                if frame.shape[:2] != first_hw:
                    sizes = " and ".join(f"{height}x{width}" for height, width in (frame.shape[:2], first_hw))
                    raise ExternalError(f"{where} has {name} of {sizes} pixels (height x width), first in row {row}")
                frames[row] = resize_pictures(frame, size_hw, view)
        return frames


def _open_table(path: Path, paths: Sequence[Path]) -> HDF5Table | ParquetTable:
    """The table in one HDF5 file, or in one or several of parquet. ExternalError for other files."""
    other = [file for file in paths if file.suffix not in PARQUET]
    if not other:
        return ParquetTable(paths, path if path.is_dir() else path.parent)
    if len(paths) > 1:
        names = ", ".join(file.name for file in paths[:3])
        raise ExternalError(
            f"{path} holds {len(paths)} tables ({names}), and an HDF5 table is one file: give one by path="
        )
    if other[0].suffix not in HDF5:
        raise ExternalError(f"{other[0]} is no table: give a file ending in {', '.join((*HDF5, *PARQUET))}")
    return HDF5Table(other[0])


def _find_step_fault(steps: Array) -> str | None:
    """Why the steps of an episode's rows are refused; None where one follows another."""
    if steps[0] not in FIRST_STEPS:
        return f"begins with {STEP} {steps[0]}: rows before it are missing"
    wrong = np.flatnonzero(np.diff(steps) != 1)
    if not wrong.size:
        return None
    before, after = (int(step) for step in steps[wrong[0] : wrong[0] + 2])
    if before == after:
        return f"has {STEP} {after} twice"
    if after > before:
        return f"has no {STEP} {before + 1}: {after} follows {before}"
    return f"has {STEP} {after} after {before}: sort the rows by {EPISODE} and {STEP}"
