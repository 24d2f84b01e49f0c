"""The bytes under a trajectory file: laying one out at full capacity, asking the disk, mapping what is there.

The schema and the reasons are at the top of `data/store.py`.
"""

from __future__ import annotations

import mmap
import zlib
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from data.disk import PathLike, check_free_space, reserve_blocks, temporary_beside
from data.schema import SCHEMA, SPLITS, Column, EpisodePlan, StoreError, StoreInfo

Array = NDArray[Any]
PACKED = "pixels"  # the column that may be compressed
EPISODE_COLUMNS = (
    ("start", "int64"),
    ("length", "int64"),
    ("seed", "int64"),
    ("crc32", "uint32"),
    ("split", "uint8"),
)


# --- laying a file out


def create_file(path: PathLike, info: StoreInfo, plan: EpisodePlan) -> None:
    """Lays out a file for the planned episodes, all empty; StoreError if it exists or the disk is small."""
    path = Path(path)
    if path.exists():
        raise StoreError(f"{path} exists and is never overwritten: give another name, or remove it first")
    check_free_space(path, plan.capacity * info.frame_bytes)
    with temporary_beside(path) as temporary:
        lay_out(temporary, info, plan)
        reserve_blocks(temporary, temporary.stat().st_size)


def lay_out(path: Path, info: StoreInfo, plan: EpisodePlan, gzip_level: int | None = None) -> None:
    """Writes the HDF5 structure: everything small for real, the columns over frames as room alone.

    With `gzip_level` pictures are compressed chunks of one frame.
    """
    episodes = {"start": plan.starts, "seed": plan.seeds, "split": plan.splits}
    # Aligned so that the maps' arrays are, too: numpy and torch are slow, or refuse, where they are not.
    with h5py.File(path, "w", alignment_threshold=1, alignment_interval=64) as file:
        file.attrs["schema"] = SCHEMA
        file.attrs["info"] = info.to_json()
        file.attrs["splits"] = list(SPLITS)
        for column in info.columns:
            if column.name == PACKED and gzip_level is not None:
                shape, chunk = (plan.capacity, *column.shape), (1, *column.shape)
                file.create_dataset(column.name, shape, column.dtype, chunks=chunk, compression=gzip_level)
            else:
                _allocate_dataset(file, column, plan.capacity)
        count = len(plan.lengths)
        for name, dtype in EPISODE_COLUMNS:
            dataset = _allocate_dataset(file.require_group("episode"), Column(name, (), dtype), count)
            dataset[...] = episodes.get(name, 0)
        for column in info.factors:
            dataset = _allocate_dataset(file.require_group("episode/factors"), column, count)
            dataset[...] = 0


def _allocate_dataset(group: h5py.Group, column: Column, rows: int) -> h5py.Dataset:
    """A contiguous dataset of fixed size whose place in the file is settled now and whose bytes are not
    touched.
    """
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.CONTIGUOUS)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    space = h5py.h5s.create_simple((rows, *column.shape))
    dtype = h5py.h5t.py_create(np.dtype(column.dtype))
    return h5py.Dataset(h5py.h5d.create(group.id, column.name.encode(), dtype, space, dcpl=properties))


# --- opening one


class PackedColumn:
    """A compressed column, row by row a chunk: what readers use of an array, without one. Read by HDF5, which lets one
    thread in at a time."""

    def __init__(self, path: Path, name: str) -> None:
        self._dataset = _open_hdf5(path)[name]
        self.shape, self.dtype = self._dataset.shape, self._dataset.dtype

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, rows: slice) -> Array:
        """Consecutive rows."""
        return np.asarray(self._dataset[rows])

    def take(self, rows: Array, axis: int = 0) -> Array:
        """Rows [...] -> [..., *row]; each is decompressed once, however often it is asked for."""
        assert axis == 0, axis
        wanted, places = np.unique(rows, return_inverse=True)
        found = np.empty((len(wanted), *self.shape[1:]), self.dtype)
        for number, row in enumerate(wanted):
            self._dataset.read_direct(found, np.s_[int(row)], np.s_[number])
        return found[places.reshape(np.shape(rows))]


