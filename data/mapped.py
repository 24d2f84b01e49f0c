"""The bytes of a trajectory file: laying one out at full capacity, checking one, mapping one.

The schema and the reasons for it are at the top of `data/store.py`.
"""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import pydantic
from numpy.typing import NDArray

from data import hdf5
from data.checks import FileError, parse_fields
from data.disk import PathLike, check_free_space, reserve_blocks, temporary_beside
from data.schema import SCHEMA, SPLITS, Column, EpisodePlan, StoreError, StoreInfo

Array = NDArray[Any]
PACKED = "pixels"  # the column that may be compressed
CHECKSUM = 2  # version of the checksums that are written: from 2 on, an episode's split and `info` enter them
UNKNOWN_AT_LAST = ("action", "reward")  # columns whose last row leads nowhere and may be nan
EPISODE_COLUMNS = (
    Column("start", (), "int64"),
    Column("length", (), "int64"),
    Column("seed", (), "int64"),
    Column("crc32", (), "uint32"),
    Column("split", (), "uint8"),
)


# --- laying a file out


def create_file(path: PathLike, info: StoreInfo, plan: EpisodePlan) -> None:
    """Lays out a file for the planned episodes, all empty; StoreError if it exists or the disk is too small."""
    path = Path(path)
    if path.exists():
        raise StoreError(f"{path} exists and is never overwritten: give another name, or remove it first")
    check_free_space(path, plan.capacity * info.frame_bytes)
    with temporary_beside(path) as temporary:
        lay_out(temporary, info, plan)
        reserve_blocks(temporary)


def lay_out(path: Path, info: StoreInfo, plan: EpisodePlan, gzip_level: int | None = None) -> None:
    """Writes the HDF5 structure and the columns over episodes; columns over frames are allocated and not written.

    gzip_level: of the pixels, which then become compressed chunks of one frame.
    """
    episodes = {"start": plan.starts, "seed": plan.seeds, "split": plan.splits}
    # Aligned so that the mapped arrays are aligned, too: numpy and torch are slow, or refuse, where they are not.
    with h5py.File(path, "w", alignment_threshold=1, alignment_interval=64) as file:
        file.attrs["schema"] = SCHEMA
        file.attrs["info"] = text = info.to_json()
        file.attrs["splits"] = list(SPLITS)
        file.attrs["checksum"] = CHECKSUM
        file.attrs["info_crc32"] = zlib.crc32(text.encode())
        for column in info.columns:
            if column.name == PACKED and gzip_level is not None:
                shape, chunks = (plan.capacity, *column.shape), (1, *column.shape)
                file.create_dataset(column.name, shape, column.dtype, chunks=chunks, compression=gzip_level)
            else:
                _allocate_dataset(file, column, plan.capacity)
        for group, columns in (("episode", EPISODE_COLUMNS), ("episode/factors", info.factors)):
            for column in columns:
                dataset = _allocate_dataset(file.require_group(group), column, len(plan.lengths))
                dataset[...] = episodes.get(column.name, 0) if group == "episode" else 0


