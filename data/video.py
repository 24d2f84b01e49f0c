"""Video files through PyAV: their facts, and their frames at given times or of given numbers.

Times come from the file's time stamps, never from a frame number over a nominal rate, so frames may be unevenly spaced.
A file that cannot be read is a VideoError with the file's name and the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from data.pictures import Pictures, View, resize_pictures

SUFFIXES = (".mp4", ".webm", ".gif", ".mkv", ".mov", ".avi")
NO_SEEKING = ("gif",)  # formats whose frames build on all earlier ones
ALL_CORES = 0
TOLERANCE_S = 1e-6  # times nearer than this are equal


class VideoError(ValueError):
    """A video, or a folder of them, cannot be used; the message is one sentence for the user."""


@dataclass(frozen=True)
class VideoFile:
    """Facts of a readable file.

    start_s: time stamp of the first frame; length_s: from there to the last frame; frame_hw: height and width of the
    first frame, upright.
    """

    path: Path
    start_s: float
    length_s: float
    frames: int
    frame_hw: tuple[int, int]

    @property
    def aspect(self) -> float:
        """Width over height."""
        return self.frame_hw[1] / self.frame_hw[0]

    @property
    def rate(self) -> float:
        """Mean frames per second; infinite for a single frame."""
        return (self.frames - 1) / self.length_s if self.length_s else float("inf")


def find_videos(folder: Path) -> list[Path]:
    """Video files in a folder and below it, by name, without hidden ones. VideoError if there is none."""
    if not folder.is_dir():
        raise VideoError(f"path={folder} is no folder: give the folder that holds the videos")
    videos = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]
    if not videos:
        raise VideoError(f"there is no video in {folder} (looked for {', '.join(SUFFIXES)}): give path=FOLDER")
    return videos


def inspect_video(path: Path) -> VideoFile:
    """Reads all time stamps and decodes the first frame. VideoError if the file is damaged or incomplete."""
    with open_video(path) as (container, stream):
        packets = [packet for packet in container.demux(stream) if packet.pts is not None]
        stamps = [packet.pts for packet in packets if not packet.is_discard]
        if not stamps:
            raise VideoError(f"{path} holds no frame with a time stamp")
        if "mp4" in container.format.name and len(packets) < stream.frames:
            raise VideoError(f"{path} is cut short: {len(packets)} of its {stream.frames} frames are there")
        unit_s = float(stream.time_base)
    with open_video(path) as (container, stream):
        frame = next(container.decode(stream), None)
        if frame is None:
            raise VideoError(f"{path} holds no frame that can be decoded")
        frame_hw = upright_hw(frame)
    return VideoFile(path, min(stamps) * unit_s, (max(stamps) - min(stamps)) * unit_s, len(stamps), frame_hw)


def decode_at_times(
    file: VideoFile, times_s: Sequence[float] | NDArray[np.float64], size_hw: tuple[int, int], view: View
) -> Pictures:
    """For each time since the first frame, ascending, the frame with the nearest time stamp [T, h, w, 3].

    view: `whole` squeezes the frame into the size; `centre` takes the largest part of that shape in its middle.
    """
    wanted_s = [file.start_s + time for time in times_s]
    for seek in (True, False):  # decode from the start if the file's index points past the first time
        with open_video(file.path) as (container, stream):
            if seek and container.format.name not in NO_SEEKING:
                container.seek(int(wanted_s[0] / stream.time_base), stream=stream, backward=True, any_frame=False)
            frames = (frame for frame in container.decode(stream) if frame.time is not None)
            first = next(frames, None)
            if first is not None and (first.time <= wanted_s[0] + TOLERANCE_S or not seek):
                nearest = _select_nearest(first, frames, wanted_s)
                return np.stack([convert_frame(frame, size_hw, view) for frame in nearest])
    raise VideoError(f"{file.path} holds no frame that can be decoded")


def decode_by_number(path: Path, numbers: Sequence[int], size_hw: tuple[int, int], view: View) -> Pictures:
    """Frames [T, h, w, 3] by their number from 0, ascending, whatever their time stamps."""
    wanted, frames = set(numbers), []
    with open_video(path, threads=ALL_CORES) as (container, stream):
        for number, frame in enumerate(container.decode(stream)):
            if number in wanted:
                frames.append(convert_frame(frame, size_hw, view))
            if number == max(wanted):
                break
    if len(frames) < len(wanted):
        raise VideoError(f"{path} ends before frame {max(wanted)}, which its trajectory asks for")
    return np.stack(frames)


def count_frames(path: Path) -> int:
    """Frames of a file, counted without decoding them."""
    with open_video(path) as (container, stream):
        return sum(packet.pts is not None and not packet.is_discard for packet in container.demux(stream))


def convert_frame(frame: av.VideoFrame, size_hw: tuple[int, int], view: View) -> Pictures:
    """A decoded frame as an upright RGB picture [h, w, 3]."""
    picture = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    picture = np.rot90(picture, round(frame.rotation / 90) % 4)
    return resize_pictures(picture, size_hw, view)


@contextmanager
def open_video(path: Path, threads: int = 1) -> Iterator[tuple[Any, Any]]:
    """The container and its first video stream; an error of PyAV becomes a VideoError that names the file."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise VideoError(f"{path} holds no video")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise VideoError(f"{path} has a codec that cannot be decoded here: convert it, as to H.264")
            stream.thread_type = "AUTO"
            stream.codec_context.thread_count = threads
            yield container, stream
    except av.FFmpegError as error:
        raise VideoError(f"{path} cannot be read as a video ({error.strerror})") from error


def upright_hw(frame: av.VideoFrame) -> tuple[int, int]:
    """Height and width of a frame after its rotation."""
    return (frame.width, frame.height) if round(frame.rotation / 90) % 2 else (frame.height, frame.width)


def _select_nearest(first: Any, rest: Iterator[Any], wanted_s: Sequence[float]) -> list[Any]:
    """For each time, ascending, the frame nearest to it; of two equally near frames the earlier."""
    before, after = first, next(rest, None)
    nearest = []
    for time in wanted_s:
        while after is not None and after.time - time < time - before.time - TOLERANCE_S:
            before, after = after, next(rest, None)
        nearest.append(before)
    return nearest
