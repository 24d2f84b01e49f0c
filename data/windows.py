"""Windows: every stretch of T model steps that lies within one episode of a split, read as batches of arrays.

A model step is `frame_skip` environment steps. A window that starts at frame s of an episode has

    frames   s, s+k, s+2k, ..., s+(T-1)k                                      (k = frame_skip)
    actions  [a(s) .. a(s+k-1)], [a(s+k) .. a(s+2k-1)], ...                   T-1 blocks of k stacked actions

so the action row that leads nowhere, an episode's last, is never part of one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.store import Reader

Array = NDArray[Any]
FEW = 4  # windows an episode, below which its frames are hardly used


class Windows:
    """All windows of `frames` model steps in a split's complete episodes, as an indexable collection.

    `columns` are the file's columns to read; `extra` are further arrays over all rows of the reader's files
    [F,...], such as cached features, read like columns under their own names; `first_frames` names those of them of
    which a window holds only its first so many frames. ValueError if no episode is long enough.
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
        counts = np.maximum(lengths - (frames - 1) * frame_skip, 0)
        if not counts.sum():
            raise ValueError(self._too_short(split, lengths))
        self._episodes = episodes[counts > 0]
        self._ends = np.cumsum(counts[counts > 0])
        self._begins = self._ends - counts[counts > 0]

    def _check_names(self) -> None:
        known = [column.name for column in self.reader.info.columns]
        for name in self.columns:
            if name not in known:
                raise ValueError(f"column {name!r} is not in the data file: choose from {', '.join(known)}")
        for name, array in self.extra.items():
            if name in self.columns or len(array) != self.reader.total_frames:
                rows = self.reader.total_frames
                raise ValueError(f"extra {name!r} has {len(array)} rows for {rows} frames, or is a column")

    def _too_short(self, split: str | None, lengths: Array) -> str:
        where = f"split {split}" if split else "the data"
        if not lengths.size:
            return f"{where} has no complete episode: collect more, or choose another split"
        need = (self.frames - 1) * self.frame_skip + 1
        return (
            f"frames={self.frames} with frame_skip={self.frame_skip} needs episodes of {need} frames, "
            f"those of {where} have {lengths.min()} to {lengths.max()}: ask for fewer or collect longer ones"
        )

    def __len__(self) -> int:
        """Number of windows."""
        return int(self._ends[-1])

    def describe(self) -> str:
        """How many there are and what they span, for a line of output."""
        each = len(self) / len(self._episodes)
        few = "; longer episodes, or a shorter horizon, would give more" if each < FEW else ""
        return f"{len(self)} windows of {self.frames} frames, {self.frame_skip} apart: {each:.3g} an episode{few}"

    def locate(self, indices: Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Episode and first frame of windows: [B] -> ([B], [B])."""
        indices = np.asarray(indices, np.int64)
        if indices.size and not (0 <= indices.min() and indices.max() < len(self)):
            raise IndexError(f"windows {indices.min()} to {indices.max()} were asked for, there are {len(self)}")
        which = np.searchsorted(self._ends, indices, side="right")
        return self._episodes[which], indices - self._begins[which]

    def rows(self, indices: Array) -> NDArray[np.int64]:
        """Rows of the windows' frames in the rows of all files together: [B] -> [B,T]."""
        episode, start = self.locate(indices)
        first = self.reader.first_row(episode) + start
        return first[:, None] + np.arange(self.frames) * self.frame_skip

    def gather(self, indices: Array) -> dict[str, Array]:
        """Reads windows [B]: `pixels` [B,T,H,W,C] uint8, `action` [B,T-1,A*frame_skip], other columns
        [B,T,...].

        `episode` and `start` [B] say where each came from (`Reader.describe` puts it in words).
        """
        episode, start = self.locate(indices)
        rows = (self.reader.first_row(episode) + start)[:, None] + np.arange(self.frames) * self.frame_skip
        batch: dict[str, Array] = {}
        for name in self.columns:
            batch[name] = self._actions(rows[:, 0]) if name == "action" else self.reader.gather(name, rows)
        for name, array in self.extra.items():
            kept = rows[:, : self.first_frames[name]] if name in self.first_frames else rows
            batch[name] = np.asarray(array).take(kept, axis=0)
        return batch | {"episode": episode, "start": start}

    def _actions(self, first_B: Array) -> Array:
        """Stacked actions that lead from each frame of a window to its next: [B] -> [B,T-1,A*frame_skip]."""
        steps = (self.frames - 1) * self.frame_skip
        actions = self.reader.gather("action", first_B[:, None] + np.arange(steps))
        return actions.reshape(len(first_B), self.frames - 1, self.frame_skip * self.reader.info.action_size)
