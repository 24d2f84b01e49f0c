"""Pairs of a frame and its goal: every later frame of the same episode, in model steps, with the actions between.

What goal-conditioned behaviour cloning and inverse dynamics learn from. The goal is given in hindsight: a frame that
was reached is taken as the one that was wanted (Andrychowicz et al. 2017, arXiv 1707.01495; for cloning, Ghosh et al.
2019, arXiv 1912.06088). With k = frame_skip, a pair of frame s and L model steps has

    history   s-(T-1)k .. s-k, s      before the first frame: a copy of the oldest one that there is
    goal      s+Lk
    actions   [a(s) .. a(s+k-1)], ..., K blocks of k stacked actions; beyond the episode: zeros, marked
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.store import Reader

Array = NDArray[Any]


class GoalPairs:
    """All pairs of a split's complete episodes, by number (`data.loader.BatchSource`).

    frame_skip: environment steps of a model step; blocks: K; history: T, frames up to the present one. longest: most
    model steps to a goal, 0: up to the end of the episode. columns, extra: as of `Windows`, read at the history and, as
    the last frame, at the goal. ValueError if no episode has a model step.
    """

    def __init__(
        self,
        reader: Reader,
        split: str,
        frame_skip: int,
        blocks: int,
        history: int = 1,
        longest: int = 0,
        columns: Sequence[str] = (),
        extra: Mapping[str, Array] | None = None,
    ) -> None:
        if min(frame_skip, blocks, history) < 1 or longest < 0:
            raise ValueError(
                f"frame_skip={frame_skip} blocks={blocks} history={history} longest={longest}: give at least 1, 1, 1, 0"
            )
        self.reader, self.frame_skip, self.blocks, self.history = reader, frame_skip, blocks, history
        self.columns, self.extra = tuple(columns), dict(extra or {})
        episodes = reader.episodes(split)
        lengths = reader.lengths(episodes)
        if not len(episodes) or lengths.max() <= frame_skip:
            raise ValueError(
                f"split {split} has no episode of {frame_skip + 1} frames, which one model step of {frame_skip} takes: "
                "collect more, or longer ones"
            )
        self._episodes = np.repeat(episodes, lengths)
        self._starts = np.concatenate([np.arange(count) for count in lengths])
        self._after = (np.repeat(lengths, lengths) - 1 - self._starts) // frame_skip  # model steps after each frame
        self._ends = np.cumsum(np.minimum(self._after, longest) if longest else self._after)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def describe(self) -> str:
        """Their number and reach, for a line of output."""
        episodes = len(np.unique(self._episodes))
        return f"{len(self)} pairs of a frame and a later one of the same episode, from {episodes} episodes"

    def locate(self, indices: Array) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Episode, first frame and model steps of pairs: [B] -> ([B], [B], [B])."""
        indices = np.asarray(indices, np.int64)
        if indices.size and not (0 <= indices.min() and indices.max() < len(self)):
            raise IndexError(f"pairs {indices.min()} to {indices.max()} were asked for, there are {len(self)}")
        which = np.searchsorted(self._ends, indices, side="right")
        before = np.where(which > 0, self._ends[which - 1], 0)
        return self._episodes[which], self._starts[which], indices - before + 1

    def gather(self, indices: Array) -> dict[str, Array]:
        """Reads pairs [B]: columns and extra arrays [B,T+1,...], the goal last; `valid` [B,T], whether a frame of the
        history was recorded; `steps` [B] to the goal; `action` [B,K,A*frame_skip], and `recorded` [B,K]."""
        episode, start, steps = self.locate(indices)
        first = self.reader.first_row(episode)
        back = np.arange(1 - self.history, 1) * self.frame_skip
        seen = start[:, None] + back
        valid = seen >= 0
        oldest = start % self.frame_skip  # of the frames that are whole model steps before
        frames = np.concatenate([np.where(valid, seen, oldest[:, None]), (start + steps * self.frame_skip)[:, None]], 1)
        rows = first[:, None] + frames
        batch: dict[str, Array] = {name: self.reader.gather(name, rows) for name in self.columns}
        batch |= {name: np.asarray(array).take(rows, axis=0) for name, array in self.extra.items()}
        return batch | {"valid": valid, "steps": steps, **self._gather_actions(first + start, start, episode)}

    def _gather_actions(self, first_B: Array, start_B: Array, episode_B: Array) -> dict[str, Array]:
        """`action` [B,K,A*frame_skip] from a frame on, and `recorded` [B,K]."""
        after = (self.reader.lengths(episode_B) - 1 - start_B) // self.frame_skip
        recorded = np.arange(self.blocks) < after[:, None]
        most = (after * self.frame_skip - 1)[:, None]  # the last action that belongs to a recorded block
        rows = first_B[:, None] + np.minimum(np.arange(self.blocks * self.frame_skip), most)
        actions = self.reader.gather("action", rows).reshape(len(first_B), self.blocks, -1)
        return {"action": np.where(recorded[:, :, None], actions, 0).astype(np.float32), "recorded": recorded}