def _allocate_dataset(group: h5py.Group, column: Column, rows: int) -> h5py.Dataset:
    """A contiguous dataset of fixed size, whose position in the file is final and whose bytes are not written."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.CONTIGUOUS)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    return group.create_dataset(column.name, (rows, *column.shape), column.dtype, dcpl=properties)


# --- opening one


class PackedColumn(h5py.Dataset):
    """A compressed column, one row a chunk, that readers use like an array; HDF5 decompresses one thread at a time."""

    def __init__(self, path: Path, name: str) -> None:
        super().__init__(_open_hdf5(path)[name].id)

    def take(self, rows: Array, axis: int = 0) -> Array:
        """Rows [...] -> [..., *row]; a row that occurs twice is decompressed once."""
        assert axis == 0, axis
        unique, inverse = np.unique(rows, return_inverse=True)
        values = np.empty((len(unique), *self.shape[1:]), self.dtype)
        for number, row in enumerate(unique):
            self.read_direct(values, np.s_[int(row)], np.s_[number])
        return values[inverse.reshape(np.shape(rows))]


class MappedFile:
    """One file, checked and mapped: `columns`, `episode` and `factors` are arrays over its bytes.

    A compressed column is a `PackedColumn`. StoreError if the file is no complete trajectory file.
    """

    def __init__(self, path: Path, mode: Literal["r", "r+"]) -> None:
        self.path = path
        with _open_hdf5(path) as file, _explain_damage(path):
            self.header = _read_header(path, file)
            self.info = _parse_info(path, self.header)
            packed = file.get(PACKED)
            self.packed = isinstance(packed, h5py.Dataset) and packed.chunks is not None
            if self.packed and mode == "r+":
                raise StoreError(f"{path} is packed and no longer written to: collect into another file")
            try:
                with path.open("rb" if mode == "r" else "r+b") as raw:
                    access = mmap.ACCESS_READ if mode == "r" else mmap.ACCESS_WRITE
                    self._pages = mmap.mmap(raw.fileno(), 0, access=access)
            except OSError as error:
                raise StoreError(f"{path} cannot be mapped ({error.strerror or error})") from error
            self.columns: dict[str, Any] = {c.name: self._open_column(file, c) for c in self.info.columns}
            self.episode = {c.name: self._view(file, f"episode/{c.name}", c) for c in EPISODE_COLUMNS}
            self.factors = {c.name: self._view(file, f"episode/factors/{c.name}", c) for c in self.info.factors}
        self._check_rows()

    def _open_column(self, file: h5py.File, column: Column) -> Any:
        """A column over frames, mapped unless it is packed."""
        if self.packed and column.name == PACKED:
            self._find_dataset(file, PACKED, column)
            return PackedColumn(self.path, PACKED)
        return self._view(file, column.name, column)

    def _find_dataset(self, file: h5py.File, name: str, column: Column) -> h5py.Dataset:
        """A dataset of the type, and with rows of the shape, that the column has."""
        dataset = file.get(name)
        if not isinstance(dataset, h5py.Dataset):
            raise StoreError(f"{self.path} has no {name}: it is no complete schema {SCHEMA} file")
        if not dataset.shape or dataset.shape[1:] != column.shape or dataset.dtype != np.dtype(column.dtype):
            raise StoreError(
                f"{self.path} has {name} of type {dataset.dtype} and shape {dataset.shape}, where rows of type "
                f"{column.dtype} and shape {column.shape} are declared: write the file again by data.store.Writer"
            )
        return dataset

    def _view(self, file: h5py.File, name: str, column: Column) -> Array:
        """A dataset as an array over the file's bytes."""
        dataset = self._find_dataset(file, name, column)
        if dataset.chunks is not None:
            raise StoreError(f"{self.path} stores {name} in chunks, which only {PACKED} may be: collect it again")
        offset = dataset.id.get_offset()
        if offset is None and dataset.size:
            raise StoreError(f"{self.path} has no bytes for {name}: it was not laid out by this program")
        end = (offset or 0) + dataset.size * dataset.dtype.itemsize
        if end > len(self._pages):
            raise StoreError(
                f"{self.path} is cut short: {name} ends at byte {end}, the file at {len(self._pages)}; copy it again"
            )
        return np.ndarray(dataset.shape, dataset.dtype, self._pages, offset or 0)

    def _check_rows(self) -> None:
        rows = {name: len(array) for name, array in self.columns.items()}
        entries = {len(array) for array in (*self.episode.values(), *self.factors.values())}
        start, length, split = (self.episode[name] for name in ("start", "length", "split"))
        if len(set(rows.values())) != 1 or len(entries) != 1:
            raise StoreError(f"{self.path} contradicts itself (rows {rows}, episodes {sorted(entries)}): copy it again")
        end = np.append(start[1:], self.num_rows)
        outside = (start < 0) | (end > self.num_rows) | (end < start) | (length < 0) | (length > end - start)
        if self.header.checksum == 1:  # later ones detect it, and name the episode
            outside |= split >= len(SPLITS)
        if outside.any():
            names = np.flatnonzero(outside).tolist()
            raise StoreError(
                f"{self.path} contradicts itself ({self.num_rows} rows, episodes that overlap, lie beyond them or are "
                f"of no split: {names}): copy it again"
            )

    @property
    def num_rows(self) -> int:
        return len(self.columns["pixels"])

    def compute_checksum(self, index: int, length: int) -> int:
        """CRC-32 of an episode of that length: its position, seed, split, factors and rows of all columns, in this
        order. Files from before version 2 leave the split out."""
        start = int(self.episode["start"][index])
        names = ("seed", "split") if self.header.checksum > 1 else ("seed",)
        facts = [start, length, *(int(self.episode[name][index]) for name in names)]
        crc = zlib.crc32(np.array(facts, np.int64).tobytes())
        for array in self.factors.values():
            crc = zlib.crc32(np.ascontiguousarray(array[index]).tobytes(), crc)
        for array in self.columns.values():
            rows = array[start : start + length]
            if rows.size:
                crc = zlib.crc32(rows.reshape(-1).view(np.uint8).data, crc)
        return crc

    def _is_intact(self, index: int) -> bool:
        try:
            return self.compute_checksum(index, int(self.episode["length"][index])) == self.episode["crc32"][index]
        except OSError:  # of HDF5: a chunk that cannot be decompressed
            return False

    def find_damaged(self) -> dict[int, str]:
        """Complete episodes that cannot be used, and what is wrong with each; reads the whole file once."""
        damaged = {}
        for index in map(int, np.flatnonzero(self.episode["length"])):
            if not self._is_intact(index):
                damaged[index] = "the checksum fails for"
            elif name := self.find_strange_numbers(index, int(self.episode["length"][index])):
                damaged[index] = f"{name} holds numbers that are not finite in"
        if hasattr(mmap, "MADV_DONTNEED"):
            self._pages.madvise(mmap.MADV_DONTNEED)  # the pages stay in the system's cache, not in our resident memory
        return damaged

    def find_strange_numbers(self, index: int, length: int) -> str | None:
        """The first column, or factor, of an episode of that length with a number that is nan or infinite."""
        start = int(self.episode["start"][index])
        rows = {
            name: array[start : start + length - (name in UNKNOWN_AT_LAST)]
            for name, array in self.columns.items()
            if array.dtype.kind == "f"
        }
        rows |= {name: array[index] for name, array in self.factors.items()}
        return next((name for name, values in rows.items() if not np.isfinite(values).all()), None)


