"""What stage 1 learns from: trajectory files, or a folder of plain video. Both offer the same: clips of train and val,
pixel statistics, stretches of video to fit a metric on, a monitor, and what a model folder says of its data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

import envs
from commands.config.keys import OnDamaged
from commands.shared.console import Console
from commands.shared.errors import UsageError
from commands.training.model_folders import check_frames, find_frame_skip, open_reader
from commands.training.monitors import (
    METRIC_EPISODES,
    NUM_FRAMES,
    Monitor,
    PretrainMonitor,
    read_episodes,
    select_frames,
)
from data.clips import ClipConfig, VideoClips, VideoFolder, open_folder
from data.loader import BatchSource, Loader
from data.store import compute_statistics
from data.video import find_videos
from data.windows import Windows
from world_model.dynamics import ActionSpec
from world_model.encoder import EncoderConfig
from world_model.objectives.families import ObjectiveConfig
from world_model.objectives.objective import PretrainModel
from world_model.training.augment import CropConfig

VIDEO_FOLDER = "video_folder"  # data= that says: plain video, at path=
STRETCH_FRAMES = 64  # longest stretch of a video that a metric is fitted on
STATISTICS_CLIPS = 64  # clips of train that pixel statistics are taken from
NAMED = 3  # files left out that are named; the rest are counted


class Source(Protocol):
    """What `commands.pretrain` needs of its data. actions: set where the objective reads them; crop: set where clips
    are cut at random; workers: threads that read ahead."""

    actions: ActionSpec | None
    crop: CropConfig | None
    workers: int
    clips: dict[str, BatchSource]

    def compute_pixel_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel on train, in 0..255."""
        ...

    def read_segments(self, most: int) -> Iterator[Tensor]:
        """Frames [T, H, W, C] that follow one another, of at most so many recordings of train."""
        ...

    def make_monitor(self, model: PretrainModel, batches: Loader, device: torch.device) -> Monitor:
        """What watches the training, given batches of val."""
        ...

    def describe(self) -> dict[str, Any]:
        """What the model folder says of its data."""
        ...


class Trajectories:
    """Windows of a trajectory file; frames come in the encoder's size."""

    crop: CropConfig | None = None
    workers = 0  # copying from a memory map is quicker than handing it over

    def __init__(self, reader: Any, objective: ObjectiveConfig) -> None:
        self.reader = reader
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
        """With the true state where the task is known here; else nothing says what the file's truth means."""
        clips = list(self.read_segments(METRIC_EPISODES))
        task = envs.find_task(self.reader.info.env_id)
        if task is not None:
            return PretrainMonitor(model, self.reader, task, clips, batches, device)
        frames = np.concatenate([self.reader.column("pixels", e)[rows] for e, rows in select_frames(self.reader)])
        return Monitor(model, torch.from_numpy(frames), clips, batches, device)

    def describe(self) -> dict[str, Any]:
        info = self.reader.info
        return {"env": info.env_id, "env_kwargs": info.env_kwargs, "data": self.reader.file_checksum}


@dataclass(frozen=True)
class VideoConfig:
    """How clips are cut from plain video.

    fps: pictures a second of a clip. store_px: side of the squares that pictures are squeezed into before crops are
    cut from them; None: half as much again as the encoder's. val_share: share of the files. workers: threads.
    """

    fps: float = 4.0
    """frames a second of a clip, by the files' time stamps (objective.frame_gap is for trajectories)"""
    store_px: int | None = None
    """side of the squares that crops are cut from, pixels; null: half as much again as the encoder's"""
    val_share: float = 0.1
    """share of the files that is held out, chosen by the hash of their names"""
    workers: int = 2
    """threads that decode ahead of the training; 0: none; changes no result"""
    crop: CropConfig = field(default_factory=CropConfig)
    """random crop of each clip"""

    def __post_init__(self) -> None:
        if not self.fps > 0:
            raise ValueError(f"fps={self.fps}: give a rate above 0, in pictures a second")
        if self.store_px is not None and self.store_px < 1 or self.workers < 0 or not 0 < self.val_share < 1:
            raise ValueError(
                f"store_px={self.store_px} workers={self.workers} val_share={self.val_share}: give at least one "
                "pixel, no fewer than 0 threads, and a share between 0 and 1"
            )


