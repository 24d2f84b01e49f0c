"""Video files through PyAV: what one holds, and the pictures at given times or of given numbers.

Time is what the file's time stamps say, never a frame number over a nominal rate: frames may come at any rate, and
irregularly. A file that cannot be read is a VideoError with the file's name and the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from numpy.typing import NDArray

Pictures = NDArray[np.uint8]
View = Literal["whole", "centre"]
SUFFIXES = (".mp4", ".webm", ".gif", ".mkv", ".mov", ".avi")
NO_SEEKING = ("gif",)  # formats whose frames build on all earlier ones
ALL_CORES = 0
SAME_S = 1e-6  # times nearer than this are one


class VideoError(ValueError):
    """A video, or a folder of them, cannot serve what was asked; the message is one sentence for the user."""


@dataclass(frozen=True)
class VideoFile:
    """What a readable file holds. start_s: its first frame's time stamp; length_s: from there to the last frame's;
    aspect: width over height of a picture as it is shown."""

    path: Path
    start_s: float
    length_s: float
    frames: int
    aspect: float

    @property
    def rate(self) -> float:
        """Frames a second, on average; infinite for a single one."""
        return (self.frames - 1) / self.length_s if self.length_s else float("inf")


def find_videos(folder: Path) -> list[Path]:
    """Video files in a folder and all below it, by name; hidden ones left out. VideoError where there is none."""
    if not folder.is_dir():
        raise VideoError(f"path={folder} is no folder: give the folder that holds the videos")
    found = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]
    if not found:
        raise VideoError(f"there is no video in {folder} (looked for {', '.join(SUFFIXES)}): give path=FOLDER")
    return found


def inspect_video(path: Path) -> VideoFile:
    """Read all time stamps and decode the first frame. VideoError unless it is a whole video file."""
    with open_video(path) as (container, stream):
        packets = [packet for packet in container.demux(stream) if packet.pts is not None]
        stamps = [packet.pts for packet in packets if not packet.is_discard]
        if not stamps:
            raise VideoError(f"{path} holds no frame with a time stamp")
        if "mp4" in container.format.name and len(packets) < stream.frames:
            raise VideoError(f"{path} is cut short: {len(packets)} of its {stream.frames} frames are there")
        base = float(stream.time_base)
    with open_video(path) as (container, stream):
        frame = next(container.decode(stream), None)
        if frame is None:
            raise VideoError(f"{path} holds no frame that can be decoded")
        height, width = upright_hw(frame)
    return VideoFile(path, min(stamps) * base, (max(stamps) - min(stamps)) * base, len(stamps), width / height)


def decode_at_times(
    file: VideoFile, times_s: Sequence[float] | NDArray[np.float64], size_hw: tuple[int, int], view: View
) -> Pictures:
    """Pictures [T, h, w, 3]: for every time since the first frame, ascending, the frame whose time stamp is nearest.

    view: `whole` squeezes all of a picture into the size; `centre` takes its largest middle part of that shape.
    """
    wanted = [file.start_s + time for time in times_s]
    for seek in (True, False):  # without, where a file's index leads past the first time
        with open_video(file.path) as (container, stream):
            if seek and container.format.name not in NO_SEEKING:
                container.seek(int(wanted[0] / stream.time_base), stream=stream, backward=True, any_frame=False)
            frames = _timed(container, stream)
            first = next(frames, None)
            if first is not None and (first[0] <= wanted[0] + SAME_S or not seek):
                return np.stack(
                    [convert_frame(frame, size_hw, view) for frame in _select_nearest(first, frames, wanted)]
                )
    raise VideoError(f"{file.path} holds no frame that can be decoded")


def decode_by_number(path: Path, numbers: Sequence[int], size_hw: tuple[int, int], view: View) -> Pictures:
    """Pictures [T, h, w, 3] of frames by their number from 0, ascending, whatever their time stamps say."""
    wanted, found = set(numbers), []
    with open_video(path, threads=ALL_CORES) as (container, stream):
        for number, frame in enumerate(container.decode(stream)):
            if number in wanted:
                found.append(convert_frame(frame, size_hw, view))
            if number == max(wanted):
                break
    if len(found) < len(wanted):
        raise VideoError(f"{path} ends before frame {max(wanted)}, which its trajectory asks for")
    return np.stack(found)


def count_frames(path: Path) -> int:
    """Frames of a file, counted without decoding them."""
    with open_video(path) as (container, stream):
        return sum(packet.pts is not None and not packet.is_discard for packet in container.demux(stream))


def convert_frame(frame: av.VideoFrame, size_hw: tuple[int, int], view: View) -> Pictures:
    """One picture [h, w, 3], upright."""
    turns = round(frame.rotation / 90) % 4
    height, width = upright_hw(frame)
    wanted_h, wanted_w = size_hw
    if view == "centre":
        scale = max(wanted_h / height, wanted_w / width)
        wanted_h, wanted_w = max(wanted_h, round(height * scale)), max(wanted_w, round(width * scale))
    across = (wanted_h, wanted_w) if turns % 2 else (wanted_w, wanted_h)
    made = frame.reformat(width=across[0], height=across[1], format="rgb24").to_ndarray()
    made = np.rot90(made, turns)
    top, left = (wanted_h - size_hw[0]) // 2, (wanted_w - size_hw[1]) // 2
    return np.ascontiguousarray(made[top : top + size_hw[0], left : left + size_hw[1]])


@contextmanager
def open_video(path: Path, threads: int = 1) -> Iterator[tuple[Any, Any]]:
    """The container and its first video stream; whatever PyAV raises becomes a VideoError that names the file."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise VideoError(f"{path} holds no video")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            stream.codec_context.thread_count = threads
            yield container, stream
    except av.FFmpegError as error:
        raise VideoError(f"{path} cannot be read as a video ({error.strerror})") from error


def upright_hw(frame: av.VideoFrame) -> tuple[int, int]:
    """Height and width of a frame once it stands upright."""
    turned = round(frame.rotation / 90) % 2
    return (frame.width, frame.height) if turned else (frame.height, frame.width)


def _timed(container: Any, stream: Any) -> Iterator[tuple[float, av.VideoFrame]]:
    """Frames in the order they are shown, each with its time stamp."""
    for frame in container.decode(stream):
        if frame.time is not None:
            yield frame.time, frame


def _select_nearest(
    first: tuple[float, av.VideoFrame], rest: Iterator[tuple[float, av.VideoFrame]], wanted_s: Sequence[float]
) -> list[av.VideoFrame]:
    """For every wanted time, ascending, the frame nearest to it; of two equally near ones the earlier."""
    before, after = first, next(rest, None)
    chosen = []
    for time in wanted_s:
        while after is not None and after[0] - time < time - before[0] - SAME_S:
            before, after = after, next(rest, None)
        chosen.append(before[1])
    return chosen
