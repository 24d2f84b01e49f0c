"""Frames and goals of goal-conditioned policies: pairs of a frame and a later one of its episode, and transitions.

Goal-conditioned behaviour cloning and inverse dynamics learn from pairs, implicit V-learning from transitions. The goal
is given in hindsight: a frame that was reached is taken as the one that was wanted (Andrychowicz et al. 2017, arXiv
1707.01495; for cloning, Ghosh et al. 2019, arXiv 1912.06088). With k = frame_skip, a pair of frame s and L model steps
has

    history   s-(T-1)k .. s-k, s      before the first frame: a copy of the oldest one that there is
    goal      s+Lk                    of a transition: the frame one model step later, s+k, and a goal by choice
    actions   [a(s) .. a(s+k-1)], ..., K blocks of k stacked actions; beyond the episode: zeros, marked
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.store import Reader

Array = NDArray[Any]


class _Starts:
    """Frames of a split's complete episodes, with what was seen before and done after them.

    frame_skip: environment steps of a model step; blocks: K; history: T, frames up to the present one. longest: most
    model steps to a goal, 0: up to the end of the episode. columns, extra: as of `Windows`. ValueError if no episode
    has a model step.
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
        self._within = np.minimum(self._after, longest) if longest else self._after  # those that a goal may be away

    def _list_seen(self, start_B: Array) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Frames [B,T] of the history in their episode, and whether each was recorded."""
        seen = start_B[:, None] + np.arange(1 - self.history, 1) * self.frame_skip
        oldest = start_B % self.frame_skip  # of the frames that are whole model steps before
        return np.where(seen >= 0, seen, oldest[:, None]), seen >= 0

    def _read(self, rows: Array) -> dict[str, Array]:
        """Columns and extra arrays of rows of the file, [*rows, ...]."""
        batch: dict[str, Array] = {name: self.reader.gather(name, rows) for name in self.columns}
        return batch | {name: np.asarray(array).take(rows, axis=0) for name, array in self.extra.items()}

    def _gather_actions(self, start_B: Array, episode_B: Array) -> dict[str, Array]:
        """`action` [B,K,A*frame_skip] from a frame on, and `recorded` [B,K]."""
        after = (self.reader.lengths(episode_B) - 1 - start_B) // self.frame_skip
        recorded = np.arange(self.blocks) < after[:, None]
        most = (after * self.frame_skip - 1)[:, None]  # the last action that belongs to a recorded block
        first_B = self.reader.first_row(episode_B) + start_B
        rows = first_B[:, None] + np.minimum(np.arange(self.blocks * self.frame_skip), most)
        actions = self.reader.gather("action", rows).reshape(len(first_B), self.blocks, -1)
        return {"action": np.where(recorded[:, :, None], actions, 0).astype(np.float32), "recorded": recorded}

    def _describe_episodes(self) -> str:
        return f"from {len(np.unique(self._episodes))} episodes"


class GoalPairs(_Starts):
    """All pairs of a split's complete episodes, by number (`data.loader.BatchSource`).

    Columns and extra arrays are read at the history and, as the last frame, at the goal.
    """

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        return np.cumsum(self._within)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def describe(self) -> str:
        """Their number and reach, for a line of output."""
        return f"{len(self)} pairs of a frame and a later one of the same episode, {self._describe_episodes()}"

    def locate(self, indices: Array) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Episode, first frame and model steps of pairs: [B] -> ([B], [B], [B])."""
        indices = _check_numbers(indices, len(self), "pairs")
        which = np.searchsorted(self._ends, indices, side="right")
        before = np.where(which > 0, self._ends[which - 1], 0)
        return self._episodes[which], self._starts[which], indices - before + 1

    def gather(self, indices: Array) -> dict[str, Array]:
        """Reads pairs [B]: columns and extra arrays [B,T+1,...], the goal last; `valid` [B,T], whether a frame of the
        history was recorded; `steps` [B] to the goal; `action` [B,K,A*frame_skip], and `recorded` [B,K]."""
        episode, start, steps = self.locate(indices)
        seen, valid = self._list_seen(start)
        frames = np.concatenate([seen, (start + steps * self.frame_skip)[:, None]], 1)
        batch = self._read(self.reader.first_row(episode)[:, None] + frames)
        return batch | {"valid": valid, "steps": steps, **self._gather_actions(start, episode)}


class GoalTransitions(_Starts):
    """All model steps of a split's complete episodes, by number (`data.loader.BatchSource`), without goals.

    What implicit V-learning draws its goals for, each transition equally often.
    """

    @cached_property
    def _firsts(self) -> NDArray[np.int64]:
        return np.flatnonzero(self._after)

    def __len__(self) -> int:
        return len(self._firsts)

    def describe(self) -> str:
        """Their number and reach, for a line of output."""
        return f"{len(self)} transitions of a model step, {self._describe_episodes()}"

    def gather(self, indices: Array) -> dict[str, Array]:
        """Reads transitions [B]: columns and extra arrays [B,T+1,...] at the history and, as the last frame, one model
        step later; `valid` [B,T+1], whether a frame was recorded; `transition` [B], their numbers; `after` [B], the
        model steps that a later goal may be away, at least 1; `action` [B,K,A*frame_skip], and `recorded` [B,K]."""
        indices = _check_numbers(indices, len(self), "transitions")
        which = self._firsts[indices]
        episode, start = self._episodes[which], self._starts[which]
        seen, valid = self._list_seen(start)
        frames = np.concatenate([seen, (start + self.frame_skip)[:, None]], 1)
        batch = self._read(self.reader.first_row(episode)[:, None] + frames)
        batch |= {"valid": np.pad(valid, ((0, 0), (0, 1)), constant_values=True), "transition": indices}
        return batch | {"after": self._within[which], **self._gather_actions(start, episode)}

    def read_frames(self, transitions: Array, steps: Array) -> dict[str, Array]:
        """Columns and extra arrays [*transitions, ...] of frames so many model steps after the first of transitions."""
        which = self._firsts[transitions]
        assert (steps <= self._after[which]).all(), "a frame beyond the episode"
        return self._read(self.reader.first_row(self._episodes[which]) + self._starts[which] + steps * self.frame_skip)


def _check_numbers(indices: Array, count: int, what: str) -> NDArray[np.int64]:
    """The numbers as int64; IndexError for one that is not among `count`."""
    indices = np.asarray(indices, np.int64)
    if indices.size and not (0 <= indices.min() and indices.max() < count):
        raise IndexError(f"{what} {indices.min()} to {indices.max()} were asked for, there are {count}")
    return indices
