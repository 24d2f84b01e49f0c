"""What `jepa import` needs of a format: trajectories as `Recording`s, and the facts that hold for all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from commands.transfer.keys import ImportKeys
from data.checks import FileError
from data.pictures import ReadPictures
from data.schema import NO_SEED, Column

Array = NDArray[Any]


@dataclass(frozen=True)
class Recording:
    """One trajectory of T frames: columns [T,...] as `data.store` writes them, but for its pictures, which are decoded
    when asked for (height and width, view -> [T,H,W,3]). action: [T-1,A]. notes: what is unusual, a sentence each.
    split: the one its format gives it, if any."""

    source: Path
    columns: dict[str, Array]
    read_pictures: ReadPictures
    notes: tuple[str, ...] = ()
    split: str | None = None
    seed: int = NO_SEED
    factors: Mapping[str, Any] = field(default_factory=dict)


def check_recording(recording: Recording) -> Recording:
    """The recording. FileError if one of its columns holds a number that is not finite.

    The last row of a reward leads nowhere and may be nan.
    """
    for name, rows in recording.columns.items():
        known = rows[:-1] if name == "reward" else rows
        finite = np.isfinite(known.reshape(len(known), math.prod(known.shape[1:]))).all(1)
        if not finite.all():
            what = "actions" if name == "action" else f"numbers in {name}"
            frame = int(np.flatnonzero(~finite)[0])
            raise FileError(f"{recording.source} has {what} that are not finite numbers (first in frame {frame})")
    return recording


@dataclass(frozen=True)
class Facts:
    """What holds for all recordings of a format. extra: columns beyond the schema's that a recording may have. bounds:
    low and high of the actions; None: they come from the data. origin: of a file that we exported, what it was made
    from; its splits stay. settings: what the file's content depends on, beside
    the recordings. summary: the source of each column, in lines for the user."""

    env_id: str
    action_names: tuple[str, ...]
    truth_names: tuple[str, ...]
    truth_units: tuple[str, ...]
    state_size: int
    extra: tuple[Column, ...]
    step_s: float
    frame_hw: tuple[int, int]
    settings: Mapping[str, Any]
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    factors: tuple[Column, ...] = ()
    bounds: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    render: Mapping[str, Any] = field(default_factory=dict)
    summary: tuple[str, ...] = ()
    origin: Mapping[str, Any] | None = None


class RecordingFormat(Protocol):
    """A format of trajectories."""

    def __init__(self, keys: ImportKeys) -> None:
        """From the keys of `jepa import`."""

    def find(self, path: Path) -> Sequence[Any]:
        """Where the trajectories lie; ValueError where there is none."""

    @property
    def left_out(self) -> Sequence[str]:
        """Once they are found, a sentence on each file or trajectory that cannot be used."""

    def read(self, trajectory: Any) -> Recording:
        """One of them. ValueError if it cannot be used."""

    def collect_facts(self) -> Facts:
        """What holds for all of them; once they are found."""

    def list_picture_notes(self) -> Sequence[str]:
        """What reading pictures has changed in them, a sentence each; once they are read."""