class MappedFile:
    """One file, checked and mapped: `columns`, `episode` and `factors` are arrays over its bytes; a compressed column
    is `Chunks`."""

    def __init__(self, path: Path, mode: Literal["r", "r+"]) -> None:
        self.path = path
        with _open_hdf5(path) as file:
            self.info = _read_info(path, file)
            names = _list_datasets(self.info)
            self.packed = PACKED in file and file[PACKED].chunks is not None
            places = {name: _locate_dataset(path, file, name) for name in names if name != PACKED or not self.packed}
        if self.packed and mode == "r+":
            raise StoreError(f"{path} is packed and no longer written to: collect into another file")
        size = path.stat().st_size
        for name, (offset, shape, dtype) in places.items():
            end = offset + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            if end > size:
                raise StoreError(f"{path} is cut short: {name} ends at byte {end}, the file at {size}; copy it again")
        self._pages, raw = _map_file(path, mode)
        arrays: dict[str, Any] = {name: _view_bytes(raw, *place) for name, place in places.items()}
        if self.packed:
            arrays[PACKED] = PackedColumn(path, PACKED)
        self.columns = {column.name: arrays[column.name] for column in self.info.columns}
        self.episode = {name: arrays[f"episode/{name}"] for name, _ in EPISODE_COLUMNS}
        self.factors = {column.name: arrays[f"episode/factors/{column.name}"] for column in self.info.factors}
        self._check_rows()

    def _check_rows(self) -> None:
        rows = {name: len(array) for name, array in self.columns.items()}
        start, length = self.episode["start"], self.episode["length"]
        outside = (start < 0) | (length < 0) | (start + length > rows["pixels"])
        if len(set(rows.values())) != 1 or outside.any():
            names = np.flatnonzero(outside).tolist()
            raise StoreError(
                f"{self.path} contradicts itself (rows {rows}, episodes beyond them: {names}): copy it again"
            )

    @property
    def num_rows(self) -> int:
        return len(self.columns["pixels"])

    def checksum(self, index: int) -> int:
        """CRC-32 over an episode's place, seed, factors and rows of all columns, in the schema's order."""
        start, length = int(self.episode["start"][index]), int(self.episode["length"][index])
        return self.checksum_of(index, start, length)

    def checksum_of(self, index: int, start: int, length: int) -> int:
        """The same for a length that is not written yet."""
        crc = zlib.crc32(np.array([start, length, int(self.episode["seed"][index])], np.int64).tobytes())
        for array in self.factors.values():
            crc = zlib.crc32(np.ascontiguousarray(array[index]).tobytes(), crc)
        for array in self.columns.values():
            rows = array[start : start + length]
            if rows.size:
                crc = zlib.crc32(rows.reshape(-1).view(np.uint8).data, crc)
        return crc

    def _intact(self, index: int) -> bool:
        try:
            return self.checksum(index) == int(self.episode["crc32"][index])
        except OSError:  # of HDF5: a chunk that cannot be decompressed
            return False

    def find_damaged(self) -> list[int]:
        """Complete episodes whose rows do not give the checksum written with them; reads the whole file once."""
        complete = np.flatnonzero(self.episode["length"])
        found = [int(i) for i in complete if not self._intact(int(i))]
        if hasattr(mmap, "MADV_DONTNEED"):
            self._pages.madvise(mmap.MADV_DONTNEED)  # read pages stay in the system's cache, not in our resident memory
        return found


def _map_file(path: Path, mode: Literal["r", "r+"]) -> tuple[mmap.mmap, Array]:
    """The file's pages, and an array over all of its bytes."""
    try:
        with path.open("rb" if mode == "r" else "r+b") as file:
            pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ if mode == "r" else mmap.ACCESS_WRITE)
    except OSError as error:
        raise StoreError(f"{path} cannot be mapped ({error.strerror or error})") from error
    return pages, np.frombuffer(pages, np.uint8)


def _open_hdf5(path: Path) -> h5py.File:
    if not path.exists():
        raise StoreError(f"{path} does not exist: give the file that `jepa collect` wrote")
    if path.is_dir():
        raise StoreError(f"{path} is a folder: name the file in it, or several as {path}/*.h5")
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        if "truncated" in str(error):
            raise StoreError(f"{path} is cut short ({path.stat().st_size} bytes are there): copy it again") from error
        if isinstance(error, PermissionError) or "ermission" in str(error):
            raise StoreError(f"{path} may not be read by this user") from error
        raise StoreError(f"{path} is not an HDF5 file, or its head is damaged: copy it again") from error


def _read_info(path: Path, file: h5py.File) -> StoreInfo:
    if "schema" not in file.attrs:
        raise StoreError(
            f"{path} is HDF5 but no trajectory file (no schema attribute): give one that `jepa collect` wrote"
        )
    found = file.attrs["schema"]
    if found != SCHEMA:
        raise StoreError(
            f"{path} has schema {found}, this version reads schema {SCHEMA}: collect it again, or read it "
            f"with the version that wrote it"
        )
    if list(file.attrs["splits"]) != list(SPLITS):
        raise StoreError(f"{path} names its splits {list(file.attrs['splits'])}, not {list(SPLITS)}")
    try:
        return StoreInfo.from_json(file.attrs["info"])
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{path} has a damaged `info` attribute ({error})") from error


def _list_datasets(info: StoreInfo) -> list[str]:
    episode = [f"episode/{name}" for name, _ in EPISODE_COLUMNS]
    factors = [f"episode/factors/{column.name}" for column in info.factors]
    return [column.name for column in info.columns] + episode + factors


def _locate_dataset(path: Path, file: h5py.File, name: str) -> tuple[int, tuple[int, ...], np.dtype[Any]]:
    """Where a dataset lies in the file: (offset, shape, dtype)."""
    if name not in file:
        raise StoreError(f"{path} has no {name}: it is no complete schema {SCHEMA} file")
    dataset = file[name]
    if dataset.chunks is not None:
        raise StoreError(f"{path} stores {name} in chunks, which only {PACKED} may be: collect it again")
    offset = dataset.id.get_offset()
    if offset is None and dataset.size:
        raise StoreError(f"{path} has no bytes for {name}: it was not laid out by this program")
    return int(offset or 0), tuple(dataset.shape), dataset.dtype


def _view_bytes(raw: Array, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An array of that shape over the file's bytes."""
    num_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    return raw[offset : offset + num_bytes].view(dtype).reshape(shape)
