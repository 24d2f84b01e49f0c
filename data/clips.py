"""Plain video as training clips: the files of a folder, checked and split, and all clips in them.

A clip is T frames 1 / fps seconds apart by the files' time stamps, so that files of any rate give clips of one rate.
`VideoClips` reads by clip number alone, as `data.windows.Windows` does: batch k is a function of (seed, k), however
often a run is resumed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.pictures import View
from data.video import TOLERANCE_S, VideoError, VideoFile, decode_at_times, find_videos, inspect_video

STARTS_PER_FRAME = 4  # possible starts of a clip between two of its frames
ATTEMPTS = 8  # clips tried, one after another, where one cannot be decoded


@dataclass(frozen=True)
class ClipConfig:
    """Frames of a clip, and frames per second."""

    frames: int
    fps: float

    def __post_init__(self) -> None:
        if self.frames < 1 or not self.fps > 0:
            raise VideoError(f"objective.frames={self.frames} video.fps={self.fps}: give one frame and a rate above 0")

    @property
    def times_s(self) -> NDArray[np.float64]:
        """Times of its frames since the first [T]."""
        return np.arange(self.frames) / self.fps

    @property
    def length_s(self) -> float:
        """Seconds from the first frame to the last."""
        return float(self.times_s[-1])


@dataclass(frozen=True)
class VideoFolder:
    """The usable files of a folder, split by the hash of their names, and the files left out.

    broken: why each cannot be read. short: files shorter than a clip.
    """

    train: tuple[VideoFile, ...]
    val: tuple[VideoFile, ...]
    broken: tuple[str, ...]
    short: tuple[VideoFile, ...]

    @property
    def files(self) -> tuple[VideoFile, ...]:
        """All usable files."""
        return tuple(dict.fromkeys(self.train + self.val))

    @property
    def checksum(self) -> str:
        """Hex digest of the usable files' names, frame counts and lengths; no frame is read."""
        facts = sorted((file.path.name, file.frames, round(file.length_s, 6)) for file in self.files)
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def open_folder(
    folder: Path,
    clip: ClipConfig,
    val_share: float,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> VideoFolder:
    """Checks every video of a folder. VideoError if there is none, all are broken, or all are too short."""

    def inspect(path: Path) -> VideoFile | str:
        try:
            return inspect_video(path)
        except VideoError as error:
            return str(error)

    paths = find_videos(folder)
    readable, broken = [], []
    with ThreadPoolExecutor(max(1, workers), thread_name_prefix="inspect") as pool:
        for number, result in enumerate(pool.map(inspect, paths), 1):
            if isinstance(result, VideoFile):
                readable.append(result)
            else:
                broken.append(result)
            progress(number, len(paths))
    if not readable:
        raise VideoError(f"none of the {len(paths)} videos in {folder} can be read: {broken[0]}")
    long = [file for file in readable if file.length_s >= clip.length_s - TOLERANCE_S]
    if not long:
        longest_s = max(file.length_s for file in readable)
        raise VideoError(
            f"clips of objective.frames={clip.frames} at video.fps={clip.fps:g} need videos of {clip.length_s:.2f} s, "
            f"and the longest in {folder} has {longest_s:.2f} s: ask for fewer frames or a higher rate"
        )
    train, val = _split_files(long, folder, val_share)
    return VideoFolder(train, val, tuple(broken), tuple(file for file in readable if file not in long))


def _split_files(
    files: Sequence[VideoFile], folder: Path, val_share: float
) -> tuple[tuple[VideoFile, ...], tuple[VideoFile, ...]]:
    """Train and val files, by the hash of their names alone: those with the smallest hashes are val.

    Each split has at least one file; a single file is in both.
    """
    hashes = {file: _hash_to_unit(file.path.relative_to(folder).as_posix()) for file in files}
    count = sum(number < val_share for number in hashes.values())
    count = min(max(count, 1), max(1, len(files) - 1))
    held_out = sorted(files, key=lambda file: hashes[file])[:count]
    val = tuple(file for file in files if file in held_out)
    return tuple(file for file in files if file not in held_out) or val, val


def _hash_to_unit(name: str) -> float:
    """A number in [0, 1) that is a function of the name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big") / 2**48


class VideoClips:
    """All clips in some files, by number; each file is at least as long as a clip.

    size_hw, view: of the frames, as in `decode_at_times`. A clip that cannot be decoded is replaced by another, always
    the same one; its file is reported through `warn` once and listed in `broken`.
    """

    def __init__(
        self,
        files: Sequence[VideoFile],
        clip: ClipConfig,
        size_hw: tuple[int, int],
        view: View = "whole",
        warn: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self.files, self.clip, self.size_hw, self.view, self.warn = tuple(files), clip, size_hw, view, warn
        self.broken: dict[Path, str] = {}
        room_s = np.array([max(0.0, file.length_s - clip.length_s) for file in files])
        counts = np.floor(room_s * clip.fps * STARTS_PER_FRAME + TOLERANCE_S).astype(np.int64) + 1
        self._ends = np.cumsum(counts)
        self._begins = self._ends - counts

    def __len__(self) -> int:
        return int(self._ends[-1])

    def locate(self, index: int) -> tuple[int, float]:
        """Number of a clip's file, and the clip's start in it, in seconds."""
        if not 0 <= index < len(self):
            raise IndexError(f"clip {index} was asked for, there are {len(self)}")
        file = int(np.searchsorted(self._ends, index, side="right"))
        return file, float(index - self._begins[file]) / (self.clip.fps * STARTS_PER_FRAME)

    def gather(self, indices: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Clips [B]: `pixels` [B,T,h,w,3] uint8, and `aspect` [B] of their files' frames.

        `episode` [B] is the number of each clip's file, `start` [B] the number of the clip that was decoded.
        """
        decoded = [self._decode(int(index)) for index in indices]
        starts = np.array([index for index, _ in decoded], np.int64)
        files = np.searchsorted(self._ends, starts, side="right")
        return {
            "pixels": np.stack([pixels for _, pixels in decoded]),
            "aspect": np.array([self.files[file].aspect for file in files], np.float32),
            "episode": files,
            "start": starts,
        }

    def _decode(self, index: int) -> tuple[int, NDArray[np.uint8]]:
        """The number and frames of a clip, or of the first replacement that can be decoded, spread over all files."""
        for _ in range(ATTEMPTS):
            number, start_s = self.locate(index)
            file = self.files[number]
            try:
                return index, decode_at_times(file, start_s + self.clip.times_s, self.size_hw, self.view)
            except VideoError as error:
                if file.path not in self.broken:
                    self.broken[file.path] = str(error)
                    self.warn(f"{error}; other clips replace its clips ({len(self.broken)} broken so far)")
                index = (index + 1 + len(self) // ATTEMPTS) % len(self)
        raise VideoError(f"{ATTEMPTS} clips in a row cannot be decoded, the last of {file.path}")

    def read_stretches(self, most: int, frames: int) -> Iterator[NDArray[np.uint8]]:
        """The beginnings [T,h,w,3] of at most `most` files, spread over all, with at most `frames` frames each.

        Frames are as far apart as in clips. Files that cannot be decoded are left out.
        """
        spread = np.unique(np.linspace(0, len(self.files) - 1, min(most, len(self.files))).astype(int))
        for file in (self.files[number] for number in spread):
            count = min(frames, int(file.length_s * self.clip.fps + TOLERANCE_S) + 1)
            try:
                yield decode_at_times(file, np.arange(count) / self.clip.fps, self.size_hw, self.view)
            except VideoError as error:
                self.broken.setdefault(file.path, str(error))