@contextmanager
def _explain_damage(path: Path) -> Iterator[None]:
    """Turns what h5py raises where the structure of a file is damaged into a StoreError that names it."""
    try:
        yield
    except StoreError:
        raise
    except hdf5.DAMAGE as error:
        raise StoreError(f"{path} is damaged ({error}): copy it again") from error


def _open_hdf5(path: Path) -> h5py.File:
    if not path.exists():
        raise StoreError(f"{path} does not exist: give the file that `jepa collect` wrote")
    if path.is_dir():
        raise StoreError(f"{path} is a folder: name the file in it, or several as {path}/*.h5")
    try:
        return hdf5.open_hdf5(path)
    except FileError as error:
        raise StoreError(str(error)) from error
    except OSError as error:
        if "truncated" in str(error):
            raise StoreError(f"{path} is cut short ({path.stat().st_size} bytes are there): copy it again") from error
        if isinstance(error, PermissionError) or "ermission" in str(error):
            raise StoreError(f"{path} may not be read by this user") from error
        raise StoreError(f"{path} is not an HDF5 file, or its head is damaged: copy it again") from error


class Header(pydantic.BaseModel):
    """The attributes of a file. checksum: version of its checksums."""

    schema_version: int = pydantic.Field(alias="schema")
    splits: list[str]
    info: str
    checksum: int = 1
    info_crc32: int | None = None


def _read_header(path: Path, file: h5py.File) -> Header:
    if "schema" not in file.attrs:
        raise StoreError(
            f"{path} is HDF5 but no trajectory file (no schema attribute): give one that `jepa collect` wrote"
        )
    attributes = hdf5.read_attributes(file)
    if (schema := attributes["schema"]) != SCHEMA:
        raise StoreError(
            f"{path} has schema {schema}, this version reads schema {SCHEMA}: collect it again, or read it "
            f"with the version that wrote it"
        )
    try:
        header = parse_fields(Header, attributes, path)
    except FileError as error:
        raise StoreError(str(error)) from error
    if not 1 <= header.checksum <= CHECKSUM:
        raise StoreError(f"{path} has checksums of version {header.checksum}, this version reads 1 to {CHECKSUM}")
    if header.splits != list(SPLITS):
        raise StoreError(f"{path} names its splits {header.splits}, not {list(SPLITS)}")
    return header


def _parse_info(path: Path, header: Header) -> StoreInfo:
    if header.info_crc32 not in (None, zlib.crc32(header.info.encode())):
        raise StoreError(f"{path} has a damaged `info` attribute (its checksum fails): copy it again")
    try:
        return StoreInfo.from_json(header.info)
    except ValueError as error:
        raise StoreError(f"{path} has a damaged `info` attribute: {error}") from error
