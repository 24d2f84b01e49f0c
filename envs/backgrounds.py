"""Backgrounds: pictures in place of floor and sky, as functions of time, drawn from waves or read from videos.

Waves are `noise` (coloured clouds that drift), `leaves` (blots of two colours that sway in a wind) and `shadows`
(patches that darken all that is seen). A folder of videos holds video files, or folders of pictures as DAVIS 2017 has
them (`DAVIS/JPEGImages/480p`). Imports no simulator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

Picture = NDArray[np.uint8]

VIDEO_SUFFIXES = (".mp4", ".webm", ".gif", ".mkv", ".mov", ".avi")
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")
_MOST_FRAMES = 500  # of a video that are played
_MOST_BYTES = 512 * 2**20  # of decoded videos that are kept in memory
_WAVES = 32
_DEPTH = 0.6  # of the darkest shadow


class Background(Protocol):
    """What is seen behind a scene; `lies_on_scene`: its brightness multiplies the whole image instead."""

    lies_on_scene: bool

    def draw(self, time_s: float) -> Picture:
        """The picture uint8 `[H, W, 3]` of a time; a brightness is `[H, W, 1]`, where 255 changes nothing."""


class Waves:
    """Smooth fields `[C, H, W]` of mean 0 and deviation 1 that drift and change slowly."""

    def __init__(self, rng: np.random.Generator, channels: int, size_px: int, cycles: tuple[float, float]) -> None:
        """`cycles`: the fewest and the most waves from one side of the picture to the other."""
        count = np.exp(rng.uniform(np.log(cycles[0]), np.log(cycles[1]), _WAVES))
        heading = rng.uniform(0, 2 * np.pi, _WAVES)
        across, along = count * np.cos(heading), count * np.sin(heading)
        wind, speed = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.3)  # picture heights a second
        drift = speed * (np.cos(wind) * across + np.sin(wind) * along)
        self._turns_per_s = drift + rng.normal(0, 0.15, _WAVES)
        self._phases = rng.uniform(0, 2 * np.pi, (channels, _WAVES))
        strength = rng.standard_normal((channels, _WAVES)) / count
        self._strength = strength / np.sqrt((strength**2).sum(1, keepdims=True) / 2)
        place = (np.arange(size_px) + 0.5) / size_px
        # A wave over a picture is the product of one along its rows and one along its columns.
        self._rows = np.exp(2j * np.pi * place[:, None] * along).astype(np.complex64)  # [H, waves]
        columns = np.exp(2j * np.pi * across[:, None] * place)  # [waves, W]
        self._columns = np.concatenate([columns.real, -columns.imag]).astype(np.float32)

    def compute_fields(self, time_s: float) -> NDArray[np.float32]:
        """The fields `[C, H, W]` at a time."""
        turns = (self._phases + 2 * np.pi * self._turns_per_s * time_s) % (2 * np.pi)
        rows = self._rows * (self._strength * np.exp(1j * turns)).astype(np.complex64)[:, None]
        both = np.concatenate([rows.real, rows.imag], axis=-1)
        channels, height, parts = both.shape
        return (both.reshape(-1, parts) @ self._columns).reshape(channels, height, -1)


class Noise:
    """Coloured clouds."""

    lies_on_scene = False

    def __init__(self, rng: np.random.Generator, size_px: int) -> None:
        self._waves = Waves(rng, 3, size_px, (0.7, 8.0))
        self._colour = rng.uniform(0.3, 0.7, (3, 1, 1)).astype(np.float32)

    def draw(self, time_s: float) -> Picture:
        """The clouds at a time."""
        return _to_picture(self._colour + np.float32(0.25) * self._waves.compute_fields(time_s))


class Leaves:
    """Leaves before the ground: blots of several sizes with sharp edges, lighter and darker."""

    lies_on_scene = False

    def __init__(self, rng: np.random.Generator, size_px: int) -> None:
        self._waves = Waves(rng, 2, size_px, (2.0, 14.0))
        leaf = [rng.uniform(0.15, 0.75), rng.uniform(0.4, 0.8), rng.uniform(0.05, 0.3)]  # green to autumn
        ground = rng.uniform(0.1, 0.4) * np.array([1.0, rng.uniform(0.7, 1.0), rng.uniform(0.4, 0.8)])
        self._ground, self._leaf = (np.array(tone, np.float32)[:, None, None] for tone in (ground, leaf))

    def draw(self, time_s: float) -> Picture:
        """The leaves at a time."""
        shape, shade = self._waves.compute_fields(time_s)
        return _to_picture(np.where(shape > 0, self._leaf, self._ground) * (1 + np.float32(0.25) * shade))


class Shadows:
    """Soft shadows that pass over all that is seen."""

    lies_on_scene = True

    def __init__(self, rng: np.random.Generator, size_px: int) -> None:
        self._waves = Waves(rng, 1, size_px, (0.7, 4.0))

    def draw(self, time_s: float) -> Picture:
        """The brightness at a time."""
        edge = np.clip(0.5 + self._waves.compute_fields(time_s), 0, 1)
        return _to_picture(1 - np.float32(_DEPTH) * edge)


PROCEDURAL: dict[str, Callable[[np.random.Generator, int], Background]] = {
    "noise": Noise,
    "leaves": Leaves,
    "shadows": Shadows,
}


class Video:
    """Frames that are played back and forth from one of them."""

    lies_on_scene = False

    def __init__(self, load: Callable[[], Picture], start: float, forwards: bool, frame_s: float) -> None:
        """`load` gives the frames `[T, H, W, 3]`; `start`: place of the first one shown, from 0 to 1 of the length."""
        self._load, self._start, self._frame_s = load, start, frame_s
        self._direction = 1 if forwards else -1

    def draw(self, time_s: float) -> Picture:
        """The frame of a time."""
        frames = self._load()
        last = len(frames) - 1
        first = min(int(self._start * len(frames)), last)
        place = (first + self._direction * count_steps(time_s, self._frame_s)) % max(2 * last, 1)
        return np.asarray(frames[min(place, 2 * last - place) if last else 0])


class VideoFolder:
    """The videos of a folder by name: the first two thirds for training, the others held out for evaluation."""

    def __init__(self, folder: str, size_px: int) -> None:
        """Raises `ValueError` for a folder that is missing, or that does not hold at least two videos."""
        self._size_px, self._kept = size_px, dict[str, Picture]()
        path = Path(folder).expanduser()
        if not path.is_dir():
            raise ValueError(f"distraction.video_folder={folder} is no folder: give the folder that holds the videos")
        self._paths = sorted((entry for entry in path.iterdir() if _is_video(entry)), key=lambda entry: entry.name)
        if len(self._paths) < 2:
            found = "one video" if self._paths else "no video"
            raise ValueError(
                f"distraction.video_folder={folder} holds {found} ({', '.join(VIDEO_SUFFIXES)}, or folders of "
                f"{', '.join(PICTURE_SUFFIXES)}): give a folder with two or more, some for training and the others "
                "for evaluation"
            )
        held_out = max(1, len(self._paths) // 3)
        self.training = tuple(entry.name for entry in self._paths[:-held_out])
        self.held_out = tuple(entry.name for entry in self._paths[-held_out:])

    def load(self, name: str) -> Picture:
        """The frames `[T, H, W, 3]` of a video, at most the first 500; ValueError for one that cannot be read."""
        if name not in self._kept:
            path = next(entry for entry in self._paths if entry.name == name)
            frames = [_fit(image, self._size_px) for image in _read_images(path)]
            if not frames:
                raise ValueError(f"distraction.video_folder: {path} holds no picture that can be read")
            self._kept[name] = np.stack(frames)
            while len(self._kept) > 1 and sum(video.nbytes for video in self._kept.values()) > _MOST_BYTES:
                del self._kept[next(iter(self._kept))]
        return self._kept[name]


def count_steps(time_s: float, step_s: float) -> int:
    """Whole steps since time 0; a step that is a rounding error away counts."""
    return max(0, int(time_s / step_s + 1e-6))


def _to_picture(values: NDArray[np.float32]) -> Picture:
    """Values `[C, H, W]`, where 1 is full, as a picture `[H, W, C]`."""
    return (np.clip(values, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8).transpose(1, 2, 0)


def _is_video(path: Path) -> bool:
    if path.name.startswith("."):
        return False
    return path.suffix.lower() in VIDEO_SUFFIXES if path.is_file() else bool(_list_pictures(path))


def _list_pictures(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.suffix.lower() in PICTURE_SUFFIXES)


def _read_images(path: Path) -> Iterator[Image.Image]:
    """The first frames of a video file, or the pictures of a folder; ValueError where they cannot be read."""
    if path.is_dir():
        for picture in _list_pictures(path)[:_MOST_FRAMES]:
            try:
                with Image.open(picture) as image:
                    yield image.convert("RGB")
            except OSError as error:
                raise ValueError(f"distraction.video_folder: {picture} cannot be read as a picture") from error
        return
    import av  # takes a while, and only videos need it

    try:
        with av.open(str(path)) as container:
            for number, frame in enumerate(container.decode(video=0)):
                if number == _MOST_FRAMES:
                    return
                yield frame.to_image().rotate(frame.rotation, expand=True)
    except (av.FFmpegError, IndexError) as error:
        raise ValueError(f"distraction.video_folder: {path} cannot be read as a video") from error


def _fit(image: Image.Image, size_px: int) -> Picture:
    """The largest square in the middle of an image, at the size wanted, uint8 `[H, W, 3]`."""
    return np.asarray(ImageOps.fit(image, (size_px, size_px), Image.Resampling.BILINEAR), np.uint8)
