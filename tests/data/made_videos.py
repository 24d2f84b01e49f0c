"""Small videos for tests: pictures whose brightness says their number, at any time stamps."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

CODECS = {".mp4": ("libx264", "yuv420p"), ".webm": ("libvpx-vp9", "yuv420p"), ".gif": ("gif", "rgb8")}
LEVELS = 10  # brightness between one picture and the next


def made_video(path: Path, stamps_s: Sequence[float], size_hw: tuple[int, int] = (32, 48), rate: int = 30) -> Path:
    """Picture k is of brightness 20 + 10 k and has the time stamp stamps_s[k]."""
    codec, pixel_format = CODECS[path.suffix]
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = size_hw
        stream.pix_fmt = pixel_format
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        stream.codec_context.gop_size = 5
        for number, time_s in enumerate(stamps_s):
            picture = np.full((*size_hw, 3), 20 + LEVELS * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixel_format)
            frame.pts, frame.time_base = round(1000 * time_s), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def numbers_shown(pixels_THWC: np.ndarray) -> list[int]:
    """Which picture each frame shows, by its brightness."""
    return [round((float(frame.mean()) - 20) / LEVELS) for frame in pixels_THWC]
