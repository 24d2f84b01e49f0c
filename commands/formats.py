"""The closed registry of trajectory formats that `jepa import` reads. A format finds trajectories in a folder and gives
each as a `Recording`; it says what their numbers mean. Another format is another class here and its name in FORMATS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from commands.config import build
from commands.errors import UsageError, listed, nearest
from data.droid import DroidConfig, find_trajectories, read_trajectory
from data.schema import Column
from data.video import View
from world_model.poses import POSE_SIZE, difference

Array = NDArray[Any]
POSE_NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
POSE_UNITS = ("m", "m", "m", "rad", "rad", "rad", "closed")


@dataclass(frozen=True)
class Recording:
    """One trajectory of T frames: columns [T,...] as `data.store` writes them, but for its pictures, which are decoded
    when asked for (side, view -> [T,side,side,3]). action: [T-1,A]. notes: what is odd about it, a sentence each."""

    source: Path
    columns: dict[str, Array]
    pictures: Callable[[int, View], NDArray[np.uint8]]
    notes: tuple[str, ...] = ()


class Format(Protocol):
    """What `jepa import` needs of a format. extra: columns beyond the schema's that a recording may have."""

    name: str
    action_names: tuple[str, ...]
    truth_names: tuple[str, ...]
    truth_units: tuple[str, ...]
    state_size: int
    extra: tuple[Column, ...]

    def __init__(self, config: dict[str, Any]) -> None:
        """From the configuration of the command."""
        ...

    def find(self, folder: Path) -> list[Path]:
        """Where the trajectories lie; ValueError where there is none."""
        ...

    def read(self, place: Path) -> Recording:
        """One of them. ValueError if it cannot be used."""
        ...


class Droid:
    """DROID's raw release: an arm's poses, with the actions of V-JEPA 2-AC between them (`world_model.poses`)."""

    name: str = "droid"
    action_names: tuple[str, ...] = tuple(f"change of {name}" for name in POSE_NAMES)
    truth_names: tuple[str, ...] = POSE_NAMES
    truth_units: tuple[str, ...] = POSE_UNITS
    state_size: int = POSE_SIZE
    extra: tuple[Column, ...] = (Column("proprio", (POSE_SIZE,), "float32"), Column("extrinsics", (6,), "float32"))

    def __init__(self, config: dict[str, Any]) -> None:
        shared = {key: config[key] for key in ("fps", "least_frames")}
        self.config = build(DroidConfig, {**shared, **config["droid"]}, "droid")

    def find(self, folder: Path) -> list[Path]:
        return find_trajectories(folder)

    def read(self, place: Path) -> Recording:
        found = read_trajectory(place, self.config)
        columns: dict[str, Array] = {
            "action": difference(torch.from_numpy(found.pose)).numpy().astype(np.float32),
            "time_s": found.time_s,
            "state": found.pose,
            "truth": found.pose.astype(np.float32),
            "proprio": found.pose.astype(np.float32),
        }
        if found.extrinsics is not None:
            columns["extrinsics"] = found.extrinsics
        return Recording(place, columns, found.pictures, found.notes)


FORMATS: dict[str, type[Format]] = {"droid": Droid}


def make_format(config: dict[str, Any]) -> Format:
    """The format that `format=` names; UsageError where there is none."""
    name = str(config["format"])
    if name not in FORMATS:
        raise UsageError(f"format={name}: no such format{nearest(name, FORMATS)} (choices: {listed(FORMATS)})")
    return FORMATS[name](config)
