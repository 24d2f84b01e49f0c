"""The trajectory file: one HDF5 file of flat columns over frames, written and read through memory maps.

Schema 1. F frames of room in E episodes; H W C a frame, A an action, S the simulator's state, L truth quantities:

    /pixels            [F,H,W,C] uint8    frame t
    /action            [F,A] float32      leaves frame t
    /time_s            [F] float64        since the episode's start
    /state             [F,S] float64      sets the simulator up again
    /truth             [F,L] float32      for evaluation and probes; no model reads it
    /...                                  further declared columns (StoreInfo.extra)
    /episode/start     [E] int64          first row
    /episode/length    [E] int64          0 until it is complete
    /episode/seed      [E] int64          of its reset (-1: none)
    /episode/split     [E] uint8          index into `splits`
    /episode/crc32     [E] uint32         of all its rows, and of its start, length, seed, split and factors
    /episode/factors/NAME  [E,...] float64
    attributes         schema = 1, info = JSON of StoreInfo, splits = ["train", "val", "eval"], info_crc32,
                       checksum = 2 (files without it are older: their crc32 leaves out the split, and info has none)

Frames and actions interleave, and a window of T frames has T-1 actions:

    row            0        1        2              L-1
    pixels         o0       o1       o2     ...     o(L-1)
    action            a0       a1       a2  ...         (nan: it leads nowhere; the Reader never gives it)

How it survives a crash. The file is laid out at full capacity under a temporary name (contiguous datasets, allocated
early, never filled), after free space was checked and its blocks were reserved, and then renamed, so that it exists
whole or not at all. HDF5 never writes to it again: a Writer maps it and writes an episode's rows, then their checksum,
then its length. A process that dies in an episode leaves length 0 there and harms no other. A machine that loses
power may write pages in another order; the checksum detects that.

A complete file may be packed (`data.packing`), for large frames and small disks: HDF5 then reads its compressed pixels;
all other columns stay mapped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.disk import PathLike, expand_paths
from data.mapped import MappedFile
from data.schema import NO_SEED, SPLITS, StoreError

Array = NDArray[Any]
GZIP_LEVEL = 4


# --- writing


class Writer:
    """Writes whole episodes, each at its planned position, in any order and from any number of processes."""

    def __init__(self, path: PathLike) -> None:
        self._file = MappedFile(Path(path), "r+")
        self.info = self._file.info
        self._ends = np.append(self._file.episode["start"][1:], self._file.num_rows)

    def find_complete(self) -> NDArray[np.bool_]:
        """Which episodes are complete [E]."""
        return np.asarray(self._file.episode["length"] > 0)

    def seed(self, index: int) -> int:
        return int(self._file.episode["seed"][index])

    def split(self, index: int) -> str:
        return SPLITS[int(self._file.episode["split"][index])]

    def write(self, index: int, columns: Mapping[str, Array], factors: Mapping[str, Any] | None = None) -> None:
        """Writes an episode of L rows: every column [L,...], `action` [L-1,A]; its length is written last.

        A second episode at the same index replaces the first. ValueError if a column or factor is missing, has another
        shape than the file declares, or holds numbers that are not finite.
        """
        file, factors = self._file, factors or {}
        length, start = len(columns["pixels"]), int(file.episode["start"][index])
        if not 1 <= length <= (room := int(self._ends[index]) - start):
            raise ValueError(f"an episode of {length} frames does not fit its room of {room}")
        shapes = {column.name: (length, *column.shape) for column in self.info.columns}
        _check_shapes("columns", columns, shapes | {"action": (length - 1, self.info.action_size)})
        _check_shapes("factors", factors, {column.name: column.shape for column in self.info.factors})
        _check_actions(np.asarray(columns["action"]), self.info.action_names)
        file.episode["length"][index] = 0
        for name, target in file.columns.items():
            rows = np.asarray(columns[name])
            target[start : start + len(rows)] = rows
        file.columns["action"][start + length - 1] = np.nan
        for name, target in file.factors.items():
            target[index] = factors[name]
        if strange := file.find_strange_numbers(index, length):
            raise ValueError(f"an episode's {strange} holds numbers that are not finite")
        file.episode["crc32"][index] = file.compute_checksum(index, length)
        file.episode["length"][index] = length


def _check_shapes(what: str, arrays: Mapping[str, Any], declared: Mapping[str, tuple[int, ...]]) -> None:
    shapes = {name: np.shape(array) for name, array in arrays.items()}
    if shapes != declared:
        raise ValueError(f"an episode's {what} are {shapes}, the file declares {declared}")


def _check_actions(actions_NA: Array, names: Sequence[str]) -> None:
    wrong = np.argwhere(~np.isfinite(actions_NA))
    if len(wrong):
        step, number = wrong[0].tolist()
        raise ValueError(
            f"an episode's action {step} has {names[number]}={actions_NA[step, number]}: it must be finite"
        )


# --- reading


class Reader:
    """Reads one or several files as one index space of episodes and frames, through memory maps (packed: HDF5).

    paths: a file, a glob, or a list of both. Several files must be of one environment and camera size and of different
    seeds. Episode numbers count all planned episodes of all files in the order given, so that a number keeps its
    meaning while a file fills up; only complete episodes are read. verify: read everything once and compare checksums.
    on_damaged: `error` raises a StoreError that names the damaged episodes, `skip` leaves them out and lists them in
    `damaged`. A pickled Reader holds only the paths: each process maps the files itself.
    """

    def __init__(self, paths: PathLike | Sequence[PathLike], on_damaged: str = "error", verify: bool = True) -> None:
        if on_damaged not in ("error", "skip"):
            raise ValueError(f"on_damaged={on_damaged!r} is unknown: choose error or skip")
        self.paths = expand_paths(paths)
        self._files = [MappedFile(path, "r") for path in self.paths]
        self.info = self._files[0].info
        self._check_infos()
        self._first_episode = np.cumsum([0] + [len(f.episode["start"]) for f in self._files])
        self._first_row = np.cumsum([0] + [f.num_rows for f in self._files])
        shift = zip(self._files, self._first_row[:-1], strict=True)
        self._start = np.concatenate([f.episode["start"] + first for f, first in shift])
        # Copies, so that a process that still collects into the file does not change what this Reader gives.
        self._length, self._seed, self._split, self._crc32 = (
            np.concatenate([f.episode[name] for f in self._files]) for name in ("length", "seed", "split", "crc32")
        )
        self._check_seeds()
        self._leave_out(self._find_damaged(on_damaged) if verify else [])

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (list(self.paths), self.damaged)

    # -- episodes

    def episodes(self, split: str | None = None) -> NDArray[np.int64]:
        """Numbers of the complete episodes of a split (None: of all splits), ascending."""
        selected = self._length > 0
        if split is not None:
            if split not in SPLITS:
                raise ValueError(f"split={split!r} is unknown: choose one of {', '.join(SPLITS)}")
            selected &= self._split == SPLITS.index(split)
        return np.flatnonzero(selected)

    def num_frames(self, episode: int) -> int:
        """Frames of an episode, 0 if it is not complete."""
        return int(self._length[episode])

    @property
    def total_frames(self) -> int:
        """Rows of all files' flat columns together, those of missing episodes included: the F of cached features."""
        return int(self._first_row[-1])

    @property
    def num_planned(self) -> int:
        """Episodes the files have room for."""
        return len(self._length)

    @property
    def packed(self) -> bool:
        """Whether the pixels of any of the files are compressed."""
        return any(file.packed for file in self._files)

    def first_row(self, episode: int | Array) -> Any:
        """Row at which an episode starts, counted over all files."""
        return self._start[episode]

    def lengths(self, episodes: Array) -> NDArray[np.int64]:
        return self._length[episodes]

    def seed(self, episode: int) -> int:
        """Seed of an episode's reset, -1 if unknown."""
        return int(self._seed[episode])

    def split(self, episode: int) -> str:
        return SPLITS[int(self._split[episode])]

    def factors(self, episode: int) -> dict[str, Array]:
        """Properties of the simulator's model in this episode, by name."""
        file, index = self._find_file(episode)
        return {name: np.array(array[index]) for name, array in file.factors.items()}

    def describe(self, episode: int) -> str:
        """An episode's number in its file and the file's path, for messages."""
        file, index = self._find_file(episode)
        return f"episode {index} of {file.path}"

    # -- rows

    def column(self, name: str, episode: int) -> Array:
        """Rows of an episode's column, read-only; `action` has one row less than the others."""
        file, index = self._find_file(episode)
        first = int(file.episode["start"][index])
        return _find_column(file, name)[first : first + self.num_frames(episode) - (name == "action")]

    def gather(self, name: str, rows: Array) -> Array:
        """A copy of rows of a column, which are counted over all files: [...] -> [..., *row].

        The caller leaves out the last row of each episode's `action`, as `Windows` does.
        """
        if len(self._files) == 1:
            return np.asarray(_find_column(self._files[0], name).take(rows, axis=0))
        files = np.searchsorted(self._first_row, rows, side="right") - 1
        example = _find_column(self._files[0], name)
        values = np.empty(rows.shape + example.shape[1:], example.dtype)
        for number in np.unique(files):
            array = _find_column(self._files[number], name)
            values[files == number] = array.take(rows[files == number] - self._first_row[number], axis=0)
        return values

    def _find_file(self, episode: int) -> tuple[MappedFile, int]:
        """An episode's file, and its number in it."""
        if not 0 <= episode < self.num_planned:
            names = ", ".join(map(str, self.paths))
            raise ValueError(f"episode {episode} is not among the {self.num_planned} of {names}")
        number = int(np.searchsorted(self._first_episode, episode, side="right")) - 1
        return self._files[number], episode - int(self._first_episode[number])

    # -- checks

    def _check_infos(self) -> None:
        for file in self._files[1:]:
            keys = self.info.find_differences(file.info)
            if keys:
                mine, its = (json.loads(info.to_json())[keys[0]] for info in (self.info, file.info))
                raise StoreError(
                    f"{self.paths[0]} and {file.path} differ in {', '.join(keys)} ({mine} against {its}): "
                    f"read them apart"
                )

    def _check_seeds(self) -> None:
        """StoreError if two files hold the same episode, which may be `train` in one and `eval` in the other."""
        if len(self._files) == 1:
            return
        seeds, counts = np.unique(self._seed[self._seed != NO_SEED], return_counts=True)
        if (counts > 1).any():
            same = np.flatnonzero(self._seed == seeds[counts > 1][0])
            one, other = (self.describe(int(episode)) for episode in same[:2])
            raise StoreError(f"{one} and {other} have one seed: collect the second file with another seed=")

    def _find_damaged(self, on_damaged: str) -> list[int]:
        damaged = {
            int(first) + index: reason
            for file, first in zip(self._files, self._first_episode[:-1], strict=True)
            for index, reason in file.find_damaged().items()
        }
        if damaged and on_damaged == "error":
            reasons: dict[str, list[str]] = {}
            for episode, reason in damaged.items():
                reasons.setdefault(reason, []).append(self.describe(episode))
            names = "; ".join(
                f"{reason} {'; '.join(episodes[:5] + ['...'] * (len(episodes) > 5))}"
                for reason, episodes in reasons.items()
            )
            raise StoreError(
                f"{names}: copy the file again, collect the damaged episodes anew by the `jepa collect` command that "
                f"made it, or leave {len(damaged)} episode(s) out with on_damaged=skip"
            )
        return list(damaged)

    def _leave_out(self, episodes: Sequence[int]) -> None:
        """Drops episodes, and hashes the checksums of those that remain."""
        self._length[list(episodes)] = 0
        self.damaged = tuple(episodes)
        digest = hashlib.sha256()
        for file in self._files:
            digest.update(file.info.to_json().encode())
        for array in (self._start, self._length, self._seed, self._split, self._crc32):
            digest.update(array[self._length > 0].tobytes())
        self.file_checksum = digest.hexdigest()[:16]


