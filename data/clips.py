"""Plain video as training clips: the files of a folder, checked and parted, and all clips that lie in them.

A clip is T pictures a fixed time apart (1 / fps seconds), by the files' time stamps, so files of any rate give clips of
one rate. `VideoClips` has the interface of `data.windows.Windows`, and what it reads is a function of the clip's number
alone: batch k is that of (seed, k), however often a run is stopped.
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

from data.video import SAME_S, VideoError, VideoFile, View, decode_at_times, find_videos, inspect_video

STARTS_PER_FRAME = 4  # clips may start so many times between two pictures of a clip
ATTEMPTS = 8  # clips tried, one after another, where one cannot be decoded
Progress = Callable[[int, int], None]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class ClipConfig:
    """Frames of a clip and how many of them make a second."""

    frames: int
    fps: float

    def __post_init__(self) -> None:
        if self.frames < 1 or not self.fps > 0:
            raise VideoError(f"objective.frames={self.frames} video.fps={self.fps}: give one frame and a rate above 0")

    @property
    def times_s(self) -> NDArray[np.float64]:
        """When its pictures are taken [T], from the first on."""
        return np.arange(self.frames) / self.fps

    @property
    def length_s(self) -> float:
        """From its first picture to its last."""
        return float(self.times_s[-1])


@dataclass(frozen=True)
class VideoFolder:
    """The usable files of a folder, parted by the hash of their names, and what was left out of it and why."""

    train: tuple[VideoFile, ...]
    val: tuple[VideoFile, ...]
    broken: tuple[str, ...]
    short: tuple[VideoFile, ...]

    @property
    def files(self) -> tuple[VideoFile, ...]:
        """All usable files."""
        return (*self.train, *(file for file in self.val if file not in self.train))

    @property
    def checksum(self) -> str:
        """Hex digest of the usable files' names, frames and lengths, without reading a picture."""
        facts = sorted((file.path.name, file.frames, round(file.length_s, 6)) for file in self.files)
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def open_folder(
    folder: Path, clip: ClipConfig, val_share: float, workers: int = 1, progress: Progress | None = None
) -> VideoFolder:
    """Check every video of a folder. VideoError where there is none, all are broken, or all are too short."""
    paths = find_videos(folder)
    readable, broken = [], []
    with ThreadPoolExecutor(max(1, workers), thread_name_prefix="probe") as pool:
        for number, found in enumerate(pool.map(_try_inspect, paths), 1):
            if isinstance(found, VideoFile):
                readable.append(found)
            else:
                broken.append(str(found))
            if progress is not None:
                progress(number, len(paths))
    if not readable:
        raise VideoError(f"none of the {len(paths)} videos in {folder} can be read: {broken[0]}")
    long = [file for file in readable if file.length_s >= clip.length_s - SAME_S]
    if not long:
        longest = max(file.length_s for file in readable)
        raise VideoError(
            f"clips of objective.frames={clip.frames} at video.fps={clip.fps:g} need videos of {clip.length_s:.2f} s, "
            f"and the longest in {folder} has {longest:.2f} s: ask for fewer frames or a higher rate"
        )
    train, val = _split_files(long, folder, val_share)
    return VideoFolder(train, val, tuple(broken), tuple(file for file in readable if file not in long))


def _try_inspect(path: Path) -> VideoFile | VideoError:
    try:
        return inspect_video(path)
    except VideoError as error:
        return error


def _split_files(
    files: Sequence[VideoFile], folder: Path, val_share: float
) -> tuple[tuple[VideoFile, ...], tuple[VideoFile, ...]]:
    """Train and val: a file's place hangs on the hash of its name alone. A file is moved where one part would be empty;
    a single file is in both."""
    place = {file: _hash_to_unit(file.path.relative_to(folder).as_posix()) for file in files}
    ordered = sorted(files, key=lambda file: place[file])
    count = sum(place[file] < val_share for file in files)
    count = min(max(count, 1), max(1, len(files) - 1))
    val = ordered[:count]
    train = [file for file in files if file not in val] or val
    return tuple(train), tuple(file for file in files if file in val)


def _hash_to_unit(name: str) -> float:
    """A number in [0, 1) that is a function of the name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big") / 2**48


class VideoClips:
    """All clips in some files, as an indexable collection; each file at least as long as a clip.

    size_hw, view: of the pictures (`data.video.pictures_at`). A clip that cannot be decoded is replaced by another,
    always the same, and its file is told of once and kept in `broken`.
    """

    def __init__(
        self,
        files: Sequence[VideoFile],
        clip: ClipConfig,
        size_hw: tuple[int, int],
        view: View = "whole",
        tell: Tell = lambda sentence: None,
    ) -> None:
        self.files, self.clip, self.size_hw, self.view, self.tell = tuple(files), clip, size_hw, view, tell
        self.broken: dict[Path, str] = {}
        room_s = np.array([max(0.0, file.length_s - clip.length_s) for file in files])
        counts = np.floor(room_s * clip.fps * STARTS_PER_FRAME + SAME_S).astype(np.int64) + 1
        self._ends = np.cumsum(counts)
        self._begins = self._ends - counts

    def __len__(self) -> int:
        """Number of clips."""
        return int(self._ends[-1])

    def locate(self, index: int) -> tuple[int, float]:
        """Number of a clip's file, and when in it the clip starts, seconds."""
        if not 0 <= index < len(self):
            raise IndexError(f"clip {index} was asked for, there are {len(self)}")
        file = int(np.searchsorted(self._ends, index, side="right"))
        return file, float(index - self._begins[file]) / (self.clip.fps * STARTS_PER_FRAME)

    def gather(self, indices: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Clips [B]: `pixels` [B,T,h,w,3] uint8, `aspect` [B] of the pictures they were cut from; `episode` and
        `start` [B] say where each came from: file, and number of the clip."""
        found = [self._decoded(int(index)) for index in indices]
        used = np.array([index for index, _ in found], np.int64)
        files = np.searchsorted(self._ends, used, side="right")
        return {
            "pixels": np.stack([pixels for _, pixels in found]),
            "aspect": np.array([self.files[file].aspect for file in files], np.float32),
            "episode": files,
            "start": used,
        }

    def _decoded(self, index: int) -> tuple[int, NDArray[np.uint8]]:
        """A clip's pictures, or those of the next ones tried, spread over all files; and its number."""
        for _ in range(ATTEMPTS):
            file, start_s = self.locate(index)
            try:
                return index, decode_at_times(self.files[file], start_s + self.clip.times_s, self.size_hw, self.view)
            except VideoError as error:
                if self.files[file].path not in self.broken:
                    self.broken[self.files[file].path] = str(error)
                    self.tell(f"{error}; other clips take its place ({len(self.broken)} broken so far)")
                index = (index + 1 + len(self) // ATTEMPTS) % len(self)
        raise VideoError(f"{ATTEMPTS} clips in a row cannot be decoded, the last of {self.files[file].path}")

    def read_stretches(self, most: int, frames: int) -> Iterator[NDArray[np.uint8]]:
        """The beginnings of files, clip pictures in a row: [T,h,w,3] of at most `most` files spread over all, and
        at most `frames` pictures each. Files that break are passed over."""
        chosen = np.unique(np.linspace(0, len(self.files) - 1, min(most, len(self.files))).astype(int))
        for number in chosen:
            file = self.files[number]
            count = min(frames, int(file.length_s * self.clip.fps + SAME_S) + 1)
            try:
                yield decode_at_times(file, np.arange(count) / self.clip.fps, self.size_hw, self.view)
            except VideoError as error:
                self.broken.setdefault(file.path, str(error))
