"""Dataclasses that describe a trajectory file: its columns, its facts, and the plan of its episodes.

The layout of the file is drawn at the top of `data/store.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.checks import parse_fields, parse_json

SCHEMA = 1
SPLITS = ("train", "val", "eval")
SPLIT_SHARES = (0.8, 0.1, 0.1)
NUMBER_KINDS = "fiub"  # of numpy's types: real numbers
NO_SEED = -1  # imported episodes have no seed, and are never compared with others by it


class StoreError(ValueError):
    """A trajectory file, or its disk, cannot do what was asked; the message is one sentence for the user."""


@dataclass(frozen=True)
class Column:
    """A flat array over all frames (or, for a factor, over all episodes).

    shape: of one row; dtype: numpy's name.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    def __post_init__(self) -> None:
        kind: str
        try:
            kind = np.dtype(self.dtype).kind
        except TypeError:
            kind = "none"
        if kind not in NUMBER_KINDS or any(size < 0 for size in self.shape):
            raise ValueError(f"column {self.name} of type {self.dtype} and shape {list(self.shape)} holds no numbers")

    @property
    def row_bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class StoreInfo:
    """Facts that hold for all frames of a file.

    Actions are in environment units. step_s: seconds between two frames. factors: properties of the simulator's model
    that differ between episodes (the position of a door), one row an episode. render: camera and renderer, for people.
    source: how the episodes were made; a command that resumes compares it with its own configuration.
    """

    env_id: str
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    action_names: tuple[str, ...]
    step_s: float
    frame_hwc: tuple[int, int, int]
    truth_names: tuple[str, ...]
    truth_units: tuple[str, ...]
    state_size: int
    factors: tuple[Column, ...] = ()
    extra: tuple[Column, ...] = ()
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    render: Mapping[str, Any] = field(default_factory=dict)
    source: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sizes = {len(self.action_low), len(self.action_high), len(self.action_names)}
        if len(sizes) != 1 or sizes == {0}:
            raise ValueError(
                f"action_low={self.action_low}, action_high={self.action_high} and action_names={self.action_names}: "
                "one number or name each is needed for every number of an action, at least one"
            )
        for name, low, high in zip(self.action_names, self.action_low, self.action_high, strict=True):
            if not -np.inf < low < high < np.inf:
                raise ValueError(f"{name} has the bounds {low} to {high}: finite numbers are needed, the lower first")
        if len(self.truth_names) != len(self.truth_units):
            raise ValueError(f"truth_names={self.truth_names} and truth_units={self.truth_units} differ in length")
        if min(self.frame_hwc) < 1 or not 0 < self.step_s < np.inf or self.state_size < 0:
            raise ValueError(
                f"frame_hwc={self.frame_hwc}, step_s={self.step_s} and state_size={self.state_size}: sizes from 1 on, "
                "seconds above 0, and no negative number are needed"
            )
        for columns in (self.columns, self.factors):
            names = [column.name for column in columns]
            if len(set(names)) != len(names):
                raise ValueError(f"a column is declared twice: {names}")

    @property
    def action_size(self) -> int:
        return len(self.action_low)

    @property
    def columns(self) -> tuple[Column, ...]:
        """All columns over frames, in the order in which they are written and enter the checksum."""
        return (
            Column("pixels", tuple(self.frame_hwc), "uint8"),
            Column("action", (self.action_size,), "float32"),
            Column("time_s", (), "float64"),
            Column("state", (self.state_size,), "float64"),
            Column("truth", (len(self.truth_names),), "float32"),
            *self.extra,
        )

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame's rows in all columns."""
        return sum(column.row_bytes for column in self.columns)

    def find_differences(self, other: StoreInfo, but: Sequence[str] = ("render", "source")) -> list[str]:
        """Names of the fields in which two files differ, without those in `but`."""
        mine, its = json.loads(self.to_json()), json.loads(other.to_json())
        return [key for key in mine if key not in but and mine[key] != its[key]]

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True, default=_encode_json)

    @classmethod
    def from_json(cls, text: str) -> StoreInfo:
        """The facts in a JSON text; ValueError names the field that is missing or of another type."""
        values = parse_json(text, "its text")
        parse_fields(StoreInfo, values, "it")
        if unknown := sorted(values.keys() - {item.name for item in fields(StoreInfo)}):
            raise ValueError(f"it has fields that are unknown here: {', '.join(unknown)}")
        for key in ("factors", "extra"):
            values[key] = [Column(c["name"], tuple(c["shape"]), c["dtype"]) for c in values.get(key, ())]
        for key, value in values.items():
            if isinstance(value, list):
                values[key] = tuple(value)
        return cls(**values)


def _encode_json(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON: {value!r}")


@dataclass(frozen=True)
class EpisodePlan:
    """Frames, seed and split of each episode that a file has room for ([E] each), fixed before the first is written."""

    lengths: NDArray[np.int64]
    seeds: NDArray[np.int64]
    splits: NDArray[np.uint8]

    def __post_init__(self) -> None:
        shapes = (self.lengths.shape, self.seeds.shape, self.splits.shape)
        assert len(set(shapes)) == 1 and len(shapes[0]) == 1, shapes
        if self.lengths.size == 0 or int(self.lengths.min()) < 1:
            raise StoreError(
                f"a data file needs at least one episode of at least one frame, not {self.lengths.tolist()}"
            )

    @property
    def starts(self) -> NDArray[np.int64]:
        """First row of each episode [E]."""
        return np.cumsum(self.lengths) - self.lengths

    @property
    def capacity(self) -> int:
        """Rows of each flat column."""
        return int(self.lengths.sum())


def plan_episodes(episodes: int, frames: int, seed: int) -> EpisodePlan:
    """A plan of equally long episodes, with seeds and splits drawn from `seed`."""
    if episodes < 1 or frames < 2:
        raise ValueError(f"episodes={episodes} and frames={frames} make no data: give at least episodes=1 frames=2")
    lengths = np.full(episodes, frames, np.int64)
    return EpisodePlan(lengths, draw_seeds(seed, episodes), draw_splits(seed, episodes))


def draw_seeds(seed: int, episodes: int) -> NDArray[np.int64]:
    """Seeds [E] of a file's episodes: functions of (seed, index), below 2**53 so that JSON is exact."""
    words = [np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0] for index in range(episodes)]
    return (np.array(words, np.uint64) >> np.uint64(11)).astype(np.int64)


def draw_splits(seed: int, episodes: int) -> NDArray[np.uint8]:
    """Indices into SPLITS [E], in the ratio of SPLIT_SHARES; from 3 episodes on, no split is empty."""
    few = max(1, round(SPLIT_SHARES[1] * episodes)) if episodes >= 3 else 0
    splits = np.zeros(episodes, np.uint8)
    order = np.random.default_rng(np.random.SeedSequence([seed, episodes, 0x5717])).permutation(episodes)
    splits[order[:few]] = SPLITS.index("val")
    splits[order[few : 2 * few]] = SPLITS.index("eval")
    return splits