class Videos:
    """Clips of plain video. Those of train show whole pictures, larger than the encoder's, to cut crops from; those of
    val, and all frames that are measured on, the middle in the encoder's size."""

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
        return map(torch.from_numpy, self.middle.read_stretches(most, STRETCH_FRAMES))

    def make_monitor(self, model: PretrainModel, batches: Loader, device: torch.device) -> Monitor:
        most = NUM_FRAMES // STRETCH_FRAMES
        clips = list(self.read_segments(most))
        frames = np.concatenate(list(self.val.read_stretches(most, STRETCH_FRAMES)))
        return Monitor(model, torch.from_numpy(frames), clips, batches, device)

    def describe(self) -> dict[str, Any]:
        files = {"train": len(self.folder.train), "val": len(self.folder.val), "broken": len(self.folder.broken)}
        return {
            "env": None,
            "env_kwargs": {},
            "video": {"fps": self.video.fps, "files": files, "short": len(self.folder.short)},
            "data": self.folder.checksum,
        }


def open_source(
    data: Any,
    path: str | None,
    video: VideoConfig,
    on_damaged: OnDamaged,
    encoder: EncoderConfig,
    objective: ObjectiveConfig,
    console: Console,
) -> Source:
    """The source that data= names, checked against the encoder's size; reports what was left out.

    path, video: folder of plain video and how clips are cut from it, where data is `video_folder`.
    """
    if data == VIDEO_FOLDER:
        return open_videos(check_video_folder(path, objective), video, encoder, objective, console)
    reader = open_reader(data, on_damaged)
    check_frames(encoder.image_px, reader.info, str(data))
    return Trajectories(reader, objective)


def check_video_folder(path: str | None, objective: ObjectiveConfig) -> Path:
    """The folder of plain video; UsageError where there is none, or where the objective needs actions."""
    if path is None:
        raise UsageError(f"data={VIDEO_FOLDER} needs path=FOLDER: the folder that holds the videos")
    if objective.reads_actions:
        raise UsageError("this objective reads actions and plain video has none: choose objective=future, or vjepa2")
    find_videos(Path(path))
    return Path(path)


def open_videos(
    folder: Path, video: VideoConfig, encoder: EncoderConfig, objective: ObjectiveConfig, console: Console
) -> Videos:
    clip = ClipConfig(objective.frames, video.fps)
    with console.progress("check", 1, "videos") as progress:

        def checked(done: int, total: int) -> None:
            progress.total = total
            progress.update(done)

        found = open_folder(folder, clip, video.val_share, video.workers, checked)
    tell = _telling(console)
    report_left_out(found, clip, tell)
    console.say(
        f"{len(found.train)} videos to train on, {len(found.val)} to validate, clips of {clip.length_s:.2f} s "
        f"({clip.frames} frames at {clip.fps:g} a second)"
    )
    return Videos(found, clip, video, encoder.image_px, tell)


def _telling(console: Console) -> Callable[[str], None]:
    return lambda sentence: console.warn(f"jepa pretrain: {sentence}")


def report_left_out(found: VideoFolder, clip: ClipConfig, tell: Callable[[str], None]) -> None:
    """One line for each kind of file that is left out, or that is not what it seems."""
    total = len(found.files) + len(found.broken) + len(found.short)
    if found.broken:
        tell(f"left out as broken: {len(found.broken)} of {total} videos: {list_first(found.broken, '; ')}")
    if found.short:
        names = list_first([file.path.name for file in found.short])
        tell(f"left out as shorter than a clip ({clip.length_s:.2f} s): {len(found.short)} of {total} videos: {names}")
    slow = [file.path.name for file in found.files if file.rate < 0.9 * clip.fps]
    if slow:
        names = list_first(slow)
        tell(
            f"fewer frames a second than video.fps={clip.fps:g}, so some repeat: {len(slow)} of {total} videos: {names}"
        )
    if found.train == found.val:
        tell("there is one usable video alone: val is the video that is trained on")


def list_first(names: Sequence[str], between: str = ", ") -> str:
    """The first names, and that there are more."""
    return between.join([*names[:NAMED], *(["..."] if len(names) > NAMED else [])])
