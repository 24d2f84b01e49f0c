"""Windows: every sequence of T model steps within one episode of a split, read as batches of arrays.

A model step is `frame_skip` environment steps. A window that starts at frame s of an episode has

    frames   s, s+k, s+2k, ..., s+(T-1)k                                      (k = frame_skip)
    actions  [a(s) .. a(s+k-1)], [a(s+k) .. a(s+2k-1)], ...                   T-1 blocks of k stacked actions

so an episode's last action row, which leads nowhere, is never part of one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.store import Reader

Array = NDArray[Any]
FEW_WINDOWS = 4  # windows per episode, below which most frames are hardly used


class Windows:
    """All windows of `frames` model steps in a split's complete episodes, by number.

    columns: columns of the file to read. extra: further arrays over all rows of the reader's files [F,...], such as
    cached features, read like columns under their own names. first_frames: number of frames, by name, of those extra
    arrays that are read at a window's first frames alone. ValueError if no episode is long enough.
    """

    def __init__(
        self,
        reader: Reader,
        split: str | None,
        frames: int,
        frame_skip: int = 1,
        columns: Sequence[str] = ("pixels", "action"),
        extra: Mapping[str, Array] | None = None,
        first_frames: Mapping[str, int] | None = None,
    ) -> None:
        if frames < 1 or frame_skip < 1:
            raise ValueError(f"frames={frames} frame_skip={frame_skip}: both must be at least 1")
        self.reader, self.frames, self.frame_skip = reader, frames, frame_skip
        self.columns, self.extra, self.first_frames = tuple(columns), dict(extra or {}), dict(first_frames or {})
        self._check_names()
        episodes = reader.episodes(split)
        lengths = reader.lengths(episodes)
        span = (frames - 1) * frame_skip
        counts = np.maximum(lengths - span, 0)
        if not counts.sum():
            where = f"split {split}" if split else "the data"
            if not lengths.size:
                raise ValueError(f"{where} has no complete episode: collect more, or choose another split")
            raise ValueError(
                f"frames={frames} with frame_skip={frame_skip} needs episodes of {span + 1} frames, "
                f"those of {where} have {lengths.min()} to {lengths.max()}: ask for fewer or collect longer ones"
            )
        self._too_short = int((counts == 0).sum())
        self._episodes, counts = episodes[counts > 0], counts[counts > 0]
        self._ends = np.cumsum(counts)
        self._begins = self._ends - counts

    def _check_names(self) -> None:
        known = [column.name for column in self.reader.info.columns]
        for name in self.columns:
            if name not in known:
                raise ValueError(f"column {name!r} is not in the data file: choose from {', '.join(known)}")
        rows = self.reader.total_frames
        for name, array in self.extra.items():
            if name in self.columns or len(array) != rows:
                raise ValueError(f"extra {name!r} has {len(array)} rows for {rows} frames, or is a column")

    def __len__(self) -> int:
        return int(self._ends[-1])

    def describe(self) -> str:
        """Their number, length and spacing, for a line of output."""
        per_episode = len(self) / len(self._episodes)
        hint = "; longer episodes, or a shorter horizon, would give more" if per_episode < FEW_WINDOWS else ""
        short = f"; {self._too_short} episodes are too short for one" if self._too_short else ""
        length = f"{self.frames} frames, {self.frame_skip} apart"
        return f"{len(self)} windows of {length}: {per_episode:.3g} an episode{short}{hint}"

    def locate(self, indices: Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Episode and first frame of windows: [B] -> ([B], [B])."""
        indices = np.asarray(indices, np.int64)
        if indices.size and not (0 <= indices.min() and indices.max() < len(self)):
            raise IndexError(f"windows {indices.min()} to {indices.max()} were asked for, there are {len(self)}")
        which = np.searchsorted(self._ends, indices, side="right")
        return self._episodes[which], indices - self._begins[which]

    def find_rows(self, indices: Array) -> NDArray[np.int64]:
        """Rows of the windows' frames, counted over all files: [B] -> [B,T]."""
        episode, start = self.locate(indices)
        return (self.reader.first_row(episode) + start)[:, None] + np.arange(self.frames) * self.frame_skip

    def gather(self, indices: Array) -> dict[str, Array]:
        """Reads windows [B]: `pixels` [B,T,H,W,C] uint8, `action` [B,T-1,A*frame_skip], other columns [B,T,...].

        `episode` and `start` [B] are each window's episode and first frame in it.
        """
        rows = self.find_rows(indices)
        batch: dict[str, Array] = {}
        for name in self.columns:
            batch[name] = self._gather_actions(rows[:, 0]) if name == "action" else self.reader.gather(name, rows)
        for name, array in self.extra.items():
            batch[name] = np.asarray(array).take(rows[:, : self.first_frames.get(name, self.frames)], axis=0)
        episode, start = self.locate(indices)
        return batch | {"episode": episode, "start": start}

    def _gather_actions(self, first_B: Array) -> Array:
        """Stacked actions that lead from each frame of a window to its next: [B] -> [B,T-1,A*frame_skip]."""
        steps = (self.frames - 1) * self.frame_skip
        actions = self.reader.gather("action", first_B[:, None] + np.arange(steps))
        return actions.reshape(len(first_B), self.frames - 1, self.frame_skip * self.reader.info.action_size)
