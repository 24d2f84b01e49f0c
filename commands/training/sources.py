"""Data of stage 1: trajectory files, or a folder of plain video."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor

import envs
from commands.config.keys import OnDamaged
from commands.shared.console import Console
from commands.shared.errors import UsageError
from commands.training.monitors import (
    METRIC_EPISODES,
    NUM_FRAMES,
    Monitor,
    PretrainMonitor,
    read_episodes,
    read_selection,
    select_frames,
)
from commands.training.trajectory_files import derive_preprocessing, find_frame_skip, open_reader
from data.clips import ClipConfig, VideoClips, VideoFolder, open_folder
from data.loader import BatchSource, Loader
from data.pictures import Preprocessing
from data.prepared import prepare_reader
from data.store import compute_statistics
from data.video import find_videos
from data.windows import Windows
from world_model.actions import ActionSpec
from world_model.encoder import EncoderConfig
from world_model.objectives.families import Stage1Config
from world_model.objectives.pretrain_model import PretrainModel
from world_model.training.augment import CropConfig
from world_model.training.checkpoint import make_config_dict

VIDEO_FOLDER = "video_folder"  # value of data= for plain video, at path=
SEGMENT_FRAMES = 64  # longest segment of a video that a metric is fitted to
STATISTICS_CLIPS = 64  # clips of train that pixel statistics are taken from
RESIZE_WORKERS = 2  # threads that read ahead where frames are resized; they change no result
NAMED = 3  # files left out that are named; the rest are counted


class Source(Protocol):
    """Data of stage 1. actions: set if the objective reads them. crop: set if clips are cropped at random. workers:
    threads that read ahead. clips: of train and val."""

    actions: ActionSpec | None
    crop: CropConfig | None
    workers: int
    clips: dict[str, BatchSource]

    def compute_pixel_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel on train, in 0..255."""

    def read_segments(self, most: int) -> Iterator[Tensor]:
        """Consecutive frames [T, H, W, C], of at most so many recordings of train."""

    def make_monitor(self, model: PretrainModel, batches: Loader, device: torch.device) -> Monitor:
        """The monitor of a training; batches: of val."""

    def describe(self) -> dict[str, Any]:
        """Environment, data and preprocessing, for the model folder."""


class TrajectorySource:
    """Windows of a trajectory file. Frames of another size than the encoder's are preprocessed as they are read."""

    crop: CropConfig | None = None

    def __init__(self, reader: Any, objective: Stage1Config, preprocessing: Preprocessing) -> None:
        self.reader, self.preprocessing = prepare_reader(reader, preprocessing), preprocessing
        # Copying from a memory map is quicker than handing it over; resizing is not.
        self.workers = 0 if self.reader is reader else RESIZE_WORKERS
        reader = self.reader
        gap = objective.frame_gap or find_frame_skip(reader.info)
        self.actions: ActionSpec | None = None
        columns = ["pixels"]
        if objective.reads_actions:
            self.actions = ActionSpec(tuple(reader.info.action_low), tuple(reader.info.action_high), gap)
            columns.append("action")
        self.clips: dict[str, BatchSource] = {
            split: Windows(reader, split, objective.frames, gap, columns) for split in ("train", "val")
        }

    def compute_pixel_statistics(self) -> tuple[Tensor, Tensor]:
        mean, std = compute_statistics(self.reader, "pixels")
        return torch.from_numpy(mean), torch.from_numpy(std)

    def read_segments(self, most: int) -> Iterator[Tensor]:
        return read_episodes(self.reader, self.reader.episodes("train")[:most])

    def make_monitor(self, model: PretrainModel, batches: Loader, device: torch.device) -> Monitor:
        """Measures the true state only of a known task: the meaning of other tasks' truth is unknown."""
        clips = list(self.read_segments(METRIC_EPISODES))
        task = envs.find_task(self.reader.info.env_id)
        if task is not None:
            return PretrainMonitor(model, self.reader, task, clips, batches, device)
        return Monitor(model, read_selection(self.reader, select_frames(self.reader)), clips, batches, device)

    def describe(self) -> dict[str, Any]:
        info = self.reader.info
        return {
            "env": info.env_id,
            "env_kwargs": info.env_kwargs,
            "data": self.reader.file_checksum,
            "preprocessing": make_config_dict(self.preprocessing),
        }


@dataclass(frozen=True)
class VideoConfig:
    """How clips are cut from plain video."""

    fps: Annotated[float, Gt(0)] = 4.0
    """frames a second of a clip, by the files' time stamps (objective.frame_gap is for trajectories)"""
    store_px: Annotated[int, Ge(1)] | None = None
    """side of the squares that crops are cut from, pixels; null: half as much again as the encoder's"""
    val_share: Annotated[float, Interval(gt=0, lt=1)] = 0.1
    """share of the files that is held out, chosen by the hash of their names"""
    workers: Annotated[int, Ge(0)] = 2
    """threads that decode ahead of the training; 0: none; changes no result"""
    crop: CropConfig = field(default_factory=CropConfig)
    """random crop of each clip"""


