"""The trajectory formats that `jepa import` reads. A format finds trajectories, reads each as a `Recording`, and states
the facts that hold for all. Formats of one robot are a class here (DROID); data sets of other programs share
`commands.transfer.external` and differ in what opens them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch

from commands.shared.errors import UsageError, describe_choices
from commands.transfer.external import ExternalImport
from commands.transfer.keys import ImportKeys, list_cameras
from commands.transfer.recordings import Array, Facts, Recording, RecordingFormat
from data.formats.dino_wm import DinoWM
from data.formats.droid import DroidConfig, find_trajectories, read_trajectory
from data.formats.lerobot import LeRobot
from data.formats.minari import Minari
from data.formats.ogbench import OGBench
from data.formats.robomimic import Robomimic
from data.formats.table import Table
from data.schema import Column
from world_model.nn.poses import POSE_SIZE, subtract_poses

POSE_NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
POSE_UNITS = ("m", "m", "m", "rad", "rad", "rad", "closed")
DROID_FPS, DROID_SIZE_PX = 4.0, 64


class Droid:
    """DROID's raw release: an arm's poses, with the actions of V-JEPA 2-AC between them (`world_model.nn.poses`)."""

    def __init__(self, keys: ImportKeys) -> None:
        self.fps = DROID_FPS if keys.fps is None else keys.fps
        self.size_px = DROID_SIZE_PX if keys.size is None else keys.size
        droid = asdict(keys.droid)
        self.config = DroidConfig(fps=self.fps, least_frames=keys.least_frames, **droid)
        self.settings = {"format": "droid", "size": self.size_px, "view": keys.view, "droid": droid}
        self.settings |= {"fps": self.fps, "least_frames": keys.least_frames}
        if (cameras := len(list_cameras("droid.camera", keys.droid.camera))) > 1:
            self.settings["cameras"] = cameras

    left_out: Sequence[str] = ()

    def find(self, path: Path) -> list[Path]:
        return find_trajectories(path)

    def read(self, trajectory: Path) -> Recording:
        recorded = read_trajectory(trajectory, self.config)
        columns: dict[str, Array] = {
            "action": subtract_poses(torch.from_numpy(recorded.pose)).numpy().astype(np.float32),
            "time_s": recorded.time_s,
            "state": recorded.pose,
            "truth": recorded.pose.astype(np.float32),
            "proprio": recorded.pose.astype(np.float32),
        }
        if recorded.extrinsics is not None:
            columns["extrinsics"] = recorded.extrinsics
        return Recording(trajectory, columns, recorded.read_pictures, recorded.notes)

    def list_picture_notes(self) -> tuple[str, ...]:
        return ()  # frames of video are colour in 8 bits

    def collect_facts(self) -> Facts:
        return Facts(
            env_id="droid",
            action_names=tuple(f"change of {name}" for name in POSE_NAMES),
            truth_names=POSE_NAMES,
            truth_units=POSE_UNITS,
            state_size=POSE_SIZE,
            extra=(Column("proprio", (POSE_SIZE,), "float32"), Column("extrinsics", (6,), "float32")),
            step_s=1 / self.fps,
            frame_hw=(self.size_px, self.size_px * len(self.config.cameras)),
            settings=self.settings,
        )


FORMATS: dict[str, Callable[[ImportKeys], RecordingFormat]] = {
    "droid": Droid,
    "robomimic": partial(ExternalImport, Robomimic),
    "ogbench": partial(ExternalImport, OGBench),
    "minari": partial(ExternalImport, Minari),
    "lerobot": partial(ExternalImport, LeRobot),
    "table": partial(ExternalImport, Table),
    "dino_wm": partial(ExternalImport, DinoWM),
}


def make_format(keys: ImportKeys) -> RecordingFormat:
    """The format that `format=` names; UsageError where there is none."""
    name = keys.format
    if name not in FORMATS:
        raise UsageError(f"format={name}: no such format{describe_choices(name, FORMATS)}")
    return FORMATS[name](keys)
