"""The trajectory file: one HDF5 file of flat columns over frames, written and read through memory maps.

Schema 1. F frames of room in E episodes; H W C a frame, A an action, S the simulator's state, L truth quantities:

    /pixels            [F,H,W,C] uint8    frame t
    /action            [F,A] float32      leaves frame t
    /time_s            [F] float64        since the episode's start
    /state             [F,S] float64      to set a moment up again
    /truth             [F,L] float32      to judge and to probe; no model reads it
    /...                                  further declared columns (StoreInfo.extra)
    /episode/start     [E] int64          first row
    /episode/length    [E] int64          0 until it is complete
    /episode/seed      [E] int64          it was drawn from (-1: none)
    /episode/split     [E] uint8          index into `splits`
    /episode/crc32     [E] uint32         of all its rows
    /episode/factors/NAME  [E,...] float64
    attributes         schema = 1, info = JSON of StoreInfo, splits = ["train", "val", "eval"]

Frames and actions interleave, and a window of T frames has T-1 actions:

    row            0        1        2              L-1
    pixels         o0       o1       o2     ...     o(L-1)
    action            a0       a1       a2  ...         (nan: it leads nowhere and never leaves the Reader)

How it survives a crash. The file is laid out at full capacity under a temporary name - contiguous datasets,
allocated early, never filled, the disk asked first and its blocks reserved - and renamed into place, so that
it exists whole or not at all. From then on HDF5 never writes to it: a Writer maps it and puts rows where they
belong, then their checksum, then the episode's length. A process that dies in an episode leaves length 0
there and harms no other. A machine that loses power may write pages in another order; that is what the
checksum is for.

A complete file may be packed (`data.packed`): its pictures are then compressed chunks that HDF5 reads, all else stays
mapped, and its checksums stay what they were.
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
from data.mapped import MappedFile, create_file
from data.schema import NO_SEED, SCHEMA, SPLITS, Column, EpisodePlan, StoreError, StoreInfo, plan_episodes

__all__ = [
    "NO_SEED",
    "SCHEMA",
    "SPLITS",
    "Column",
    "EpisodePlan",
    "Reader",
    "StoreError",
    "StoreInfo",
    "Writer",
    "create_file",
    "plan_episodes",
]

Array = NDArray[Any]


# --- writing


class Writer:
    """Writes whole episodes, each at its planned place, in any order and from any number of processes at
    once.
    """

    def __init__(self, path: PathLike) -> None:
        self._file = MappedFile(Path(path), "r+")
        self.info = self._file.info
        ends = np.append(self._file.episode["start"][1:], self._file.num_rows)
        self._room = ends - self._file.episode["start"]

    def find_complete(self) -> NDArray[np.bool_]:
        """Which episodes are there [E]."""
        return np.asarray(self._file.episode["length"] > 0)

    def seed(self, index: int) -> int:
        """The seed planned for an episode."""
        return int(self._file.episode["seed"][index])

    def split(self, index: int) -> str:
        """The split planned for an episode."""
        return SPLITS[int(self._file.episode["split"][index])]

    def planned_frames(self, index: int) -> int:
        """The frames an episode has room for."""
        return int(self._room[index])

    def write(self, index: int, columns: Mapping[str, Array], factors: Mapping[str, Any] | None = None) -> None:
        """Writes an episode of L rows: every column [L,...], `action` [L-1,A]; its length goes in last.

        A second episode at the same index replaces the first. ValueError names a column that is missing or
        misshapen.
        """
        length = len(columns["pixels"])
        start, room = int(self._file.episode["start"][index]), self.planned_frames(index)
        assert 1 <= length <= room, ("an episode must fit its place", index, length, room)
        _check_episode(self.info, columns, factors or {}, length)
        self._file.episode["length"][index] = 0
        for name, target in self._file.columns.items():
            rows = np.asarray(columns[name])
            target[start : start + len(rows)] = rows
        self._file.columns["action"][start + length - 1] = np.nan
        for name, target in self._file.factors.items():
            target[index] = (factors or {})[name]
        self._file.episode["crc32"][index] = self._file.checksum_of(index, start, length)
        self._file.episode["length"][index] = length


def _check_episode(info: StoreInfo, columns: Mapping[str, Array], factors: Mapping[str, Any], length: int) -> None:
    """ValueError unless the columns and factors are those the file declares."""
    want = {column.name: (length, *column.shape) for column in info.columns}
    want["action"] = (length - 1, info.action_size)
    got = {name: np.shape(array) for name, array in columns.items()}
    if got != want:
        raise ValueError(f"an episode's columns are {got}, the file declares {want}")
    want = {column.name: column.shape for column in info.factors}
    got = {name: np.shape(value) for name, value in factors.items()}
    if got != want:
        raise ValueError(f"an episode's factors are {got}, the file declares {want}")


# --- reading


class Reader:
    """Reads one or several files as one index space of episodes and frames, through memory maps (packed: HDF5).

    `paths` is a file, a glob, or a list of both; several files must be of one environment and camera size and
    of different seeds. Episode numbers run over all planned episodes of all files in the order given, so a
    number keeps its meaning while a file fills up; only complete ones are offered. `verify` reads everything
    once and compares checksums; a damaged episode is an error that names it, or, with `on_damaged="skip"`,
    left out and listed in `damaged`. Pickling a Reader pickles the paths: each process maps the files itself.
    """

    def __init__(self, paths: PathLike | Sequence[PathLike], on_damaged: str = "error", verify: bool = True) -> None:
        if on_damaged not in ("error", "skip"):
            raise ValueError(f"on_damaged={on_damaged!r} is unknown: choose error or skip")
        self.paths = expand_paths(paths)
        self._files = [MappedFile(path, "r") for path in self.paths]
        self.info = self._files[0].info
        self._check_alike()
        self._first_episode = np.cumsum([0] + [len(f.episode["start"]) for f in self._files])
        self._first_row = np.cumsum([0] + [f.num_rows for f in self._files])
        shift = zip(self._files, self._first_row[:-1], strict=True)
        self._start = np.concatenate([f.episode["start"] + first for f, first in shift])
        # Copies, so that a collector at work on the file does not change what this Reader offers.
        self._length, self._seed, self._split, self._crc32 = (
            np.concatenate([f.episode[name] for f in self._files]) for name in ("length", "seed", "split", "crc32")
        )
        self._check_seeds()
        self.damaged: tuple[int, ...] = ()
        if verify:
            self._verify(on_damaged)
        self.file_checksum = self._checksum()

    def __reduce__(self) -> tuple[Any, ...]:
        """Rebuilds without checking again; what was left out stays left out."""
        return _reopen, (list(self.paths), self.damaged)

    # -- episodes

    def episodes(self, split: str | None = None) -> NDArray[np.int64]:
        """Numbers of the complete episodes of a split (all splits: None), ascending."""
        there = self._length > 0
        if split is not None:
            if split not in SPLITS:
                raise ValueError(f"split={split!r} is unknown: choose one of {', '.join(SPLITS)}")
            there &= self._split == SPLITS.index(split)
        return np.flatnonzero(there)

    def num_frames(self, episode: int) -> int:
        """Frames of an episode, 0 if it is not complete."""
        return int(self._length[episode])

    @property
    def total_frames(self) -> int:
        """Rows of all files' flat columns together, room included: the F of cached features."""
        return int(self._first_row[-1])

    @property
    def num_planned(self) -> int:
        """Episodes the files have room for."""
        return len(self._length)

    def first_row(self, episode: int | Array) -> Any:
        """Row at which an episode starts in the rows of all files together."""
        return self._start[episode]

    def lengths(self, episodes: Array) -> NDArray[np.int64]:
        """Frames of several episodes."""
        return self._length[episodes]

    def seed(self, episode: int) -> int:
        """Seed of an episode's reset, -1 if unknown."""
        return int(self._seed[episode])

    def split(self, episode: int) -> str:
        """Split of an episode."""
        return SPLITS[int(self._split[episode])]

    def factors(self, episode: int) -> dict[str, Array]:
        """What differs in the simulator's model in this episode, by name."""
        file, index = self._find(episode)
        return {name: np.array(array[index]) for name, array in file.factors.items()}

    def describe(self, episode: int) -> str:
        """File and episode in words, for messages."""
        file, index = self._find(episode)
        return f"episode {index} of {file.path}"

    # -- rows

    def column(self, name: str, episode: int) -> Array:
        """Rows of an episode's column, read-only; `action` has one row less than the others."""
        file, index = self._find(episode)
        rows = self.num_frames(episode) - (name == "action")
        first = int(file.episode["start"][index])
        return self._array(file, name)[first : first + rows]

    def gather(self, name: str, rows: Array) -> Array:
        """Rows of a column by their place in the rows of all files together: [...] -> [..., *row], a copy.

        Rows of `action` are given out as they are; that a window never asks for an episode's last is up to
        `Windows`.
        """
        if len(self._files) == 1:
            return self._array(self._files[0], name).take(rows, axis=0)
        files = np.searchsorted(self._first_row, rows, side="right") - 1
        like = self._array(self._files[0], name)
        out = np.empty(rows.shape + like.shape[1:], like.dtype)
        for number in np.unique(files):
            mine = files == number
            array, first = self._array(self._files[number], name), self._first_row[number]
            out[mine] = array.take(rows[mine] - first, axis=0)
        return out

    def _find(self, episode: int) -> tuple[MappedFile, int]:
        if not 0 <= episode < self.num_planned:
            raise ValueError(f"episode {episode} is not among the {self.num_planned} of {self._names()}")
        number = int(np.searchsorted(self._first_episode, episode, side="right")) - 1
        return self._files[number], episode - int(self._first_episode[number])

    @property
    def packed(self) -> bool:
        """Whether pictures of any of the files are compressed."""
        return any(file.packed for file in self._files)

    def _array(self, file: MappedFile, name: str) -> Any:
        if name not in file.columns:
            raise ValueError(f"column {name!r} is not in {file.path}: it has {', '.join(file.columns)}")
        return file.columns[name]

    def _names(self) -> str:
        return ", ".join(str(path) for path in self.paths)

    # -- checks

    def _check_alike(self) -> None:
        for file in self._files[1:]:
            keys = self.info.find_differences(file.info)
            if keys:
                mine, its = (json.loads(info.to_json())[keys[0]] for info in (self.info, file.info))
                raise StoreError(
                    f"{self.paths[0]} and {file.path} differ in {', '.join(keys)} ({mine} against {its}): "
                    f"read them apart"
                )

    def _check_seeds(self) -> None:
        """The same episode in two files may be `train` in one and `eval` in the other."""
        if len(self._files) == 1:
            return
        seeds, counts = np.unique(self._seed[self._seed != NO_SEED], return_counts=True)
        if (counts > 1).any():
            twins = np.flatnonzero(self._seed == seeds[counts > 1][0])
            one, other = (self.describe(int(episode)) for episode in twins[:2])
            raise StoreError(f"{one} and {other} have one seed: collect the second file with another seed=")

    def _verify(self, on_damaged: str) -> None:
        found = [
            int(first) + index
            for file, first in zip(self._files, self._first_episode[:-1], strict=True)
            for index in file.find_damaged()
        ]
        if found and on_damaged == "error":
            names = "; ".join([self.describe(episode) for episode in found[:5]] + ["..."] * (len(found) > 5))
            raise StoreError(
                f"the checksum fails for {names}: copy the file again, mend it by the `jepa collect` command "
                f"that made it, or leave {len(found)} episode(s) out with on_damaged=skip"
            )
        self._leave_out(found)

    def _leave_out(self, episodes: Sequence[int]) -> None:
        self._length[list(episodes)] = 0
        self.damaged = tuple(episodes)

    def _checksum(self) -> str:
        """Hex digest of which episodes are there and of their checksums, without reading a frame."""
        there = self._length > 0
        digest = hashlib.sha256()
        for file in self._files:
            digest.update(file.info.to_json().encode())
        for array in (self._start, self._length, self._seed, self._split, self._crc32):
            digest.update(array[there].tobytes())
        return digest.hexdigest()[:16]


def _reopen(paths: list[Path], damaged: tuple[int, ...]) -> Reader:
    reader = Reader(paths, verify=False)
    reader._leave_out(damaged)
    reader.file_checksum = reader._checksum()
    return reader