class VideoSource:
    """Clips of plain video. Clips of train show full pictures, larger than the encoder's, to cut crops from. Clips of
    val, and all frames that are measured, show the centre in the encoder's size."""

    actions: ActionSpec | None = None
    crop: CropConfig | None

    def __init__(
        self,
        folder: VideoFolder,
        clip: ClipConfig,
        video: VideoConfig,
        image_px: tuple[int, int],
        tell: Callable[[str], None],
    ) -> None:
        self.folder, self.video, self.crop, self.workers = folder, video, video.crop, video.workers
        self.preprocessing = Preprocessing(image_px)
        side = video.store_px or round(1.5 * max(image_px))
        self.whole = VideoClips(folder.train, clip, (side, side), "whole", tell)
        self.middle = VideoClips(folder.train, clip, image_px, "centre", tell)
        self.val = VideoClips(folder.val, clip, image_px, "centre", tell)
        self.clips: dict[str, BatchSource] = {"train": self.whole, "val": self.val}

    def compute_pixel_statistics(self) -> tuple[Tensor, Tensor]:
        chosen = np.unique(np.linspace(0, len(self.whole) - 1, STATISTICS_CLIPS).astype(int))
        means, squares = [], []
        for index in chosen:
            pixels = self.whole.gather(np.array([index]))["pixels"].reshape(-1, 3).astype(np.float64)
            means.append(pixels.mean(0))
            squares.append(np.square(pixels).mean(0))
        mean = np.mean(means, 0)
        std = np.sqrt(np.maximum(np.mean(squares, 0) - mean**2, 0))
        return torch.from_numpy(mean), torch.from_numpy(std)

    def read_segments(self, most: int) -> Iterator[Tensor]:
        return map(torch.from_numpy, self.middle.read_stretches(most, SEGMENT_FRAMES))

    def make_monitor(self, model: PretrainModel, batches: Loader, device: torch.device) -> Monitor:
        most = NUM_FRAMES // SEGMENT_FRAMES
        clips = list(self.read_segments(most))
        recordings = [torch.from_numpy(frames) for frames in self.val.read_stretches(most, SEGMENT_FRAMES)]
        return Monitor(model, recordings, clips, batches, device)

    def describe(self) -> dict[str, Any]:
        files = {"train": len(self.folder.train), "val": len(self.folder.val), "broken": len(self.folder.broken)}
        return {
            "env": None,
            "env_kwargs": {},
            "video": {"fps": self.video.fps, "files": files, "short": len(self.folder.short)},
            "data": self.folder.checksum,
            "preprocessing": make_config_dict(self.preprocessing),
        }


def open_source(
    data: Any,
    path: str | None,
    video: VideoConfig,
    on_damaged: OnDamaged,
    encoder: EncoderConfig,
    objective: Stage1Config,
    console: Console,
) -> Source:
    """The data of stage 1 in the encoder's size; prints what was left out or resized.

    path, video: folder of plain video and how clips are cut from it, where data is `video_folder`.
    """
    if data == VIDEO_FOLDER:
        return open_videos(check_video_folder(path, objective), video, encoder, objective, console)
    reader = open_reader(data, on_damaged)
    preprocessing = derive_preprocessing(reader.info, encoder.image_px)
    if preprocessing.stored_hw is not None:
        console.say(preprocessing.describe(preprocessing.stored_hw))
    return TrajectorySource(reader, objective, preprocessing)


def check_video_folder(path: str | None, objective: Stage1Config) -> Path:
    """The folder of plain video; UsageError where there is none, or where the objective needs actions."""
    if path is None:
        raise UsageError(f"data={VIDEO_FOLDER} needs path=FOLDER: the folder that holds the videos")
    if objective.reads_actions:
        raise UsageError("this objective reads actions and plain video has none: choose objective=future, or vjepa2")
    find_videos(Path(path))
    return Path(path)


def open_videos(
    root: Path, video: VideoConfig, encoder: EncoderConfig, objective: Stage1Config, console: Console
) -> VideoSource:
    clip = ClipConfig(objective.frames, video.fps)
    with console.progress("check", 1, "videos") as progress:

        def show_progress(done: int, total: int) -> None:
            progress.total = total
            progress.update(done)

        folder = open_folder(root, clip, video.val_share, video.workers, show_progress)

    def warn(sentence: str) -> None:
        console.warn(f"jepa pretrain: {sentence}")

    report_left_out(folder, clip, warn)
    console.say(
        f"{len(folder.train)} videos to train on, {len(folder.val)} to validate, clips of {clip.length_s:.2f} s "
        f"({clip.frames} frames at {clip.fps:g} a second)"
    )
    return VideoSource(folder, clip, video, encoder.image_px, warn)


def report_left_out(folder: VideoFolder, clip: ClipConfig, warn: Callable[[str], None]) -> None:
    """One line for each kind of file that is left out, or that is not what it seems."""
    total = len(folder.files) + len(folder.broken) + len(folder.short)
    slow = [file.path.name for file in folder.files if file.rate < 0.9 * clip.fps]
    short = [file.path.name for file in folder.short]
    for kind, names, separator in (
        ("left out as broken", folder.broken, "; "),
        (f"left out as shorter than a clip ({clip.length_s:.2f} s)", short, ", "),
        (f"fewer frames a second than video.fps={clip.fps:g}, so some repeat", slow, ", "),
    ):
        if names:
            first = separator.join([*names[:NAMED], *(["..."] if len(names) > NAMED else [])])
            warn(f"{kind}: {len(names)} of {total} videos: {first}")
    if folder.train == folder.val:
        warn("there is one usable video alone: val is the video that is trained on")