def _find_column(file: MappedFile, name: str) -> Any:
    if name not in file.columns:
        raise ValueError(f"column {name!r} is not in {file.path}: it has {', '.join(file.columns)}")
    return file.columns[name]


def _reopen(paths: list[Path], damaged: tuple[int, ...]) -> Reader:
    """An unpickled Reader: checksums are not compared again."""
    reader = Reader(paths, verify=False)
    reader._leave_out(damaged)
    return reader


def compute_statistics(reader: Reader, name: str, split: str = "train") -> tuple[Array, Array]:
    """Exact mean and std of a column's last axis over a split's complete episodes: pixels -> [C], action -> [A].

    Models normalise with those of `train`. Pixels are in 0..255; an episode's last action row, which is nan, is left
    out. ValueError if the split has no row.
    """
    count, total, squares, origin = 0, 0.0, 0.0, None
    for episode in reader.episodes(split):
        rows = reader.column(name, int(episode))
        values = rows.reshape(-1, rows.shape[-1]) if rows.ndim > 1 else rows[:, None]
        if origin is None and len(values):
            origin = values[0].astype(np.float64)  # near the mean, so that the squares lose no digits
        if len(values):
            count += len(values)
            added, added_squares = _sum_differences(values, origin)
            total, squares = total + added, squares + added_squares
    if origin is None:
        raise ValueError(f"split {split} has no row of {name}: collect more episodes")
    mean = total / count
    return origin + mean, np.sqrt(np.maximum(squares / count - mean**2, 0))


def _sum_differences(values: NDArray[Any], origin: Any) -> tuple[Any, Any]:
    """Sums of differences from `origin` and of their squares, over rows: [N,D] -> [D], [D]."""
    if values.dtype == np.uint8:
        counts = [np.bincount(channel, minlength=256) for channel in values.T]
        levels = np.arange(256) - np.asarray(origin)[:, None]
        return np.sum(counts * levels, 1), np.sum(counts * levels**2, 1)
    differences = values.astype(np.float64) - origin
    return differences.sum(0), np.square(differences).sum(0)
