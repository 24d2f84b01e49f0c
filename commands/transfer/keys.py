"""Keys of `jepa import`, as its formats read them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Interval

from commands.config.keys import RunKeys
from commands.shared.errors import UsageError
from data.formats.droid import Camera
from data.pictures import View


@dataclass(frozen=True)
class ColumnsConfig:
    """Which columns of the data set become ours; None: the ones that the format suggests, [] none."""

    pixels: str | list[str] | None = None
    """camera or observation of pictures; [A,B]: side by side; null: the first"""
    state: tuple[str, ...] | None = None
    """list; null: what sets the simulator up, else as truth"""
    truth: tuple[str, ...] | None = None
    """list; null: all other numbers"""
    proprio: tuple[str, ...] | None = None
    """list; null: the body's own, where the format tells them apart"""


@dataclass(frozen=True, kw_only=True)
class DroidKeys:
    """Choices that DROID's raw release leaves."""

    camera: Camera | list[Camera] = "left"
    """camera whose video is read: left, right or wrist; [left,wrist]: side by side"""
    angles: Literal["radians", "degrees"] = "radians"
    """unit of the recorded angles"""


@dataclass(frozen=True, kw_only=True)
class ImportKeys(RunKeys):
    """What is imported, and how its columns, rate and pictures become ours."""

    format: str
    """droid, robomimic, ogbench, minari, lerobot (version 3), table (of stable-worldmodel) or dino_wm"""
    path: str
    """file or folder that holds the trajectories (of droid: at any depth)"""
    fps: Annotated[float, Gt(0)] | None = None
    """frames per second. droid: those retained, null for 4. Others keep their own; give it where none is recorded"""
    environment: str | None = None
    """environment that the data come from, where models plan: a task, or gym/ID; null: that of jepa export, or none"""
    environment_kwargs: dict[str, Any] = field(default_factory=dict)
    """further arguments of that environment, as {width: 128, height: 128}"""
    least_frames: Annotated[int, Ge(2)] = 2
    """frames below which a trajectory is left out"""
    size: Annotated[int, Interval(ge=1, le=4096)] | None = None
    """side of a camera's pictures as written, pixels; null: 64 of droid, of others the shorter side as recorded"""
    view: View = "centre"
    """centre: the largest square in the middle of a picture; whole: all of it, squeezed into a square"""
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    """columns of the data set that become ours, not of droid"""
    droid: DroidKeys = field(default_factory=DroidKeys)
    """format=droid"""


def list_cameras(key: str, value: Any) -> tuple[str, ...]:
    """The cameras of a key, from left to right; () for null. UsageError for an empty list, and for one named twice."""
    cameras = (value,) if isinstance(value, str) else tuple(value or ())
    if value == [] or len(set(cameras)) < len(cameras):
        raise UsageError(f"{key}=[{','.join(cameras)}]: name each camera once, at least one")
    return cameras
